"""The training peer: trains on registered rows alone, judges the others' updates, leaks nothing."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from fl.body import SubmitVerdict
from fl.fixed import norm
from fl.spec import logistic_regression
from fl.trace import origin
from fl.train import train
from fl.weights import unpack_update
from node.client.watch import Watch
from node.peer import training
from node.peer.training import BLOB_WAIT_PERCENT, attend, find_stage
from tests.fl.dialogue import MODEL, TASK, VERDICT_MS, aggregate, site
from tests.harness import organisation
from tests.node import hospital
from tests.node.hospital import BASE, BASE_ADDRESS, PATIENT, Town
from vm.learning import Decision, Evidence, Round, RoundPhase, Update, UpdateStatus, Verdict
from vm.record import Dataset
from vm.refusal import Refused
from vm.shape import pack


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one look at the task to its end."""
    asyncio.run(work)


def code_of(work: Coroutine[Any, Any, None]) -> str:
    """The code with which one look at the task is refused."""
    with pytest.raises(Refused) as refused:
        asyncio.run(work)
    return refused.value.code


def opened(folder: Path, **changes: Any) -> Town:
    """A town whose task waits for updates."""
    town = Town(folder)
    town.open(**changes)
    return town


def submitted(folder: Path) -> Town:
    """A town whose task waits for verdicts."""
    town = opened(folder)
    for number in (1, 2, 3, 4):
        run(town.trainer(number).work(TASK))
    assert phase(town) is RoundPhase.VERDICT
    town.submitted.clear()
    return town


def phase(town: Town) -> RoundPhase:
    """The first round's phase."""
    return town.chain.get(Round, TASK, 1).phase


def verdicts(town: Town, judge: int) -> dict[str, Verdict]:
    """What a hospital's verifier has said, by the organisation that it judged."""
    found = (
        town.chain.state.get(Verdict, TASK, 1, organisation(n), organisation(judge))
        for n in (1, 2, 3, 4)
    )
    return {item.organisation: item for item in found if item is not None}


# The trainer


def test_a_trainer_submits_its_update(tmp_path: Path) -> None:
    """The blob is brought first, then named by a transaction that the chain takes."""
    town = opened(tmp_path)

    run(town.trainer(2).work(TASK))

    update = town.chain.get(Update, TASK, 1, "hospital-2")
    blob = town.blobs[update.blob]
    found = unpack_update(logistic_regression(2), 24, origin(update), update.segments, blob)
    delta, segments = found
    assert (update.status, update.blob_bytes) == (UpdateStatus.SUBMITTED, len(blob))
    assert (len(segments), update.dataset) == (4, "opt-2")
    assert any(delta.tolist())


def test_one_update_a_round(tmp_path: Path) -> None:
    """Neither another look nor a restart trains again."""
    town = opened(tmp_path)
    trainer = town.trainer(1)

    for again in (trainer, trainer, town.trainer(1)):
        run(again.work(TASK))

    assert len(town.submitted) == 1
    assert town.loads == 1


def test_rows_are_prepared_once_for_all_rounds(tmp_path: Path) -> None:
    """They are the same in every round of a task."""
    town = opened(tmp_path)
    trainers = [town.trainer(number) for number in (1, 2, 3, 4)]
    for trainer in trainers:
        run(trainer.work(TASK))
    for number in (1, 2, 3, 4):
        run(town.verifier(number).work(TASK))
    weights: dict[str, Any] = {"result": BASE_ADDRESS, "result_bytes": len(BASE)}
    town.chain.applied([aggregate(town.chain, number, **weights) for number in (1, 2, 3)])
    town.loads = 0

    run(trainers[0].work(TASK))

    assert town.chain.get(Update, TASK, 2, "hospital-1").base_version == 1
    assert town.loads == 0


def test_a_trainer_has_nothing_to_do_in_other_phases(tmp_path: Path) -> None:
    """Before the task is open, in the verdict phase, and for a task that is not there."""
    early = Town(tmp_path)
    run(early.trainer(1).work(TASK))
    early.open()
    run(early.trainer(1).work("another"))
    assert early.submitted == []
    later = submitted(tmp_path)

    run(later.trainer(1).work(TASK))

    assert later.submitted == []


def test_a_trainer_that_is_no_site_says_so(tmp_path: Path) -> None:
    """A task in the configuration that others agreed on without us is a mistake to be shown."""
    town = opened(tmp_path, sites=tuple(site(number) for number in (1, 2, 3)))

    assert code_of(town.trainer(4).work(TASK)) == "peer.not_a_site"
    assert town.loads == 0


