"""Whole lives of a task, read as dialogues: who says what, in which block, and what comes of it."""

from typing import Any

import pytest

from fl.rounds import accepted_updates, next_deadline, open_tasks
from fl.settle import accepted_digest
from tests.fl.dialogue import (
    ABSTAINING,
    AGGREGATE_MS,
    MODEL,
    NUMBERS,
    SUBMIT_MS,
    TASK,
    VERDICT_MS,
    address,
    aggregate,
    closing,
    commits,
    failing,
    judgements,
    model,
    opened,
    opening,
    proof,
    revealing,
    sealing,
    settled,
    speak,
    submitted,
)
from tests.fl.terms import by
from tests.harness import BLOCK_MS, START_MS, Chain, organisation
from vm.learning import (
    FAILURES_MAX,
    Outcome,
    Round,
    RoundPhase,
    Task,
    TaskPhase,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.record import Contribution, Model, ModelHead
from vm.terms import Rule


def round_of(chain: Chain, number: int = 1) -> Round:
    """The record of one of the task's rounds."""
    return chain.get(Round, TASK, number)


def outcomes(chain: Chain, number: int = 1) -> dict[str, tuple[str, str]]:
    """Status and code by organisation."""
    found: tuple[Outcome, ...] = round_of(chain, number).outcomes
    return {outcome.organisation: (outcome.status.value, outcome.code) for outcome in found}


def judged(chain: Chain, changes: dict[int, list[dict[str, Any]]]) -> None:
    """Every update gets its three verdicts, changed where `changes` says so."""
    said = {
        (judge, number): change
        for number, found in changes.items()
        for judge, change in zip((n for n in NUMBERS if n != number), found, strict=True)
    }
    speak(chain, said)


def test_task_lives_through_two_rounds() -> None:
    """Two closed rounds make two model versions, complete the task and free the model."""
    chain = opened()
    first = round_of(chain)
    assert (first.phase, first.base_version, first.code) == (RoundPhase.SUBMIT, 0, "open")
    assert first.deadline_ms == chain.time_ms + SUBMIT_MS

    submitted(chain)
    assert round_of(chain).phase is RoundPhase.VERDICT
    assert round_of(chain).deadline_ms == chain.time_ms + VERDICT_MS
    settled(chain)
    assert round_of(chain).phase is RoundPhase.AGGREGATE
    assert round_of(chain).deadline_ms == chain.time_ms + AGGREGATE_MS
    chain.applied([aggregate(chain, 1), aggregate(chain, 2)])
    assert round_of(chain).phase is RoundPhase.AGGREGATE
    chain.applied([aggregate(chain, 3)])

    closed = round_of(chain)
    assert (closed.phase, closed.code, closed.model_version) == (RoundPhase.CLOSED, "closed", 1)
    second = round_of(chain, 2)
    assert (second.phase, second.base_version) == (RoundPhase.SUBMIT, 1)
    assert second.beacon != closed.beacon
    made = chain.get(Model, MODEL, 1)
    assert (made.task, made.round, made.weights) == (TASK, 1, address("model 1"))
    assert made.contributions == tuple(
        Contribution(organisation(n), f"{organisation(n)}.trainer", f"opt-{n}", weight)
        for n, weight in ((1, 200), (2, 150), (3, 100), (4, 50))
    )
    assert chain.get(ModelHead, MODEL) == ModelHead(MODEL, 1, TASK)

    submitted(chain, 2, base_version=1)
    settled(chain, 2)
    accepted = accepted_updates(chain.state, chain.get(Task, TASK), round_of(chain, 2))
    assert [update.organisation for update, _ in accepted] == [organisation(n) for n in range(1, 5)]
    assert round_of(chain, 2).accepted == accepted_digest(TASK, 2, accepted)
    chain.applied([aggregate(chain, n, 2) for n in (2, 3, 4)])

    task = chain.get(Task, TASK)
    assert (task.phase, task.round, task.closed) == (TaskPhase.COMPLETED, 2, 2)
    assert chain.get(ModelHead, MODEL) == ModelHead(MODEL, 2, None)
    assert open_tasks(chain.state).tasks == ()
    assert next_deadline(chain.state) is None


def test_poisoned_update_is_rejected_by_majority() -> None:
    """Two of three eligible verifiers fail it: the others are aggregated, the reason is kept."""
    chain = submitted(opened())

    judged(
        chain, {4: [failing("norm.bound", "norm 9 times the median"), {}, failing("norm.bound")]}
    )
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])

    assert outcomes(chain)["hospital-4"] == ("rejected", "norm.bound")
    assert round_of(chain).outcomes[3].reason == "norm 9 times the median"
    assert chain.get(Update, TASK, 1, "hospital-4").status is UpdateStatus.REJECTED
    contributors = [item.organisation for item in chain.get(Model, MODEL, 1).contributions]
    assert contributors == ["hospital-1", "hospital-2", "hospital-3"]


