"""The verifier: judges the others' updates alone, and keeps none of them."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog.testing

from fl.body import SubmitVerdict
from fl.fixed import norm
from fl.train import train
from node.peer.verifier import BLOB_WAIT_PERCENT
from tests.fl.dialogue import TASK, VERDICT_MS, site
from tests.harness import organisation
from tests.node.hospital import PATIENT
from tests.node.peer.looks import code_of, opened, phase, run, submitted, verdicts
from vm.learning import Decision, RoundPhase, Update
from vm.record import Dataset
from vm.refusal import Refused
from vm.shape import pack


def test_verifiers_judge_the_others_updates(tmp_path: Path) -> None:
    """Each of the other three, never its own hospital's; then the round goes on."""
    town = submitted(tmp_path)

    for number in (1, 2, 3, 4):
        run(town.verifier(number).work(TASK))

    for number in (1, 2, 3, 4):
        found = verdicts(town, number)
        assert set(found) == {organisation(n) for n in (1, 2, 3, 4) if n != number}
        assert {item.decision for item in found.values()} == {Decision.PASS}
        assert all(item.score_bp is not None for item in found.values())
    assert phase(town) is RoundPhase.AGGREGATE


def test_an_update_is_judged_once(tmp_path: Path) -> None:
    """A verifier that was stopped after some verdicts gives the others when it is back."""
    town = submitted(tmp_path)
    run(town.verifier(1).work(TASK))
    first = town.submitted.pop()
    assert isinstance(first, SubmitVerdict)
    town.submitted.clear()

    run(town.verifier(1).work(TASK))

    assert town.submitted == []
    assert len(verdicts(town, 1)) == 3


def test_a_refused_verdict_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """Each is submitted and waited for; the next look submits again only what was refused."""
    town = submitted(tmp_path)
    verifier = town.verifier(1)
    send = verifier._submitter.submit

    async def refuse_one(kind: str, body: Any) -> Any:
        if body.organisation == "hospital-2":
            raise Refused("client.no_validator", "expected an answer, found none")
        for _ in range(3):
            await asyncio.sleep(0)
        return await send(kind, body)

    verifier._submitter.submit = refuse_one  # type: ignore[method-assign]
    assert code_of(verifier.work(TASK)) == "client.no_validator"
    assert set(verdicts(town, 1)) == {"hospital-3", "hospital-4"}
    town.submitted.clear()

    run(town.verifier(1).work(TASK))

    assert len(town.submitted) == 1
    assert set(verdicts(town, 1)) == {"hospital-2", "hospital-3", "hospital-4"}


def test_an_update_passes_only_once_enough_validators_hold_it(tmp_path: Path) -> None:
    """A trainer's own validator may refuse all others, and each round would end without quorum.

    So who passes an update has it where an honest validator can get it, or does not pass it.
    """
    town = submitted(tmp_path)
    blobs = {n: town.chain.get(Update, TASK, 1, organisation(n)).blob for n in (2, 3, 4)}
    town.brought.clear()
    town.refusing = {blobs[3]}

    assert code_of(town.verifier(1).work(TASK)) == "blob.too_few_copies"
    assert set(verdicts(town, 1)) == {"hospital-2", "hospital-4"}
    assert sorted(town.brought) == sorted([blobs[2], blobs[4]])
    town.refusing.clear()
    run(town.verifier(1).work(TASK))

    assert blobs[3] in town.brought
    assert verdicts(town, 1)["hospital-3"].decision is Decision.PASS


def test_an_update_that_fails_is_brought_nowhere(tmp_path: Path) -> None:
    """Nobody needs its bytes: it is not aggregated."""
    town = submitted(tmp_path)
    blob = town.chain.get(Update, TASK, 1, "hospital-3").blob
    town.blobs[blob] = bytes(len(town.blobs[blob]))
    town.brought.clear()

    run(town.verifier(1).work(TASK))

    assert len(town.brought) == 2
    assert blob not in town.brought


def test_a_poisoned_update_is_failed_by_its_norm(tmp_path: Path) -> None:
    """A sign flip, scaled up, is named for what it is by every verifier."""
    town = opened(tmp_path)

    def poison(*arguments: Any, **options: Any) -> Any:
        result = train(*arguments, **options)
        delta = result.delta * -10
        return replace(result, delta=delta, norm=norm(delta))

    for number in (1, 2, 3):
        run(town.trainer(number).work(TASK))
    run(town.trainer(4, train=poison).work(TASK))
    for number in (1, 2, 3):
        run(town.verifier(number).work(TASK))

    for number in (1, 2, 3):
        verdict = verdicts(town, number)["hospital-4"]
        assert verdict.decision is Decision.FAIL
        assert verdict.code == "update.norm_bound"


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

    assert len(verdicts(town, 2)) == 3


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

    found = verdicts(town, 1)
    assert {name: item.decision for name, item in found.items()} == {
        "hospital-2": Decision.PASS,
        "hospital-3": Decision.ABSTAIN,
        "hospital-4": Decision.PASS,
    }
    assert (found["hospital-3"].code, found["hospital-3"].score_bp) == ("verdict.no_blob", None)


def test_a_blob_that_is_no_update_is_failed(tmp_path: Path) -> None:
    """What was brought under a good address but has no form is the trainer's fault."""
    town = submitted(tmp_path)
    blob = town.chain.get(Update, TASK, 1, "hospital-3").blob
    town.blobs[blob] = bytes(len(town.blobs[blob]))

    run(town.verifier(1).work(TASK))

    assert verdicts(town, 1)["hospital-3"].decision is Decision.FAIL
    assert verdicts(town, 1)["hospital-2"].decision is Decision.PASS


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
        for role in (town.trainer, town.verifier):
            for number in (1, 2, 3, 4):
                run(role(number).work(TASK))
        sent = [pack(body) for body in town.submitted] + list(town.blobs.values())

    assert logs
    assert len(sent) == 4 + 4 * 3 + 4 + 1  # proofs, verdicts, updates and the base
    assert not any(PATIENT.encode() in data for data in sent)
    assert PATIENT not in str(logs)
    assert town.chain.get(Dataset, "opt-1").rows.low != town.chain.get(Dataset, "opt-1").rows.high