def test_a_trainer_opens_nothing_that_its_site_does_not_permit(tmp_path: Path) -> None:
    """The dataset's record alone does not decide: the site's own configuration must agree."""
    town = opened(tmp_path, evidence=Evidence.REPLAYED)
    assert town.chain.get(Dataset, "opt-1").opening

    assert code_of(town.trainer(1).work(TASK)) == "peer.opening"
    assert (town.submitted, town.loads) == ([], 0)
    run(town.trainer(1, opening=True).work(TASK))

    assert town.chain.get(Update, TASK, 1, "hospital-1").evidence is Evidence.REPLAYED


def test_a_trainer_refuses_rows_that_are_not_the_registered_ones(tmp_path: Path) -> None:
    """Nothing is trained, brought or submitted: the hospital must register the new rows first."""
    town = opened(tmp_path)
    path = town.path(1)
    path.write_text(path.read_text().replace(",yes\n", ",no\n", 1))
    blobs = dict(town.blobs)

    assert code_of(town.trainer(1).work(TASK)) == "peer.dataset_root"

    assert (town.submitted, town.blobs) == ([], blobs)
    assert code_of(town.trainer(1).work(TASK)) == "peer.dataset_root"


def test_a_trainer_with_a_handful_of_rows_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its update would tell of single patients, whatever the steward's terms."""
    monkeypatch.setattr(hospital, "ROWS", 24)
    town = opened(tmp_path)

    assert code_of(town.trainer(1).work(TASK)) == "peer.too_few_rows"
    assert town.submitted == []


def test_a_trainer_without_its_file_says_so(tmp_path: Path) -> None:
    """And goes on as soon as the file is there: what failed is not remembered."""
    town = opened(tmp_path)
    trainer, path = town.trainer(1), town.path(1)
    content = path.read_text()
    path.unlink()
    assert code_of(trainer.work(TASK)) == "peer.data"

    path.write_text(content)
    run(trainer.work(TASK))

    assert len(town.submitted) == 1


def test_a_trainer_waits_for_the_base_model(tmp_path: Path) -> None:
    """A validator that cannot give the weights yet is asked again later."""
    town = opened(tmp_path)
    base = town.blobs.pop(BASE_ADDRESS)

    assert code_of(town.trainer(1).work(TASK)) == "blob.unavailable"
    town.blobs[BASE_ADDRESS] = base
    run(town.trainer(1).work(TASK))

    assert len(town.submitted) == 1


# The verifier


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

    def poison(*arguments: Any) -> Any:
        result = train(*arguments)
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


# Both


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


def test_a_stage_is_a_task_in_the_phase_that_was_asked_for(tmp_path: Path) -> None:
    """With the round and the model version that it starts from."""
    town = opened(tmp_path)
    client = town.watch()._client

    found = asyncio.run(find_stage(client, TASK, RoundPhase.SUBMIT))

    assert found is not None
    assert (found.task.id, found.round.number, found.base.id) == (TASK, 1, MODEL)
    assert asyncio.run(find_stage(client, TASK, RoundPhase.VERDICT)) is None
    assert asyncio.run(find_stage(client, "another", RoundPhase.SUBMIT)) is None


def test_a_site_takes_part_in_the_tasks_of_its_configuration_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hospital opts out by not naming a task; one that is refused does not stop the next."""
    monkeypatch.setattr(training, "RETRY_S", 0)
    looked: list[str] = []

    async def work(task: str) -> None:
        looked.append(task)
        if len(looked) == 4:
            raise Enough
        if task == "first":
            raise Refused("peer.not_a_site", "expected to be one")

    watch = Town(tmp_path).watch()
    watch.count = 1
    monkeypatch.setattr(Watch, "wait", _at_once)

    with pytest.raises(Enough):
        asyncio.run(attend(work, ("first", "second"), watch))

    assert looked == ["first", "second"] * 2


class Enough(BaseException):
    """The end of a test: nothing that a task can raise."""


def test_a_task_that_breaks_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A steward's or trainer's numbers may break one task's work; the log tells what, no data."""
    monkeypatch.setattr(training, "RETRY_S", 0)
    monkeypatch.setattr(Watch, "wait", _at_once)
    looked: list[str] = []

    async def work(task: str) -> None:
        looked.append(task)
        if len(looked) == 4:
            raise Enough
        if task == "first":
            raise ValueError(PATIENT)

    with structlog.testing.capture_logs() as logs, pytest.raises(Enough):
        asyncio.run(attend(work, ("first", "second"), Town(tmp_path).watch()))

    assert looked == ["first", "second"] * 2
    assert [(line["event"], line["task"], line["type"]) for line in logs] == [
        ("peer.broken", "first", "ValueError")
    ] * 2
    assert PATIENT not in str(logs)


async def _at_once(watch: object, seen: int) -> None:
    await asyncio.sleep(0)
