"""The trainer: trains on registered rows alone, submits once a round, leaks nothing."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog.testing

from fl.approval import terms_digest
from fl.body import ApproveTask, DeclineRound, ProofOfLearning, WithdrawApproval
from fl.spec import logistic_regression
from fl.trace import origin
from fl.train import Keep, Result, Snapshot, train
from fl.weights import unpack_update
from node.client.client import Client
from node.peer import trainer as module
from node.peer import training
from node.peer.retention import expire
from node.peer.training import Assignment, Train, Trained
from tests.fl.dialogue import TASK, TERMS, aggregate, approval, opening, site, speak, withdrawal
from tests.harness import Item
from tests.node import hospital
from tests.node.hospital import BASE, BASE_ADDRESS, Town
from tests.node.peer.looks import code_of, committed, opened, run, submitted
from vm.learning import Round, RoundPhase, SiteApproval, Task, Update, UpdateStatus
from vm.record import Dataset
from vm.refusal import Refused
from vm.shape import pack
from vm.state import state_key
from vm.terms import Evidence


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


def test_a_trainer_says_on_the_chain_what_its_site_has_approved(tmp_path: Path) -> None:
    """Before its first update, by the digest of the very terms that it has read, and once."""
    town = Town(tmp_path)
    town.chain.applied([opening()])

    for again in (town.trainer(2), town.trainer(2)):
        run(again.work(TASK))

    assert [type(body) for body in town.submitted] == [ApproveTask, ProofOfLearning]
    found = town.chain.get(SiteApproval, TASK, "hospital-2")
    assert (found.terms, found.stands) == (terms_digest(TERMS), True)


def test_a_site_that_asks_first_says_nothing_before_somebody_has_answered(tmp_path: Path) -> None:
    """A steward elsewhere has named it; that alone approves nothing."""
    town = Town(tmp_path)
    town.chain.applied([opening()])

    assert code_of(town.trainer(2, mode="ask").work(TASK)) == "peer.not_approved"
    assert town.submitted == []


def test_a_trainer_gives_no_approval_again_that_was_withdrawn(tmp_path: Path) -> None:
    """Its steward or admin may have withdrawn it; only a person here says otherwise."""
    town = opened(tmp_path)
    _, kind, body = withdrawal(2)
    town.chain.applied([("hospital-2.admin", kind, body)])

    assert code_of(town.trainer(2).work(TASK)) == "peer.withdrawn"
    assert town.submitted == []


def test_nothing_leaves_after_a_withdrawal_within_the_training(tmp_path: Path) -> None:
    """Training goes on for hours; the update is asked for its site's word before it is brought."""
    town = Town(tmp_path)
    town.chain.applied([opening(), approval(2)])

    def interrupted(*arguments: Any, **named: Any) -> Result:
        town.approvals(2, "ask").withdraw(TASK)
        return train(*arguments, **named)

    town.approvals(2, "ask").approve(town.chain.get(Task, TASK))
    trainer = town.trainer(2, mode="ask", train=interrupted)

    assert code_of(trainer.work(TASK)) == "peer.not_approved"
    assert (town.brought, town.submitted) == ([], [])


def test_a_withdrawal_while_the_approval_is_on_its_way_is_said_too(tmp_path: Path) -> None:
    """The person who withdrew found nothing on the chain yet; the peer says it behind itself."""
    town = Town(tmp_path)
    town.chain.applied([opening()])
    trainer = town.trainer(2)
    submit = trainer._submitter.submit

    async def slowly(kind: str, body: object) -> Any:
        receipt = await submit(kind, body)
        trainer._approvals = town.approvals(2, "ask", {})
        town.approvals(2, "ask").withdraw(TASK)
        return receipt

    trainer._submitter.submit = slowly  # type: ignore[method-assign]

    assert code_of(trainer.work(TASK)) == "peer.not_approved"
    assert [type(body) for body in town.submitted] == [ApproveTask, WithdrawApproval]
    assert not town.chain.get(SiteApproval, TASK, "hospital-2").stands