def test_one_lying_verifier_changes_nothing() -> None:
    """A verifier that fails every honest update is outvoted on each of them."""
    chain = submitted(opened())
    liar = {n: [failing() if j == 4 else {} for j in (1, 2, 3, 4) if j != n] for n in (1, 2, 3)}

    judged(chain, liar)

    assert {status for status, _ in outcomes(chain).values()} == {"accepted"}


def test_split_verdicts_leave_an_update_undecided() -> None:
    """One pass, one fail, one abstention of three decide nothing, and nobody is blamed."""
    chain = submitted(opened())

    judged(chain, {2: [{}, failing(), ABSTAINING]})

    assert outcomes(chain)["hospital-2"] == ("undecided", "update.undecided")
    assert round_of(chain).outcomes[1].reason == (
        "of 3 verifiers 1 passed it, 1 failed it, 1 abstained and 0 were silent"
    )
    assert chain.get(Update, TASK, 1, "hospital-2").status is UpdateStatus.UNDECIDED
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    assert len(chain.get(Model, MODEL, 1).contributions) == 3


def test_round_score_is_the_lower_median_of_lower_medians() -> None:
    """Scores of accepted updates only; failing verdicts' and rejected updates' do not count."""
    chain = submitted(opened())
    scores = {1: (300, 100, 200), 2: (500, 500, 500), 3: (900, 400, 400)}
    changes = {n: [{"score_bp": bp} for bp in values] for n, values in scores.items()}

    judged(chain, changes | {4: [failing(), failing(), {"score_bp": 0}]})

    assert round_of(chain).score_bp == 400  # of 200, 500, 400


def test_absent_site_is_passed_over_at_the_deadline() -> None:
    """At the submission deadline three updates of four are enough; the fourth is absent."""
    chain = opened()
    deadline_ms = round_of(chain).deadline_ms
    chain.applied([*(proof(n) for n in (1, 2, 3)), *commits()], time_ms=deadline_ms - 1)
    assert round_of(chain).phase is RoundPhase.SUBMIT

    late = chain.refused(proof(4), time_ms=deadline_ms)

    assert late == "round.phase"
    assert round_of(chain).phase is RoundPhase.VERDICT
    speak(chain)
    assert outcomes(chain)["hospital-4"] == ("absent", "update.absent")
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    assert round_of(chain).phase is RoundPhase.CLOSED


def test_silent_verifier_is_passed_over_at_the_deadline() -> None:
    """Seals end at the deadline with what came; silence counts neither way."""
    chain = submitted(opened())
    found = {judge: judgements(chain, judge) for judge in (1, 2, 3)}
    chain.applied([sealing(judge, items) for judge, items in found.items()])
    assert round_of(chain).phase is RoundPhase.VERDICT

    chain.applied(time_ms=round_of(chain).deadline_ms)
    chain.applied([revealing(judge, items) for judge, items in found.items()])

    # hospital-4's update was passed by three, each other by two of three
    assert {status for status, _ in outcomes(chain).values()} == {"accepted"}
    assert round_of(chain).phase is RoundPhase.AGGREGATE


def test_too_few_updates_fail_the_round_and_open_another() -> None:
    """Two updates where three are needed: a stated failure, and a new round on the same base."""
    chain = opened()
    chain.applied([proof(1), proof(2)])

    chain.applied(time_ms=round_of(chain).deadline_ms)

    failed = round_of(chain)
    assert (failed.phase, failed.code) == (RoundPhase.FAILED, "round.too_few_updates")
    assert failed.reason == "expected 3 updates, found 2"
    assert outcomes(chain) == {
        "hospital-1": ("undecided", "update.unjudged"),
        "hospital-2": ("undecided", "update.unjudged"),
        "hospital-3": ("absent", "update.absent"),
        "hospital-4": ("absent", "update.absent"),
    }
    assert chain.get(Update, TASK, 1, "hospital-1").status is UpdateStatus.UNDECIDED
    assert chain.get(Task, TASK).failures == 1
    again = round_of(chain, 2)
    assert (again.phase, again.base_version) == (RoundPhase.SUBMIT, 0)
    assert again.beacon != failed.beacon


