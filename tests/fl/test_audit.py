"""Audits of traces, the marks that failed ones leave, and what a steward decides."""

from typing import Any

import pytest

from fl.body import DecideModel
from fl.reputation import reputation_of
from tests.fl.dialogue import (
    MODEL,
    NUMBERS,
    REVEAL_MS,
    TASK,
    aggregate,
    attestation,
    failing,
    opened,
    opening,
    settled,
    speak,
    submitted,
    visit,
    with_auditors,
)
from tests.harness import Chain, Item, key_of
from vm.conduct import Audit, AuditOutcome, MarkDecision, ModelMark, Visit
from vm.learning import Round, RoundPhase, Task, TaskPhase, Update
from vm.record import ModelHead, Role
from vm.registry import EnrolMember
from vm.terms import Evidence

PASSED, FAILED, UNAVAILABLE = AuditOutcome.PASSED, AuditOutcome.FAILED, AuditOutcome.UNAVAILABLE


def closed(**changes: Any) -> Chain:
    """A chain whose first round has closed; organisations 1 and 2 have auditors, let in by all."""
    chain = with_auditors(settled(submitted(opened(trace_retention_ms=REVEAL_MS, **changes))))
    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])
    chain.applied([visit(auditor, n) for n in NUMBERS for auditor in (1, 2) if auditor != n])
    return chain


def decide(decision: MarkDecision, by: str = "hospital-1.steward", model: str = MODEL) -> Item:
    """A steward decides on the model."""
    return by, "model.decide", DecideModel(model, decision, "looked into")


def mark(chain: Chain) -> ModelMark:
    """The model's mark."""
    return chain.get(ModelMark, MODEL)


def test_an_audit_is_kept_and_counted_in_the_update() -> None:
    """Whoever sees the update sees how often its trace was looked into."""
    chain = closed()

    chain.applied([attestation(1, 3, PASSED), attestation(2, 3, UNAVAILABLE)])

    found = chain.get(Update, TASK, 1, "hospital-3")
    counts = (found.audits_passed, found.audits_failed, found.audits_unavailable)
    assert counts == (1, 0, 1)
    assert chain.get(Audit, TASK, 1, "hospital-3", "hospital-1").segments == 4
    assert chain.state.get(ModelMark, MODEL) is None


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (attestation(1, 1, PASSED), "audit.own"),
        (attestation(1, 3, PASSED, segments=0), "audit.segments"),
        (attestation(1, 3, PASSED, segments=5), "audit.segments"),
        (attestation(1, 3, UNAVAILABLE, segments=1), "audit.segments"),
        (attestation(1, 3, PASSED, round=2), "audit.round"),
        (attestation(1, 3, PASSED, round=9), "state.missing"),
        (attestation(1, 3, PASSED, organisation="hospital-9"), "state.missing"),
    ],
)
def test_an_audit_is_refused(item: Item, code: str) -> None:
    """Of one's own hospital, of no segments or too many, of what is not there or not over."""
    chain = closed()

    assert chain.refused(item) == code
    assert chain.get(Update, TASK, 1, "hospital-3").audits_passed == 0


def unvisited() -> Chain:
    """A chain as `closed`, except that no hospital has let an auditor in."""
    chain = with_auditors(settled(submitted(opened(trace_retention_ms=REVEAL_MS))))
    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])
    return chain


@pytest.mark.parametrize("outcome", [PASSED, FAILED])
def test_who_was_not_let_in_has_replayed_nothing(outcome: AuditOutcome) -> None:
    """An auditor who never came cannot mark a model, nor wash one clean."""
    chain = unvisited()

    assert chain.refused(attestation(1, 3, outcome)) == "audit.visit"
    chain.applied([attestation(1, 3, UNAVAILABLE)])

    assert chain.get(Update, TASK, 1, "hospital-3").audits_unavailable == 1
    assert chain.state.get(ModelMark, MODEL) is None


def test_a_visit_is_signed_by_the_trainer_and_names_the_auditor() -> None:
    """It is there before the outcome is, so a hospital cannot sign only what it likes."""
    chain = unvisited()

    chain.applied([visit(1, 3)])

    found = chain.get(Visit, TASK, 1, "hospital-3", "hospital-1.auditor")
    assert (found.auditor, found.trainer) == ("hospital-1.auditor", "hospital-3.trainer")
    chain.applied([attestation(1, 3, FAILED)])
    assert mark(chain).version == 1


