"""Any dialogue, however odd, leaves every round with a stated outcome and the lineage a line."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fl.body import DecideModel
from fl.reputation import reputation_of
from fl.rounds import next_deadline, open_tasks
from tests.fl.dialogue import (
    ABSTAINING,
    MODEL,
    NUMBERS,
    TASK,
    Said,
    address,
    aggregate,
    approval,
    attestation,
    closing,
    commit,
    decline,
    failing,
    judgements,
    opened,
    proof,
    rerun,
    revealing,
    sealing,
    visit,
    with_auditors,
    withdrawal,
)
from tests.harness import Chain, Item
from vm.conduct import AuditOutcome, MarkDecision
from vm.learning import (
    FAILURES_MAX,
    Decision,
    Round,
    RoundPhase,
    Task,
    TaskPhase,
    Verdict,
)
from vm.record import Model, ModelHead
from vm.terms import Evidence

OVER = (RoundPhase.CLOSED, RoundPhase.FAILED)
SAYINGS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    failing(),
    failing() | {"segment": 1},
    ABSTAINING,
)  # of verifiers: mostly they pass


def speeches(chain: Chain, draw: st.DataObject, kept: dict[int, Said]) -> list[Item]:
    """What members say in the phase of the newest round, at random, repeats and liars included.

    `kept` is what verifiers say of whom by round, from the block in which they first speak.
    """
    task = chain.get(Task, TASK)
    rnd = chain.get(Round, TASK, task.round)
    numbers = draw.draw(st.lists(st.integers(1, 4), max_size=6))
    if draw.draw(st.integers(0, 9)) == 0:
        numbers = []
    elif draw.draw(st.integers(0, 3)) > 0:
        numbers = [*numbers, *NUMBERS]
    match rnd.phase:
        case RoundPhase.SUBMIT:
            base_version = rnd.base_version - draw.draw(st.sampled_from((0, 0, 0, 0, 0, -1)))
            evidence = draw.draw(st.sampled_from((Evidence.COMMITTED, Evidence.REPLAYED)))
            early = [sealing(n, (), rnd.number) for n in numbers[:1]]
            declines = [decline(n, rnd.number) for n in numbers[:1]]
            proofs = [
                proof(n, rnd.number, base_version=base_version, evidence=evidence) for n in numbers
            ]
            commits = [commit(n, rnd.number) for n in numbers]
            minds = [
                say(n)
                for n in draw.draw(st.lists(st.sampled_from(NUMBERS), max_size=1))
                for say in (withdrawal, approval, withdrawal)[: draw.draw(st.integers(1, 3))]
            ]
            spoken = draw.draw(st.permutations([*early, *proofs, *declines[:1], *commits]))
            return [*minds, *spoken] if draw.draw(st.booleans()) else [*spoken, *minds]
        case RoundPhase.VERDICT | RoundPhase.REVEAL:
            if rnd.number not in kept:
                pairs = [(j, n) for j in NUMBERS for n in NUMBERS]
                kept[rnd.number] = {pair: draw.draw(st.sampled_from(SAYINGS)) for pair in pairs}
            found = {n: judgements(chain, n, rnd.number, kept[rnd.number]) for n in numbers}
            seals = [sealing(n, items, rnd.number) for n, items in found.items()]
            reveals = [revealing(n, items, rnd.number) for n, items in found.items()]
            return draw.draw(st.permutations([*seals, *reveals]))
        case RoundPhase.RERUN:
            return [
                rerun(chain, j, n, rnd.number, **draw.draw(st.sampled_from(SAYINGS_AGAIN)))
                for j in numbers
                for n in NUMBERS
                if has_judged(chain, rnd.number, j, n)
            ]
        case RoundPhase.AGGREGATE:
            result = address(draw.draw(st.sampled_from(("honest", "honest", "forged"))))
            return [aggregate(chain, n, rnd.number, result=result) for n in numbers]
        case RoundPhase.CLOSED | RoundPhase.FAILED:
            return []


SAYINGS_AGAIN: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"decision": Decision.FAIL, "segment": 1},
    {"decision": Decision.PASS},
)


def later_findings(chain: Chain, draw: st.DataObject) -> list[Item]:
    """Now and then an auditor attests, and a steward decides on what is marked."""
    if draw.draw(st.integers(0, 9)):
        return []
    auditor, number = draw.draw(st.sampled_from((1, 2))), draw.draw(st.sampled_from(NUMBERS))
    outcome = draw.draw(st.sampled_from(AuditOutcome))
    number_of_round = draw.draw(st.integers(1, 3))
    decided = DecideModel(MODEL, draw.draw(st.sampled_from(MarkDecision)), "looked into")
    return [
        *([visit(auditor, number, number_of_round)] if draw.draw(st.booleans()) else []),
        attestation(auditor, number, outcome, number_of_round),
        ("hospital-1.steward", "model.decide", decided),
        *([closing()] if draw.draw(st.integers(0, 9)) == 0 else []),
    ]


def has_judged(chain: Chain, number: int, judge: int, site: int) -> bool:
    """Whether the judge's verdict on the site's update is in the round."""
    names = f"hospital-{site}", f"hospital-{judge}"
    return chain.state.get(Verdict, TASK, number, *names) is not None


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
    # a round that is over says why, and what became of every site, unless it never opened
    marked = [rnd.number for rnd in rounds if rnd.code == "round.model_marked"]
    assert marked in ([], [task.round])
    assert all(rnd.code not in ("", "open") for rnd in rounds if rnd.phase in OVER)
    settled = [rnd for rnd in rounds if rnd.phase in OVER and rnd.number not in marked]
    assert all(len(rnd.outcomes) == 4 for rnd in settled)
    assert task.failures <= FAILURES_MAX
    failed = task.failures == FAILURES_MAX or bool(marked)
    assert (task.phase is TaskPhase.FAILED) == failed
    check_counts(rounds[-1], task)
    check_reputations(chain, rounds, task)


def check_counts(rnd: Round, task: Task) -> None:
    """Nobody is counted twice in a round, nor before those that must come first."""
    sites = len(task.terms.sites)
    assert rnd.updates + rnd.declined <= sites
    assert rnd.revealed <= rnd.sealed <= rnd.committed <= sites
    assert rnd.verdicts <= rnd.revealed * (sites - 1)
    assert rnd.reruns <= rnd.verdicts
    assert (rnd.seed is None) == (rnd.phase is RoundPhase.SUBMIT) or rnd.phase in OVER


def check_reputations(chain: Chain, rounds: Sequence[Round], task: Task) -> None:
    """They are the sums of what rounds say, and all closed rounds pay their share of the pool."""
    found = [reputation_of(chain.state, f"hospital-{number}") for number in NUMBERS]
    said = Counter(
        (outcome.organisation, outcome.status.value)
        for rnd in rounds
        if rnd.phase in OVER or rnd.phase is RoundPhase.AGGREGATE
        for outcome in rnd.outcomes
    )
    for one in found:
        for status in ("accepted", "rejected", "undecided", "absent", "declined"):
            assert getattr(one, status) == said[one.organisation, status]
        assert one.odd <= one.verdicts
        assert one.unrevealed <= one.silent
    paid = task.terms.pool * task.closed // task.terms.rounds
    assert sum(one.credits for one in found) == paid


@settings(max_examples=25)  # each is a chain of 30 blocks
@given(st.data())
def test_invariants_hold_after_every_block(draw: st.DataObject) -> None:
    """Late, doubled, lying and missing members, and deadlines that pass at any moment."""
    chain = with_auditors(opened(trace_retention_ms=10**10))
    kept: dict[int, Said] = {}

    for _ in range(30):
        task = chain.get(Task, TASK)
        deadline_ms = chain.get(Round, TASK, task.round).deadline_ms
        jump = task.phase is TaskPhase.OPEN and draw.draw(st.integers(0, 4)) == 0
        items = speeches(chain, draw, kept) + later_findings(chain, draw)
        chain.block(items, time_ms=deadline_ms if jump else None)

        newest = chain.get(Task, TASK).round
        check(chain, [chain.get(Round, TASK, number) for number in range(1, newest + 1)])