def test_too_few_accepted_fail_the_round() -> None:
    """Two of four updates rejected leave two accepted, one fewer than the task needs."""
    chain = submitted(opened())

    judged(chain, {3: [failing()] * 3, 4: [failing()] * 3})

    failed = round_of(chain)
    assert (failed.phase, failed.code) == (RoundPhase.FAILED, "round.too_few_accepted")
    assert failed.accepted is None
    assert [status for status, _ in outcomes(chain).values()] == [
        *("accepted", "accepted", "rejected", "rejected")
    ]
    assert round_of(chain, 2).phase is RoundPhase.SUBMIT


def test_failures_in_a_row_end_the_task() -> None:
    """The third failure in a row fails the task and frees the model, whose versions stand."""
    chain = opened()
    for number in range(1, FAILURES_MAX + 1):
        assert chain.get(Task, TASK).phase is TaskPhase.OPEN
        chain.applied(time_ms=round_of(chain, number).deadline_ms)

    task = chain.get(Task, TASK)
    assert (task.phase, task.failures, task.closed) == (TaskPhase.FAILED, FAILURES_MAX, 0)
    assert chain.state.get(Round, TASK, FAILURES_MAX + 1) is None
    assert chain.get(ModelHead, MODEL) == ModelHead(MODEL, 0, None)
    assert next_deadline(chain.state) is None


def test_closed_round_forgives_failures_before() -> None:
    """Only failures in a row count: a round that closes sets the count to zero."""
    chain = opened()
    for number in (1, 2):
        chain.applied(time_ms=round_of(chain, number).deadline_ms)
    assert chain.get(Task, TASK).failures == 2

    submitted(chain, 3)
    settled(chain, 3)
    chain.applied([aggregate(chain, n, 3) for n in (1, 2, 3)])

    task = chain.get(Task, TASK)
    assert (task.failures, task.closed, task.round) == (0, 1, 4)


def test_completed_task_leaves_the_model_to_the_next() -> None:
    """A second task starts from the version that the first one ended with."""
    chain = settled(submitted(opened(rounds=1)))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])

    chain.applied([opening("preterm-2")])

    assert chain.get(Task, "preterm-2").base_version == 1
    assert chain.get(Round, "preterm-2", 1).base_version == 1
    assert chain.get(ModelHead, MODEL).task == "preterm-2"


def test_dishonest_aggregate_is_outvoted() -> None:
    """One validator's other result is on record and does not become the model."""
    chain = settled(submitted(opened()))

    chain.applied([aggregate(chain, 1, result=address("forged"))])
    chain.applied([aggregate(chain, n) for n in (2, 3, 4)])

    assert round_of(chain).phase is RoundPhase.CLOSED
    assert chain.get(Model, MODEL, 1).weights == address("model 1")
    results = {item.validator: item.result for item in round_of(chain).attestations}
    assert results["hospital-1.validator"] == address("forged")


def test_equal_addresses_of_different_sizes_are_different_results() -> None:
    """A quorum agrees on the whole result; a false size does not ride along with a true address."""
    chain = settled(submitted(opened()))

    chain.applied([aggregate(chain, 1, result_bytes=999)])
    chain.applied([aggregate(chain, 2), aggregate(chain, 3)])

    assert round_of(chain).phase is RoundPhase.AGGREGATE
    chain.applied([aggregate(chain, 4)])
    assert chain.get(Model, MODEL, 1).weights_bytes == 1_000


def test_aggregates_without_any_possible_quorum_fail_the_round_at_once() -> None:
    """With two against two of four, no three can agree: nobody waits for the deadline."""
    chain = settled(submitted(opened()))

    chain.applied([aggregate(chain, n, result=address("forged")) for n in (1, 2)])
    assert round_of(chain).phase is RoundPhase.AGGREGATE
    chain.applied([aggregate(chain, 3), aggregate(chain, 4)])

    assert round_of(chain).code == "round.results_differ"
    assert chain.get(ModelHead, MODEL).version == 0
    assert round_of(chain, 2).phase is RoundPhase.SUBMIT


def test_missing_aggregates_fail_the_round_at_the_deadline() -> None:
    """Two equal aggregates of the three that make a quorum are not enough when time is up."""
    chain = settled(submitted(opened()))
    chain.applied([aggregate(chain, 1), aggregate(chain, 2)])

    chain.applied(time_ms=round_of(chain).deadline_ms)

    assert round_of(chain).code == "round.no_quorum"
    assert round_of(chain, 2).base_version == 0


