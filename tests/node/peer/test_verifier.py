"""The verifier: judges the others' updates alone, and keeps none of them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from fl import sampling
from fl.body import CommitSecret, Judged, RevealVerdicts, SealVerdicts
from fl.challenge import seal
from fl.reputation import reputation_of
from node.peer.stage import Stage
from node.peer.verifier import BLOB_WAIT_PERCENT
from tests.fl.dialogue import (
    NUMBERS,
    TASK,
    VERDICT_MS,
    approval,
    judgements,
    opening,
    secret,
    site,
    withdrawal,
)
from tests.harness import organisation
from tests.node.hospital import PATIENT, Town
from tests.node.peer.looks import code_of, committed, opened, phase, run, sealed, submitted
from vm.learning import Commitment, Decision, Holdout, Round, RoundPhase, Update, Verdict
from vm.record import Dataset
from vm.refusal import Refused
from vm.shape import pack
from vm.terms import Site, Valuation


def test_verifiers_commit_seal_and_reveal(tmp_path: Path) -> None:
    """Each of the other three updates, never its own hospital's; then the round goes on."""
    town = submitted(tmp_path)

    for number in NUMBERS:
        run(town.verifier(number).work(TASK))
    assert phase(town) is RoundPhase.REVEAL
    for number in NUMBERS:
        run(town.verifier(number).work(TASK))

    assert phase(town) is RoundPhase.AGGREGATE
    for number in NUMBERS:
        found = sealed(town, number)
        assert set(found) == {organisation(n) for n in NUMBERS if n != number}
        for item in found.values():
            verdict = town.chain.get(Verdict, TASK, 1, item.organisation, organisation(number))
            assert (verdict.decision, verdict.score_bp) == (Decision.PASS, item.score_bp)
            assert verdict.score_bp is not None


def test_each_step_is_taken_once(tmp_path: Path) -> None:
    """Neither another look nor a restart says anything twice."""
    town = opened(tmp_path)
    for again in (town.verifier(1), town.verifier(1)):
        run(again.work(TASK))
    assert [type(body) for body in town.submitted] == [CommitSecret]
    town = submitted(tmp_path / "other")
    for again in (town.verifier(1), town.verifier(1)):
        run(again.work(TASK))

    assert [type(body) for body in town.submitted] == [SealVerdicts]


def test_a_verifier_without_a_commitment_judges_nothing(tmp_path: Path) -> None:
    """It came late; what it would say could no longer count."""
    town = opened(tmp_path)
    for number in (2, 3, 4):
        run(town.verifier(number).work(TASK))
    for number in NUMBERS:
        run(town.trainer(number).work(TASK))
    town.chain.applied(time_ms=town.chain.get(Round, TASK, 1).deadline_ms)
    assert phase(town) is RoundPhase.VERDICT
    town.submitted.clear()

    run(town.verifier(1).work(TASK))

    assert town.submitted == []


def test_what_was_sealed_is_revealed_after_a_crash(tmp_path: Path) -> None:
    """Even if by now it would judge otherwise: only what was sealed can be revealed."""
    town = submitted(tmp_path)
    for number in NUMBERS:
        run(town.verifier(number).work(TASK))
    town.blobs.clear()

    run(town.verifier(1).work(TASK))

    assert town.chain.get(Commitment, TASK, 1, "hospital-1").secret is not None


def test_a_seal_that_was_lost_on_its_way_is_sent_again_as_it_was(tmp_path: Path) -> None:
    """A crash before the seal is on the chain must not make a second one."""
    town = submitted(tmp_path)
    verifier = town.verifier(1)
    send = verifier._submitter.submit

    async def lose(kind: str, body: Any) -> Any:
        raise Refused("client.no_validator", "expected an answer, found none")

    verifier._submitter.submit = lose  # type: ignore[method-assign]
    assert code_of(verifier.work(TASK)) == "client.no_validator"
    found = town.drawer(1).get(TASK, 1)
    town.blobs.clear()
    verifier._submitter.submit = send  # type: ignore[method-assign]
    run(verifier.work(TASK))

    assert found is not None
    assert sealed(town, 1) == {item.organisation: item for item in found.judgements}


def test_a_seal_on_its_way_stays_the_same_though_the_key_changed(tmp_path: Path) -> None:
    """The drawer has its blinds: with others, the first could not be revealed any more."""
    town = submitted(tmp_path)
    first = town.verifier(1)
    seals: list[bytes] = []

    async def lose(kind: str, body: Any) -> Any:
        seals.append(body.seal)
        raise Refused("client.no_validator", "expected an answer, found none")

    first._submitter.submit = lose  # type: ignore[method-assign]
    assert code_of(first.work(TASK)) == "client.no_validator"
    again = town.verifier(1)
    again._submitter.submit = lose  # type: ignore[method-assign]
    again._secret = lambda parts: bytes(32)
    assert code_of(again.work(TASK)) == "client.no_validator"

    assert seals == [seals[0]] * 2