def test_a_visit_lets_in_one_auditor_and_no_other() -> None:
    """Neither a colleague of the auditor nor another organisation's attests by it."""
    chain = unvisited()
    colleague = "hospital-1.second"
    enrolled = EnrolMember(colleague, Role.AUDITOR, key_of(colleague).public, None)
    chain.applied([("hospital-1.admin", "member.enrol", enrolled), visit(1, 3)])
    _, kind, body = attestation(1, 3, FAILED)

    assert chain.refused((colleague, kind, body)) == "audit.visit"
    assert chain.refused(attestation(2, 3, FAILED)) == "audit.visit"


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (visit(1, 1), "audit.own"),
        (visit(1, 3, 2), "state.missing"),
        (visit(1, 3, auditor="hospital-1.steward"), "visit.auditor"),
        (visit(1, 3, auditor="nobody"), "state.missing"),
    ],
)
def test_a_visit_is_refused(item: Item, code: str) -> None:
    """Of one's own auditor, to an update that is not there, of somebody who is no auditor."""
    assert unvisited().refused(item) == code


def test_a_visit_is_signed_by_a_trainer() -> None:
    """Of the hospital, also by another one than had trained: that one may be gone."""
    _, kind, body = visit(2, 3)

    assert unvisited().refused(("hospital-3.verifier", kind, body)) == "access.role"


@pytest.mark.parametrize("attests", ["hospital-1.auditor", "hospital-1.second"])
def test_a_later_visit_takes_nothing_from_an_earlier_one(attests: str) -> None:
    """A hospital that hears of a failed replay cannot take it back by letting in somebody else.

    And where one who was named never comes, a colleague may.
    """
    chain = unvisited()
    colleague = "hospital-1.second"
    enrolled = EnrolMember(colleague, Role.AUDITOR, key_of(colleague).public, None)
    chain.applied([("hospital-1.admin", "member.enrol", enrolled), visit(1, 3)])

    chain.applied([visit(1, 3, auditor=colleague)])

    _, kind, body = attestation(1, 3, FAILED)
    chain.applied([(attests, kind, body)])
    assert mark(chain).version == 1
    assert chain.refused(visit(1, 3)) == "visit.duplicate"


def test_nobody_says_expired_before_it_is() -> None:
    """The reason stands beside the update for good."""
    early = attestation(1, 3, UNAVAILABLE, code="audit.expired")

    assert closed().refused(early) == "audit.expired"


def test_nobody_visits_before_the_round_is_over() -> None:
    """The trace is not whole, and the outcome of the round would be known too soon."""
    chain = with_auditors(submitted(opened()))

    assert chain.refused(visit(1, 3)) == "audit.round"


def test_an_organisation_attests_an_update_once() -> None:
    """No auditor takes back what it found, and none counts twice."""
    chain = closed()
    chain.applied([attestation(1, 3, FAILED)])

    assert chain.refused(attestation(1, 3, PASSED)) == "audit.duplicate"


@pytest.mark.parametrize(("outcome", "counts"), [(PASSED, (1, 0, 0)), (FAILED, (0, 1, 0))])
def test_what_was_unavailable_gives_way_to_a_replay(
    outcome: AuditOutcome, counts: tuple[int, int, int]
) -> None:
    """A hospital that lets nobody in until an auditor has given up has not answered for good."""
    chain = unvisited()
    chain.applied([attestation(1, 3, UNAVAILABLE)])
    assert chain.refused(attestation(1, 3, outcome)) == "audit.visit"

    chain.applied([visit(1, 3), attestation(1, 3, outcome)])

    found = chain.get(Update, TASK, 1, "hospital-3")
    assert (found.audits_passed, found.audits_failed, found.audits_unavailable) == counts
    assert chain.get(Audit, TASK, 1, "hospital-3", "hospital-1").outcome is outcome
    assert (chain.state.get(ModelMark, MODEL) is not None) == (outcome is FAILED)
    counted = reputation_of(chain.state, "hospital-3")
    assert (counted.audits_passed, counted.audits_failed) == counts[:2]
    for again in (UNAVAILABLE, PASSED, FAILED):
        assert chain.refused(attestation(1, 3, again)) == "audit.duplicate"


def test_an_update_is_unavailable_to_an_organisation_once() -> None:
    """Said again it is a second count of the same."""
    chain = unvisited()
    chain.applied([attestation(1, 3, UNAVAILABLE)])

    assert chain.refused(attestation(1, 3, UNAVAILABLE)) == "audit.duplicate"


def test_a_trace_past_its_retention_is_unavailable_and_nothing_else() -> None:
    """A hospital that kept its word may have deleted it: an audit says so, and nothing worse."""
    chain = unvisited()
    chain.applied(time_ms=chain.get(Round, TASK, 1).deadline_ms + REVEAL_MS)
    chain.applied([visit(1, 3)])

    late = [attestation(1, 3, FAILED), attestation(1, 3, UNAVAILABLE)]
    codes = chain.block([*late, attestation(1, 3, UNAVAILABLE, code="audit.expired")])

    assert codes == ["audit.expired", "audit.expired", "applied"]


