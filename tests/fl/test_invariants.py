"""Any dialogue, however odd, leaves every round with a stated outcome and the lineage a line."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fl.rounds import next_deadline, open_tasks
from tests.fl.dialogue import (
    ABSTAINING,
    MODEL,
    TASK,
    address,
    aggregate,
    failing,
    opened,
    proof,
    verdict,
)
from tests.harness import Chain, Item
from vm.learning import (
    FAILURES_MAX,
    Round,
    RoundPhase,
    Task,
    TaskPhase,
    Update,
)
from vm.record import Model, ModelHead

OVER = (RoundPhase.CLOSED, RoundPhase.FAILED)
SAYINGS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    failing(),
    ABSTAINING,
)  # of verifiers: mostly they pass


def speeches(chain: Chain, draw: st.DataObject) -> list[Item]:
    """What members say in the phase of the newest round, at random, repeats and liars included."""
    task = chain.get(Task, TASK)
    rnd = chain.get(Round, TASK, task.round)
    numbers = draw.draw(st.lists(st.integers(1, 4), max_size=6))
    match rnd.phase:
        case RoundPhase.SUBMIT:
            base_version = rnd.base_version - draw.draw(st.sampled_from((0, 0, 0, 0, 0, -1)))
            return [proof(n, rnd.number, base_version=base_version) for n in numbers]
        case RoundPhase.VERDICT:
            there = [n for n in (1, 2, 3, 4) if submitted(chain, rnd.number, n)]
            changes = draw.draw(st.sampled_from(SAYINGS))
            judges = [*numbers, *numbers, 1, 2, 3, 4]
            return [verdict(chain, j, n, rnd.number, **changes) for j in judges for n in there]
        case RoundPhase.AGGREGATE:
            result = address(draw.draw(st.sampled_from(("honest", "honest", "forged"))))
            return [aggregate(chain, n, rnd.number, result=result) for n in numbers]
        case RoundPhase.REVEAL | RoundPhase.RERUN | RoundPhase.CLOSED | RoundPhase.FAILED:
            return []


def submitted(chain: Chain, number: int, site: int) -> bool:
    """Whether the site's update is in the round."""
    return chain.state.get(Update, TASK, number, f"hospital-{site}") is not None


def check(chain: Chain, rounds: Sequence[Round]) -> None:
    """What must hold after every block."""
    task = chain.get(Task, TASK)
    head = chain.get(ModelHead, MODEL)
    closed = [rnd for rnd in rounds if rnd.phase is RoundPhase.CLOSED]
    # every round before the newest is over; the newest is over if and only if the task is
    assert all(rnd.phase in OVER for rnd in rounds[:-1])
    is_open = task.phase is TaskPhase.OPEN
    assert (rounds[-1].phase not in OVER) == is_open
    assert open_tasks(chain.state).tasks == ((TASK,) if is_open else ())
    assert head.task == (TASK if is_open else None)
    # the deadline is in the future, so that it is due in a later block and never missed
    assert next_deadline(chain.state) == (rounds[-1].deadline_ms if is_open else None)
    assert not is_open or rounds[-1].deadline_ms > chain.time_ms
    # closed rounds and versions go together, one by one
    assert head.version == task.closed == len(closed) <= task.terms.rounds
    assert [rnd.model_version for rnd in closed] == list(range(1, head.version + 1))
    for rnd in closed:
        made = chain.get(Model, MODEL, rnd.base_version + 1)
        assert made.round == rnd.number
        assert len(made.contributions) >= task.terms.aggregation.updates_min
    # a round that is over says why, and what became of every site if anything was submitted
    assert all(rnd.code not in ("", "open") for rnd in rounds if rnd.phase in OVER)
    assert all(len(rnd.outcomes) == 4 for rnd in rounds if rnd.phase in OVER)
    assert task.failures <= FAILURES_MAX
    assert (task.phase is TaskPhase.FAILED) == (task.failures == FAILURES_MAX)


@settings(max_examples=25)  # each is a chain of 20 blocks
@given(st.data())
def test_invariants_hold_after_every_block(draw: st.DataObject) -> None:
    """Late, doubled, lying and missing members, and deadlines that pass at any moment."""
    chain = opened()

    for _ in range(20):
        task = chain.get(Task, TASK)
        deadline_ms = chain.get(Round, TASK, task.round).deadline_ms
        jump = task.phase is TaskPhase.OPEN and draw.draw(st.integers(0, 4)) == 0
        chain.block(speeches(chain, draw), time_ms=deadline_ms if jump else None)

        newest = chain.get(Task, TASK).round
        check(chain, [chain.get(Round, TASK, number) for number in range(1, newest + 1)])
