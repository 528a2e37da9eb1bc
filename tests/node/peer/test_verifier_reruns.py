"""Verifiers after others have failed a segment: they run it again, and say what they find."""

from pathlib import Path

from fl.verify import Judgement
from node.peer.stage import Stage
from tests.fl.dialogue import (
    ABSTAINING,
    NUMBERS,
    TASK,
    failing,
    speak,
    withdrawal,
)
from tests.node.hospital import Town
from tests.node.peer.looks import committed, opened, phase, run
from vm.learning import Decision, RoundPhase, Update, Verdict
from vm.terms import Evidence


def disputed(folder: Path) -> Town:
    """A town in phase RERUN: hospital 1 has failed segment 1 of hospital 2's replayed update."""
    town = committed(opened(folder, evidence=Evidence.REPLAYED))
    for number in NUMBERS:
        run(town.trainer(number, opening=True).work(TASK))
    fails = failing("replay.weights") | {"segment": 1}
    speak(town.chain, {(1, 2): fails, (4, 2): ABSTAINING})
    assert phase(town) is RoundPhase.RERUN
    town.submitted.clear()
    return town


def test_a_failed_segment_is_rerun(tmp_path: Path) -> None:
    """The hook is asked for the segments that were named, and its fail becomes the verdict."""
    town = disputed(tmp_path)
    asked: list[tuple[str, tuple[int, ...]]] = []

    async def replay(
        stage: Stage, update: Update, blob: bytes, segments: tuple[int, ...], suspect: object
    ) -> Judgement:
        asked.append((update.organisation, segments))
        return Judgement(Decision.FAIL, "replay.weights", "other weights", 1)

    run(town.verifier(3, replay=replay).work(TASK))
    run(town.verifier(1, replay=replay).work(TASK))  # it has failed it before

    assert asked == [("hospital-2", (1,))]
    found = town.chain.get(Verdict, TASK, 1, "hospital-2", "hospital-3")
    assert (found.decision, found.code, found.segment) == (Decision.FAIL, "replay.weights", 1)


def test_a_rerun_that_finds_another_segment_broken_ends(tmp_path: Path) -> None:
    """The chain takes no fail of a segment that nobody named: it says so in its reason instead.

    A verifier that insisted would be refused, again and again, and hold the round to its deadline.
    """
    town = disputed(tmp_path)

    async def replay(*_: object) -> Judgement:
        return Judgement(Decision.FAIL, "replay.batches", "other batches", 0)

    for number in (3, 4):
        run(town.verifier(number, replay=replay).work(TASK))

    found = town.chain.get(Verdict, TASK, 1, "hospital-2", "hospital-4")
    assert (found.decision, found.code, found.segment) == (Decision.ABSTAIN, "replay.batches", None)
    assert phase(town) is not RoundPhase.RERUN


def test_a_rerun_that_finds_nothing_says_the_same_again(tmp_path: Path) -> None:
    """With its old words, or with the reason why it could not look."""
    town = disputed(tmp_path)

    async def replay(
        stage: Stage, update: Update, blob: bytes, segments: tuple[int, ...], suspect: object
    ) -> None:
        return None

    run(town.verifier(3, replay=replay).work(TASK))
    run(town.verifier(4).work(TASK))

    third, fourth = (
        town.chain.get(Verdict, TASK, 1, "hospital-2", name)
        for name in ("hospital-3", "hospital-4")
    )
    assert (third.decision, third.code, third.rerun) == (Decision.PASS, "verdict.passed", True)
    assert (fourth.decision, fourth.code) == (Decision.ABSTAIN, "replay.not_opened")
    assert phase(town) is not RoundPhase.RERUN


def test_a_verifier_whose_site_has_withdrawn_reruns_nothing(tmp_path: Path) -> None:
    """It says the same again, as the round waits for it, and is shown no row for that."""
    town = disputed(tmp_path)
    town.chain.applied([withdrawal(3)])
    town.blobs.clear()

    run(town.verifier(3).work(TASK))

    found = town.chain.get(Verdict, TASK, 1, "hospital-2", "hospital-3")
    assert (found.decision, found.code, found.rerun) == (Decision.PASS, "verdict.passed", True)