def test_an_auditor_who_came_in_time_may_say_later_what_he_found() -> None:
    """A replay takes hours, and a hospital may let in on the last day."""
    chain = closed()
    chain.applied(time_ms=chain.get(Round, TASK, 1).deadline_ms + REVEAL_MS + 1)

    chain.applied([attestation(1, 3, FAILED)])

    assert mark(chain).version == 1


def test_a_scored_update_has_nothing_to_audit() -> None:
    """It claims no trace."""
    chain = with_auditors(opened(evidence=Evidence.SCORED))
    settled(submitted(chain, evidence=Evidence.SCORED, segments=1))
    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])

    assert chain.refused(attestation(1, 3, FAILED)) == "audit.evidence"


def test_a_failed_audit_marks_the_model_and_bars_it() -> None:
    """From the version that the update reached on; the task fails at its next round."""
    chain = closed()
    chain.applied([attestation(1, 3, FAILED)])
    assert (mark(chain).version, mark(chain).decision) == (1, MarkDecision.OPEN)
    assert chain.get(Round, TASK, 2).phase is RoundPhase.SUBMIT  # what is under way goes on
    chain.applied(time_ms=chain.get(Round, TASK, 2).deadline_ms)

    third = chain.get(Round, TASK, 3)

    assert (third.phase, third.code) == (RoundPhase.FAILED, "round.model_marked")
    assert chain.get(Task, TASK).phase is TaskPhase.FAILED
    assert chain.get(ModelHead, MODEL) == ModelHead(MODEL, 1, None)
    assert chain.refused(opening("next")) == "task.model_marked"


def test_a_steward_keeps_the_model() -> None:
    """With that the next task may open, and the mark stays on record."""
    chain = closed(rounds=1)
    chain.applied([attestation(1, 3, FAILED)])
    assert chain.refused(opening("next")) == "task.model_marked"

    chain.applied([decide(MarkDecision.KEPT), opening("next")])

    assert (mark(chain).decision, mark(chain).steward) == (
        MarkDecision.KEPT,
        "hospital-1.steward",
    )


def test_a_later_failed_audit_opens_the_question_again() -> None:
    """What was kept was kept in knowledge of the first one only."""
    chain = closed(rounds=1)
    chain.applied([attestation(1, 3, FAILED), decide(MarkDecision.KEPT)])

    chain.applied([attestation(2, 4, FAILED)])

    assert (mark(chain).decision, mark(chain).organisation) == (MarkDecision.OPEN, "hospital-4")
    assert chain.refused(opening("next")) == "task.model_marked"


def test_a_model_that_was_withdrawn_stays_so() -> None:
    """Another failed audit does not put it up for decision again."""
    chain = closed(rounds=1)
    chain.applied([attestation(1, 3, FAILED), decide(MarkDecision.WITHDRAWN)])

    chain.applied([attestation(2, 4, FAILED)])

    assert mark(chain).decision is MarkDecision.WITHDRAWN
    assert chain.refused(decide(MarkDecision.KEPT)) == "mark.decided"
    assert chain.refused(opening("next")) == "task.model_marked"


def test_a_decision_is_the_owners_and_decides_something() -> None:
    """Neither another hospital's steward, nor an empty word, nor without a mark."""
    chain = closed()
    assert chain.refused(decide(MarkDecision.KEPT)) == "state.missing"
    chain.applied([attestation(1, 3, FAILED)])

    assert chain.refused(decide(MarkDecision.KEPT, by="hospital-2.steward")) == "mark.owner"
    assert chain.refused(decide(MarkDecision.OPEN)) == "mark.decision"


def test_an_update_that_reached_no_version_marks_nothing() -> None:
    """A rejected one, and one of a round that failed."""
    chain = with_auditors(opened(trace_retention_ms=10**9))
    speak(submitted(chain), {(judge, 3): failing() for judge in (1, 2, 4)})
    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])
    settled(submitted(chain, 2, base_version=1), 2)
    chain.applied(time_ms=chain.get(Round, TASK, 2).deadline_ms)
    assert chain.get(Round, TASK, 2).phase is RoundPhase.FAILED

    chain.applied([visit(1, 3), visit(1, 4, 2)])
    chain.applied([attestation(1, 3, FAILED), attestation(1, 4, FAILED, 2)])

    assert chain.state.get(ModelMark, MODEL) is None
    assert chain.get(Update, TASK, 1, "hospital-3").audits_failed == 1


def test_the_first_version_of_all_failed_audits_is_marked() -> None:
    """Later versions hold it as well, whichever audit came first."""
    chain = closed(rounds=3)
    settled(submitted(chain, 2, base_version=1), 2)
    chain.applied([aggregate(chain, number, 2) for number in (1, 2, 3)])

    chain.applied([visit(1, 3, 2), attestation(1, 3, FAILED, 2)])
    assert mark(chain).version == 2
    chain.applied([attestation(1, 3, FAILED, 1)])

    assert mark(chain).version == 1