def test_what_was_sealed_on_another_chain_is_no_part_of_this_one(tmp_path: Path) -> None:
    """A store that outlived its network holds a round of the same name, useless here."""
    town = submitted(tmp_path)
    stale = RevealVerdicts(TASK, 1, bytes(32), ())
    town.drawer(1).put(stale)

    run(town.verifier(1).work(TASK))

    assert len(sealed(town, 1)) == 3
    assert town.drawer(1).get(TASK, 1) != stale


def test_a_verifier_whose_key_was_rotated_reads_no_row_for_a_voice_that_it_has_lost(
    tmp_path: Path,
) -> None:
    """Its secret opens no commitment any more; the budget of its rows is for other rounds."""
    town = submitted(tmp_path)
    town.loads = 0
    verifier = town.verifier(1)
    verifier._secret = lambda parts: bytes(32)

    assert code_of(verifier.work(TASK)) == "peer.secret"
    assert (town.loads, town.submitted) == (0, [])


def test_what_was_judged_before_a_rotation_is_sealed_and_revealed(tmp_path: Path) -> None:
    """The drawer holds the secret too."""
    town = submitted(tmp_path)
    verifier = town.verifier(1)

    async def lose(kind: str, body: Any) -> Any:
        raise Refused("client.no_validator", "expected an answer, found none")

    verifier._submitter.submit = lose  # type: ignore[method-assign]
    assert code_of(verifier.work(TASK)) == "client.no_validator"
    rotated = town.verifier(1)
    rotated._secret = lambda parts: bytes(32)
    run(rotated.work(TASK))
    for number in (2, 3, 4):
        run(town.verifier(number).work(TASK))
    run(rotated.work(TASK))

    assert town.chain.get(Commitment, TASK, 1, "hospital-1").secret == secret(1)


def test_a_lost_drawer_is_said_and_nothing_is_made_up(tmp_path: Path) -> None:
    """Judging again could contradict the seal; the round goes on without this verifier."""
    town = submitted(tmp_path)
    for number in NUMBERS:
        run(town.verifier(number).work(TASK))
    shutil.rmtree(town.folder / "hospital-1" / "sealed")
    town.submitted.clear()

    assert code_of(town.verifier(1).work(TASK)) == "peer.sealed_lost"
    assert town.submitted == []


def test_an_update_passes_only_once_enough_validators_hold_it(tmp_path: Path) -> None:
    """A trainer's own validator may refuse all others, and each round would end without quorum.

    So who passes an update has it where an honest validator can get it, or does not pass it.
    """
    town = submitted(tmp_path)
    blobs = {n: town.chain.get(Update, TASK, 1, organisation(n)).blob for n in (2, 3, 4)}
    town.brought.clear()
    town.refusing = {blobs[3]}
    verifier = town.verifier(1)

    assert code_of(verifier.work(TASK)) == "blob.too_few_copies"
    assert town.submitted == []
    town.time_ms += VERDICT_MS * BLOB_WAIT_PERCENT // 100
    run(verifier.work(TASK))

    found = sealed(town, 1)["hospital-3"]
    assert (found.decision, found.code) == (Decision.ABSTAIN, "verdict.too_few_copies")
    assert sealed(town, 1)["hospital-4"].decision is Decision.PASS
    assert blobs[4] in town.brought


# Replay


def test_a_hospital_without_scoring_rows_abstains_and_values_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean loss of no row is no number: it says so instead of never sealing."""
    town = committed(opened(tmp_path, contribution=Valuation.LEAVE_ONE_OUT))
    for number in NUMBERS:
        run(town.trainer(number).work(TASK))
    monkeypatch.setattr(sampling, "SCORING_PERCENT", 0)

    run(town.verifier(1).work(TASK))

    for item in sealed(town, 1).values():
        assert (item.code, item.contribution_bp) == ("verdict.no_scoring_rows", None)


def test_an_update_that_fails_is_brought_nowhere(tmp_path: Path) -> None:
    """Nobody needs its bytes: it is not aggregated."""
    town = submitted(tmp_path)
    blob = town.chain.get(Update, TASK, 1, "hospital-3").blob
    town.blobs[blob] = bytes(len(town.blobs[blob]))
    town.brought.clear()

    run(town.verifier(1).work(TASK))

    assert len(town.brought) == 2
    assert blob not in town.brought


def test_a_verifier_binds_nothing_in_a_task_that_its_site_has_not_approved(tmp_path: Path) -> None:
    """Its trainer gives the site's word; until then the chain would refuse the commitment."""
    town = Town(tmp_path)
    town.chain.applied([opening()])

    run(town.verifier(1).work(TASK))
    assert town.submitted == []
    town.chain.applied([approval(1)])
    run(town.verifier(1).work(TASK))

    assert [type(body) for body in town.submitted] == [CommitSecret]