def test_aggregate_after_the_quorum_is_kept() -> None:
    """The fourth validator's aggregate says that it stores the blobs; the round stays closed."""
    chain = settled(submitted(opened()))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    before = round_of(chain)

    chain.applied([aggregate(chain, 4)])

    assert len(round_of(chain).attestations) == 4
    assert round_of(chain).model_version == before.model_version
    assert chain.get(ModelHead, MODEL).version == 1
    assert chain.get(Task, TASK).closed == 1


def test_a_closed_round_takes_a_bounded_number_of_aggregates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seats change without end; a round's record must not grow past what can be read."""
    monkeypatch.setattr("fl.submit.PARTICIPANTS_MAX", 3)
    chain = settled(submitted(opened()))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])

    assert chain.refused(aggregate(chain, 4)) == "aggregate.full"


def test_whole_phase_may_pass_in_one_block() -> None:
    """What a transaction completes, the next one of the same block may build on."""
    chain = submitted(opened())
    found = {judge: judgements(chain, judge) for judge in NUMBERS}

    codes = chain.block(
        [
            *(sealing(judge, items) for judge, items in found.items()),
            *(revealing(judge, items) for judge, items in found.items()),
            sealing(1, found[1]),
        ]
    )

    assert codes == ["applied"] * 8 + ["round.phase"]


def test_trimmed_mean_weighs_everyone_alike() -> None:
    """The lineage shows the weights that the rule used: 1 for each under the trimmed mean."""
    chain = settled(submitted(opened(aggregation=by(Rule.TRIMMED_MEAN, 1, 3))))

    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])

    assert [item.weight for item in chain.get(Model, MODEL, 1).contributions] == [1, 1, 1, 1]


def test_next_deadline_is_the_earliest_of_all_open_tasks() -> None:
    """An idle chain wakes when the first phase of any task ends."""
    chain = opened()
    first_ms = START_MS + 2 * BLOCK_MS + SUBMIT_MS
    assert next_deadline(chain.state) == first_ms

    chain.applied([model(id="other"), opening("second", model="other")])
    assert next_deadline(chain.state) == first_ms
    submitted(chain)

    assert next_deadline(chain.state) == chain.time_ms + VERDICT_MS


def test_a_closed_task_ends_with_its_present_round() -> None:
    """What was sent is judged, paid and made a version; then no round follows."""
    chain = opened()
    chain.applied([closing()])
    settled(submitted(chain))
    assert chain.get(Task, TASK).phase is TaskPhase.OPEN

    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])

    task = chain.get(Task, TASK)
    assert (task.phase, task.closed, task.closing) == (TaskPhase.CLOSED, 1, "the trial has ended")
    assert round_of(chain).phase is RoundPhase.CLOSED
    assert chain.get(ModelHead, MODEL) == ModelHead(MODEL, 1, None)
    assert next_deadline(chain.state) is None


def test_a_closed_task_ends_also_with_a_round_that_fails() -> None:
    """It is closed then, not failed: nobody tries again."""
    chain = opened()
    chain.applied([proof(1), closing()])

    chain.applied(time_ms=round_of(chain).deadline_ms)

    assert round_of(chain).code == "round.too_few_updates"
    assert chain.get(Task, TASK).phase is TaskPhase.CLOSED
    assert open_tasks(chain.state).tasks == ()


def test_a_task_closed_in_its_last_round_is_completed() -> None:
    """All rounds that it asked for are done."""
    chain = opened(rounds=1)
    chain.applied([closing()])

    settled(submitted(chain))
    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])

    assert chain.get(Task, TASK).phase is TaskPhase.COMPLETED


def test_a_task_is_closed_once_and_by_its_own_stewards() -> None:
    """Another hospital's steward may withdraw its own site, not end the others' work."""
    chain = opened()

    assert chain.refused(closing(2)) == "task.owner"
    chain.applied([closing()])
    assert chain.refused(closing()) == "task.phase"


def test_records_of_a_failed_round_stay() -> None:
    """Nothing is lost: updates and verdicts of a round that failed are still in the state."""
    chain = submitted(opened())

    judged(chain, {n: [failing()] * 3 for n in (1, 2, 3, 4)})

    for number in (1, 2, 3, 4):
        assert chain.get(Update, TASK, 1, organisation(number)).status is UpdateStatus.REJECTED
        judge = organisation(1 if number != 1 else 2)
        assert chain.get(Verdict, TASK, 1, organisation(number), judge).code == "score.worse"