def test_a_training_goes_on_while_no_node_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short outage costs no hours of training: who cannot say is not heard."""
    town = opened(tmp_path)
    monkeypatch.setattr(module, "LOOK_S", 0)
    trainer = town.trainer(2)
    board, refused, asked = trainer._board, 0, asyncio.Event()
    away = False

    async def record(cls: Any, *key: str | int) -> Any:
        nonlocal refused
        if not away:
            return town.chain.state.get(cls, *key)
        refused += 1
        if refused == 3:
            asked.set()
        raise Refused("client.unreachable", "expected a node, found none")

    class Slow:
        async def train(self, assignment: Assignment) -> Trained:
            nonlocal away
            away = True
            await asyncio.wait_for(asked.wait(), 30)
            away = False
            return await town.trainer(2)._training(TASK).train(assignment)

    trainer._training = lambda task: Slow()
    monkeypatch.setattr(board, "record", record)
    run(trainer.work(TASK))

    assert town.chain.get(Update, TASK, 1, "hospital-2").organisation == "hospital-2"
    assert refused >= 3


def test_a_trainer_approves_nothing_that_it_cannot_train(tmp_path: Path) -> None:
    """With rows that are not the registered ones it would be waited for, and absent each time."""
    town = Town(tmp_path)
    town.chain.applied([opening()])
    town.path(2).write_text(town.path(3).read_text())

    assert code_of(town.trainer(2).work(TASK)) == "peer.dataset_root"
    assert town.submitted == []


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
    committed(town)
    trainers = [town.trainer(number) for number in (1, 2, 3, 4)]
    for trainer in trainers:
        run(trainer.work(TASK))
    speak(town.chain)
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


# Crashes and deadlines


class Killed(BaseException):
    """What no trainer survives."""


def killed_after(segments: int) -> Train:
    """Training in a process that is killed once so many segments are on disk."""

    def doomed(*arguments: Any, keep: Keep | None = None, **options: Any) -> Result:
        def dying(count: int, snapshot: Snapshot) -> None:
            assert keep is not None
            keep(count, snapshot)
            if count == segments:
                raise Killed

        return train(*arguments, keep=dying, **options)

    return doomed


def updates(town: Town) -> str:
    """The address of hospital 1's update."""
    return town.chain.get(Update, TASK, 1, "hospital-1").blob


def test_a_trainer_goes_on_from_its_newest_snapshot(tmp_path: Path) -> None:
    """What comes out is, byte for byte, the update of a trainer that was never killed."""
    whole = opened(tmp_path / "whole")
    run(whole.trainer(1).work(TASK))
    town = opened(tmp_path / "killed")
    with pytest.raises(Killed):
        run(town.trainer(1, train=killed_after(2)).work(TASK))
    steps: list[int] = []

    with structlog.testing.capture_logs() as logs:
        shown = town.trainer(1, on_stage=lambda _: lambda step, n, loss: steps.append(step))
        run(shown.work(TASK))

    (resumed,) = [line for line in logs if line["event"] == "round.resumed"]
    assert (resumed["segment"], resumed["segments"]) == (2, 4)
    assert steps == list(range(11, 21))  # of 20: five to a segment, two segments done
    assert updates(town) == updates(whole)


def test_a_trainer_killed_before_it_could_submit_trains_no_step_again(tmp_path: Path) -> None:
    """All segments are there; the update is made of them."""
    whole = opened(tmp_path / "whole")
    run(whole.trainer(1).work(TASK))
    town = opened(tmp_path / "killed")
    with pytest.raises(Killed):
        run(town.trainer(1, train=killed_after(4)).work(TASK))
    steps: list[int] = []

    run(town.trainer(1, on_stage=lambda _: lambda step, n, loss: steps.append(step)).work(TASK))

    assert steps == []
    assert updates(town) == updates(whole)


def test_the_trace_stays_as_long_as_an_auditor_may_ask(tmp_path: Path) -> None:
    """As many segments as the update has; after the task's retention it is gone.

    The round's own deadline counts, which a chain that stood still has set later than any terms.
    """
    town = opened(tmp_path, trace_retention_ms=1_000)
    client, traces = cast(Client, town.board()), town.traces(1)

    def expired(now_ms: int) -> int:
        return asyncio.run(expire(traces, client, now_ms))

    run(town.trainer(1).work(TASK))
    trace = traces.find(TASK, 1)
    assert trace is not None
    assert len(trace.segments()) == town.chain.get(Update, TASK, 1, "hospital-1").segments
    assert expired(2**53) == 0  # the round is under way

    opened_ms = town.chain.get(Round, TASK, 1).opened_ms
    town.chain.block(time_ms=opened_ms + 10**9)
    ended = town.chain.get(Round, TASK, 1)
    assert ended.phase is RoundPhase.FAILED
    late = replace(ended, deadline_ms=opened_ms + 10**9)
    town.chain.stored[state_key(Round.KIND, late.key)] = pack(late)

    assert expired(opened_ms + 10**9 + 1_000) == 0
    assert expired(opened_ms + 10**9 + 1_001) == 1
    assert traces.find(TASK, 1) is None