def test_scores_stay_within_the_budget_of_the_rows(tmp_path: Path) -> None:
    """Judgements go on; what they say of the rows ends."""
    town = submitted(tmp_path, scores_max=2)

    run(town.verifier(1).work(TASK))
    run(town.verifier(2).work(TASK))

    for judge in (1, 2):
        scores = [item.score_bp for item in sealed(town, judge).values()]
        assert scores == [None, None, None]
        assert {item.decision for item in sealed(town, judge).values()} == {Decision.PASS}


def test_what_was_judged_and_not_yet_bound_gives_way_to_another_task(tmp_path: Path) -> None:
    """Both train on the same rows: whoever seals later finds less of their budget."""
    town = submitted(tmp_path, scores_max=3)
    body = RevealVerdicts(TASK, 1, secret(1), judgements(town.chain, 1))
    town.drawer(1).put(body)
    state = town.chain.state
    state.put(Holdout("opt-1", 1))
    town.chain.stored |= state.writes

    run(town.verifier(1).work(TASK))

    assert [item.score_bp for item in body.judgements] == [5_000, 5_000, 5_000]
    assert [item.score_bp for item in sealed(town, 1).values()] == [None, None, None]
    assert town.chain.get(Holdout, "opt-1").scores == 1


def test_what_is_revealed_opens_no_seal_that_it_gave_way_to(tmp_path: Path) -> None:
    """A seal that found no room in the budget is on the chain, and so is the secret later.

    With equal blinds, whoever was shown the verdicts tried out on it the scores that had no room.
    """
    town = submitted(tmp_path)
    verifier = town.verifier(1)
    send, lost = verifier._submitter.submit, []

    async def lose(kind: str, body: Any) -> Any:
        lost.append(body)
        raise Refused("client.no_validator", "expected an answer, found none")

    verifier._submitter.submit = lose  # type: ignore[method-assign]
    assert code_of(verifier.work(TASK)) == "client.no_validator"
    with_scores = town.drawer(1).get(TASK, 1)
    state = town.chain.state
    state.put(Holdout("opt-1", 1_000))
    town.chain.stored |= state.writes
    verifier._submitter.submit = send  # type: ignore[method-assign]
    run(verifier.work(TASK))

    found = sealed(town, 1).values()
    assert with_scores is not None
    packed = [pack(item) for item in with_scores.judgements]
    assert lost[0].seal == seal(TASK, 1, "hospital-1.verifier", secret(1), packed)
    told = {item.organisation: item.blind for item in found}
    assert [item.score_bp for item in found] == [None] * 3
    tried = [pack(replace(i, blind=told[i.organisation])) for i in with_scores.judgements]
    assert lost[0].seal != seal(TASK, 1, "hospital-1.verifier", secret(1), tried)
    assert not set(told.values()) & {item.blind for item in with_scores.judgements}
    assert len(set(told.values())) == 3


def test_a_withdrawal_while_a_verifier_judges_leaves_nothing_of_what_it_found(
    tmp_path: Path,
) -> None:
    """Replays take their time; what was found on the rows is not sealed, and no score reserved."""
    town = submitted(tmp_path)
    verifier = town.verifier(1)
    judge = verifier._judge

    async def interrupted(stage: Stage, site: Site) -> tuple[Judged, ...]:
        found = await judge(stage, site)
        town.chain.applied([withdrawal(1)])
        return found

    verifier._judge = interrupted  # type: ignore[method-assign]
    run(verifier.work(TASK))

    assert {item.code for item in sealed(town, 1).values()} == {"verdict.withdrawn"}
    assert town.chain.get(Commitment, TASK, 1, "hospital-1").scores == 0


def test_what_was_judged_and_not_yet_bound_is_not_said_after_a_withdrawal(tmp_path: Path) -> None:
    """A crash before the seal left it in the drawer: only what is on the chain binds."""
    town = submitted(tmp_path)
    body = RevealVerdicts(TASK, 1, secret(1), judgements(town.chain, 1))
    town.drawer(1).put(body)
    town.chain.applied([withdrawal(1)])

    run(town.verifier(1).work(TASK))

    found = sealed(town, 1).values()
    assert {(item.code, item.score_bp) for item in found} == {("verdict.withdrawn", None)}
    assert town.chain.get(Commitment, TASK, 1, "hospital-1").scores == 0


