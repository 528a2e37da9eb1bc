"""The trainer: what a crash, a deadline or a decline leaves of its training."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog.testing

from fl.body import DeclineRound
from fl.trace import origin, root
from fl.train import Keep, Result, Snapshot, train
from node.client.client import Client
from node.peer import training, watch
from node.peer.retention import ENDED, expire
from node.peer.traces import TraceStore
from node.peer.trainer import Trainer
from node.peer.training import Local, Train
from tests.fl.dialogue import TASK
from tests.harness import Item
from tests.node.hospital import Town
from tests.node.peer.looks import code_of, committed, opened, run
from vm.learning import Round, RoundPhase, Update
from vm.refusal import Refused
from vm.shape import pack
from vm.state import state_key


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
    client, traces, submitted = cast(Client, town.board()), town.traces(1), set[tuple[str, int]]()

    def expired(now_ms: int) -> int:
        return asyncio.run(expire(traces, client, now_ms, submitted))

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


def test_a_training_of_which_nothing_was_submitted_leaves_no_trace(tmp_path: Path) -> None:
    """Its peer was away as the round ended: no auditor asks for it, however long others are kept.

    While the round is under way it stays, for its update may still come.
    """
    town = opened(tmp_path)
    with pytest.raises(Killed):
        run(town.trainer(1, train=killed_after(2)).work(TASK))
    for number in (2, 3, 4):
        run(town.trainer(number).work(TASK))
    client = cast(Client, town.board())
    assert asyncio.run(expire(town.traces(1), client, 0, set())) == 0

    while town.chain.get(Round, TASK, 1).phase not in ENDED:
        town.chain.block(time_ms=town.chain.time_ms + 10**6)
    submitted = set[tuple[str, int]]()
    found = [asyncio.run(expire(town.traces(number), client, 0, submitted)) for number in (1, 2)]

    assert found == [1, 0]
    nobody = cast(Client, None)  # what is known to be submitted is not asked for again
    assert asyncio.run(expire(town.traces(2), nobody, 0, submitted)) == 0
    assert town.traces(1).find(TASK, 1) is None
    assert town.traces(2).find(TASK, 1) is not None


def test_a_trace_that_names_nothing_on_the_chain_goes_by_its_own_time(tmp_path: Path) -> None:
    """As from a store of another chain: not in the very last millisecond of it."""
    town = opened(tmp_path)
    run(town.trainer(1).work(TASK))
    traces, empty = town.traces(1), Town(tmp_path / "empty")
    trace = traces.find(TASK, 1)
    assert trace is not None

    def expired(now_ms: int) -> int:
        return asyncio.run(expire(traces, cast(Client, empty.board()), now_ms, set()))

    assert expired(trace.head.until_ms) == 0
    assert expired(trace.head.until_ms + 1) == 1


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
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
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
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
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


def test_a_trace_stays_while_nobody_can_say_whether_its_update_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node refuses what comes too late, and then none answers."""
    town = opened(tmp_path)
    trainer = town.trainer(1)

    async def late(kind: str, body: object) -> Any:
        monkeypatch.setattr(type(trainer._board), "together", away)
        raise Refused("round.phase", "expected the round to take updates, found it under judgement")

    async def away(*_: object) -> Any:
        raise Refused("client.unreachable", "expected an answer, found none")

    trainer._submitter.submit = late  # type: ignore[method-assign]

    assert code_of(trainer.work(TASK)) == "round.phase"
    assert town.traces(1).find(TASK, 1) is not None


def test_an_update_that_arrives_while_its_peer_starts_again_keeps_its_trace(
    tmp_path: Path,
) -> None:
    """Sent before a crash, it ends the phase; sent again it is late, and that is no fault."""
    town = committed(opened(tmp_path))
    for number in (2, 3, 4):
        run(town.trainer(number).work(TASK))
    pending: list[Item] = []
    trainer = killed_while_sending(town, pending)
    submit = trainer._submitter.submit

    async def later(kind: str, body: object) -> Any:
        town.chain.applied(pending)
        return await submit(kind, body)

    trainer._submitter.submit = later  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logs:
        run(trainer.work(TASK))

    assert logs[-1]["event"] == "round.submitted"
    assert town.chain.get(Round, TASK, 1).phase is RoundPhase.VERDICT
    trace = town.traces(1).find(TASK, 1)
    assert trace is not None
    assert len(trace.segments()) == town.chain.get(Update, TASK, 1, "hospital-1").segments


@pytest.mark.parametrize("snapshots", [16, 8], ids=["room", "half the room"])
def test_a_training_ends_once_its_update_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshots: int
) -> None:
    """Whoever still trains, or waits for a script, has nothing to send any more.

    What is kept is the trace of that update, whatever room there is since the peer started again.
    """
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
    town, pending, endless = opened(tmp_path), list[Item](), Endless()
    trainer = killed_while_sending(town, pending)
    before = town.traces(1).find(TASK, 1)
    assert before is not None
    room = TraceStore(tmp_path / "hospital-1", snapshots * before.head.snapshot_bytes)
    trainer._traces, trainer._training = room, lambda task: Local(room, endless)

    async def scenario() -> None:
        work = asyncio.create_task(trainer.work(TASK))
        await endless.begun()
        town.chain.applied(pending)
        await work

    asyncio.run(asyncio.wait_for(scenario(), 30))

    trace, update = room.find(TASK, 1), town.chain.get(Update, TASK, 1, "hospital-1")
    assert trace is not None
    assert root(origin(update), trace.segments()) == update.trace


def killed_while_sending(town: Town, pending: list[Item]) -> Trainer:
    """Hospital 1's trainer, started again: the first was killed with its proof in `pending`."""
    first = town.trainer(1)

    async def killed(kind: str, body: object) -> Any:
        pending.append((first._submitter.member, kind, body))
        raise Killed

    first._submitter.submit = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run(first.work(TASK))
    return town.trainer(1)


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