class Endless:
    """Training that never comes to its end."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self.trainings = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Step after step."""
        on_step = arguments[3]
        self.trainings += 1
        while True:
            on_step(1, 20, 0.5)
            self._begun.set()
            time.sleep(0)  # lets the others run

    async def begun(self) -> None:
        """Return once it has made a step."""
        await asyncio.to_thread(self._begun.wait)


def test_a_straggler_ends_with_the_round_that_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training is broken off with a sentence that says why; nothing is sent or kept."""
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    town = committed(opened(tmp_path))
    for number in (2, 3, 4):
        run(town.trainer(number).work(TASK))
    town.submitted.clear()
    deadline_ms = town.chain.get(Round, TASK, 1).deadline_ms

    async def scenario() -> None:
        endless = Endless()
        work = asyncio.create_task(town.trainer(1, train=endless).work(TASK))
        await endless.begun()
        assert not work.done()
        town.chain.block(time_ms=deadline_ms)
        await work

    with pytest.raises(Refused) as late:
        asyncio.run(asyncio.wait_for(scenario(), 30))

    assert late.value.code == "peer.late"
    assert "found it in phase verdict after 0 segments" in late.value.message
    assert town.submitted == []
    assert town.traces(1).find(TASK, 1) is None


def declining(number: int) -> Item:
    """Hospital `number`'s trainer declines the first round."""
    body = DeclineRound(TASK, 1, "site.maintenance", "the machine is moved today")
    return f"hospital-{number}.trainer", "learning.decline", body


def test_a_declined_round_is_not_trained(tmp_path: Path) -> None:
    """No row is read for it."""
    town = opened(tmp_path)
    town.chain.applied([declining(1)])

    run(town.trainer(1).work(TASK))

    assert (town.submitted, town.loads) == ([], 0)


def test_declining_ends_a_training_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody at the site decided; nothing of it is sent or kept."""
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    town = opened(tmp_path)

    async def scenario() -> None:
        endless = Endless()
        work = asyncio.create_task(town.trainer(1, train=endless).work(TASK))
        await endless.begun()
        town.chain.applied([declining(1)])
        await work

    with pytest.raises(Refused, match=r"peer\.declined: .*as site\.maintenance"):
        asyncio.run(asyncio.wait_for(scenario(), 30))

    assert town.submitted == []
    assert town.traces(1).find(TASK, 1) is None


def test_an_update_that_the_chain_finds_late_is_said_to_be(tmp_path: Path) -> None:
    """Between the last look and the submission the deadline may pass."""
    town = opened(tmp_path)
    for number in (2, 3, 4):
        run(town.trainer(number).work(TASK))
    trainer = town.trainer(1)
    bring = trainer._exchange.bring
    deadline_ms = town.chain.get(Round, TASK, 1).deadline_ms

    async def bring_late(content: bytes) -> str:
        town.chain.block(time_ms=deadline_ms)
        return await bring(content)

    trainer._exchange.bring = bring_late  # type: ignore[method-assign]

    assert code_of(trainer.work(TASK)) == "peer.late"


def test_a_peer_that_is_stopped_ends_its_training_within_a_step(tmp_path: Path) -> None:
    """Stopping does not wait for the end of a round."""
    town = opened(tmp_path)

    async def scenario() -> None:
        endless = Endless()
        work = asyncio.create_task(town.trainer(1, train=endless).work(TASK))
        await endless.begun()
        work.cancel()
        await work

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_training_that_waits_for_its_turn_ends_at_once_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no step for it: only so many train at a time, and it never began."""
    monkeypatch.setattr(training, "TRAININGS_MAX", 1)
    town = opened(tmp_path)
    endless = Endless()
    trainer = town.trainer(1, train=endless)
    local = trainer._training(TASK)
    assert isinstance(local, training.Local)

    async def scenario() -> int:
        first = asyncio.create_task(trainer.work(TASK))
        await endless.begun()
        second = asyncio.create_task(trainer.work(TASK))
        while not local._pool._work_queue.qsize():  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return endless.trainings

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == 1