def test_a_site_that_withdraws_keeps_the_word_that_binds_its_verifier(tmp_path: Path) -> None:
    """It committed while updates came: it seals and reveals, then it is no part any more."""
    town = submitted(tmp_path)
    town.chain.applied([withdrawal(1)])

    for _ in range(2):
        for number in NUMBERS:
            run(town.verifier(number).work(TASK))

    assert phase(town) is RoundPhase.AGGREGATE
    found = reputation_of(town.chain.state, "hospital-1")
    assert (found.silent, found.unrevealed) == (0, 0)


def test_others_updates_are_forgotten_once_they_are_judged(tmp_path: Path) -> None:
    """A hospital keeps no other's update longer than its task may; the base model may stay."""
    town = submitted(tmp_path)
    keys = [(TASK, 1, organisation(number)) for number in (1, 2, 3, 4)]

    run(town.verifier(1).work(TASK))

    assert town.forgotten == [town.chain.get(Update, *key).blob for key in keys]


def test_others_updates_are_forgotten_also_when_a_verdict_is_refused(tmp_path: Path) -> None:
    """Nobody may look at the task again for long, and the blobs must not lie on this disk."""
    town = submitted(tmp_path)
    blobs = {town.chain.get(Update, TASK, 1, organisation(n)).blob for n in (1, 2, 3, 4)}
    town.refusing = set(blobs)

    assert code_of(town.verifier(1).work(TASK)) == "blob.too_few_copies"

    assert set(town.forgotten) == blobs


def test_a_node_that_hides_updates_does_not_bend_a_verdict(tmp_path: Path) -> None:
    """Lists prove no completeness, so updates are asked for one by one; ours here lists none."""
    town = submitted(tmp_path)

    run(town.verifier(2).work(TASK))

    assert len(sealed(town, 2)) == 3


def test_an_update_that_nobody_gives_is_waited_for_and_then_abstained_from(tmp_path: Path) -> None:
    """Silence about one update must not cost the others their verdicts."""
    town = submitted(tmp_path)
    del town.blobs[town.chain.get(Update, TASK, 1, "hospital-3").blob]
    verifier = town.verifier(1)

    for wrong_ms in (0, 10 * VERDICT_MS):  # whatever the wall clock says, only waiting counts
        town.time_ms = wrong_ms
        assert code_of(town.verifier(1).work(TASK)) == "blob.unavailable"
    assert code_of(verifier.work(TASK)) == "blob.unavailable"
    town.time_ms += VERDICT_MS * BLOB_WAIT_PERCENT // 100 - 1
    assert code_of(verifier.work(TASK)) == "blob.unavailable"
    assert town.submitted == []
    town.time_ms += 1
    run(verifier.work(TASK))

    found = sealed(town, 1)
    assert {name: item.decision for name, item in found.items()} == {
        "hospital-2": Decision.PASS,
        "hospital-3": Decision.ABSTAIN,
        "hospital-4": Decision.PASS,
    }
    assert (found["hospital-3"].code, found["hospital-3"].score_bp) == ("verdict.no_blob", None)


def test_a_verifier_that_is_no_site_says_so(tmp_path: Path) -> None:
    """As a trainer does."""
    town = opened(tmp_path, sites=tuple(site(number) for number in (1, 2, 3)))
    for number in (1, 2, 3):
        run(town.trainer(number).work(TASK))

    assert code_of(town.verifier(4).work(TASK)) == "peer.not_a_site"


def test_a_verifier_refuses_rows_that_are_not_the_registered_ones(tmp_path: Path) -> None:
    """A score on other rows would be worth nothing."""
    town = submitted(tmp_path)
    path = town.path(1)
    path.write_text(path.read_text().replace(",yes\n", ",no\n", 1))

    assert code_of(town.verifier(1).work(TASK)) == "peer.dataset_root"
    assert town.submitted == []


def test_nothing_of_a_patient_leaves_or_is_logged(tmp_path: Path) -> None:
    """Transactions, blobs and logs of a whole round hold no identifier and no exact count."""
    with structlog.testing.capture_logs() as logs:
        town = opened(tmp_path)
        for role in (town.verifier, town.trainer, town.verifier, town.verifier):
            for number in NUMBERS:
                run(role(number).work(TASK))
        sent = [pack(body) for body in town.submitted] + list(town.blobs.values())

    assert logs
    assert phase(town) is RoundPhase.AGGREGATE
    assert len(sent) == 4 * 4 + 4 + 1  # proofs, three steps of verifiers, updates and the base
    assert not any(PATIENT.encode() in data for data in sent)
    assert PATIENT not in str(logs)
    assert town.chain.get(Dataset, "opt-1").rows.low != town.chain.get(Dataset, "opt-1").rows.high
