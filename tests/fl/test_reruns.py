"""Segments that one verifier has failed are re-run by those who saw no fail."""

from typing import Any

import pytest

from tests.fl.dialogue import (
    ABSTAINING,
    TASK,
    failing,
    opened,
    rerun,
    speak,
    submitted,
)
from tests.harness import Chain
from vm.learning import (
    Decision,
    Round,
    RoundPhase,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.terms import Evidence

REPLAYED: dict[str, Any] = {"evidence": Evidence.REPLAYED}
FAILS_2 = failing("replay.weights", "other weights") | {"segment": 2}


def disputed(said: dict[tuple[int, int], dict[str, Any]]) -> Chain:
    """A chain in phase RERUN: verifier 1 has failed segment 2 of the update of hospital 2."""
    chain = submitted(opened(), **REPLAYED)
    speak(chain, {(1, 2): FAILS_2} | said)
    assert chain.get(Round, TASK, 1).phase is RoundPhase.RERUN
    return chain


def test_a_failed_segment_is_rerun_by_those_who_saw_no_fail() -> None:
    """What one has caught by its draw the others confirm, and the spoof is rejected."""
    chain = disputed({})
    assert chain.get(Round, TASK, 1).reruns == 2
    before = chain.get(Verdict, TASK, 1, "hospital-2", "hospital-3")

    chain.applied([rerun(chain, judge, 2, **FAILS_2_AGAIN) for judge in (3, 4)])

    assert chain.get(Update, TASK, 1, "hospital-2").status is UpdateStatus.REJECTED
    again = chain.get(Verdict, TASK, 1, "hospital-2", "hospital-3")
    assert (again.decision, again.segment, again.score_bp) == (Decision.FAIL, 2, None)
    assert again.rerun
    assert again.blind != before.blind
    assert chain.get(Round, TASK, 1).phase is RoundPhase.AGGREGATE


FAILS_2_AGAIN: dict[str, Any] = {"decision": Decision.FAIL, "code": "replay.weights", "segment": 2}


def test_one_liar_cannot_reject_an_honest_update_by_a_segment() -> None:
    """The others re-run it and say again what they said; with that the round goes on."""
    chain = disputed({})

    chain.applied([rerun(chain, judge, 2) for judge in (3, 4)])

    assert chain.get(Update, TASK, 1, "hospital-2").status is UpdateStatus.ACCEPTED
    assert chain.get(Verdict, TASK, 1, "hospital-2", "hospital-3").score_bp == 5_000
    assert chain.get(Round, TASK, 1).phase is RoundPhase.AGGREGATE


def test_a_rerun_that_never_comes_leaves_the_verdict_as_it_was() -> None:
    """Nobody waits beyond the deadline."""
    chain = disputed({})
    chain.applied([rerun(chain, 3, 2, **FAILS_2_AGAIN)])

    chain.applied(time_ms=chain.get(Round, TASK, 1).deadline_ms)

    assert chain.get(Update, TASK, 1, "hospital-2").status is UpdateStatus.REJECTED
    assert not chain.get(Verdict, TASK, 1, "hospital-2", "hospital-4").rerun


@pytest.mark.parametrize(
    ("judge", "number", "changes", "code"),
    [
        (1, 2, {}, "rerun.verdict"),  # it has failed the update itself
        (2, 2, {}, "state.missing"),  # its own
        (3, 1, {}, "rerun.decision"),  # nobody has failed that one
        (4, 2, {"decision": Decision.PASS}, "rerun.decision"),  # it had abstained
        (3, 2, {"decision": Decision.ABSTAIN}, "rerun.decision"),
        (3, 2, {"decision": Decision.FAIL}, "rerun.decision"),
        (3, 2, {"decision": Decision.FAIL, "segment": 1}, "rerun.decision"),  # nobody named it
        (3, 2, {"segment": 2}, "rerun.decision"),
        (3, 2, {"update": bytes(32)}, "rerun.update"),
    ],
)
def test_a_rerun_is_refused(judge: int, number: int, changes: dict[str, Any], code: str) -> None:
    """By now all verdicts are known: one may confirm, or fail what was named, and nothing else."""
    chain = disputed({(4, 2): ABSTAINING})
    _, kind, body = rerun(chain, 3, number, **changes)
    if judge == 4:
        _, _, body = rerun(chain, 4, number, **changes)

    assert chain.refused((f"hospital-{judge}.verifier", kind, body)) == code
    assert chain.get(Round, TASK, 1).reruns == 2


def test_a_verdict_is_rerun_once() -> None:
    """Who has confirmed it cannot turn it afterwards."""
    chain = disputed({})
    chain.applied([rerun(chain, 3, 2)])

    assert chain.refused(rerun(chain, 3, 2, **FAILS_2_AGAIN)) == "rerun.verdict"


def test_who_revealed_nothing_has_nothing_to_rerun() -> None:
    """A verifier that kept silent does not get a voice by re-running."""
    chain = submitted(opened(), **REPLAYED)
    speak(chain, {(1, 2): FAILS_2}, judges=(1, 2, 3))
    assert chain.get(Round, TASK, 1).reruns == 1
    _, kind, body = rerun(chain, 3, 2)

    assert chain.refused(("hospital-4.verifier", kind, body)) == "state.missing"


def test_segments_of_a_committed_update_are_not_rerun() -> None:
    """Nobody else has what it would take, so the round goes on to settle."""
    chain = submitted(opened())

    speak(chain, {(1, 2): FAILS_2})

    assert chain.get(Round, TASK, 1).phase is RoundPhase.AGGREGATE
