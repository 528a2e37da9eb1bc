"""The peer's end of a socket for a site's own training loop (`fl.loop` is the script's).

The script runs in a process and an environment of its own, as the same user: the socket's mode is
600. It gets a round's weights and training rows and hands back snapshots on the grid; nothing of
its code runs here, and what it sends is read within bounds. What it did between two snapshots
nobody can replay from outside, so its update is of class committed at most, and scored if it comes
without snapshots. The segments commit to the digests of script and environment.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import structlog

from fl import frames
from fl.fixed import Int32s, distance, norm
from fl.frames import Array, Join, Kept, Message, Offer, Taken, Turned
from fl.trace import Segment, segments_due
from fl.train import Result, Snapshot
from fl.weights import digest_ints
from node.peer.traces import Head, Trace, TraceStore
from node.peer.training import Assignment, Trained, head_of
from vm.digest import BATCHES, OPTIMIZER, WEIGHTS, digest
from vm.encoding import encode
from vm.learning import OwnLoop
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX
from vm.terms import Evidence

PATH_BYTES_MAX = 107  # of a Unix socket's address on Linux (unix(7))
CONNECTIONS_MAX = 8
JOIN_S = 10.0  # for the first frame: who connects has something to say
INT_BYTES = 4

# Waits until no further round of a task comes for this site; why not.
End = Callable[[str], Awaitable[Refused]]

log = structlog.get_logger()


@dataclass(slots=True)
class _Waiting:
    """A round that waits for a script, and who serves the one that has come."""

    assignment: Assignment
    update: "asyncio.Future[Trained]"
    server: "asyncio.Task[None] | None" = None

    @property
    def answered(self) -> bool:
        """Whether the update is there; once nobody waits for it, it will not be."""
        return self.update.done() and not self.update.cancelled()


class Loop:
    """Trains by scripts that join over the socket; use it as an asynchronous context manager."""

    def __init__(self, path: Path, tasks: Iterable[str], traces: TraceStore, end: End) -> None:
        """`tasks` are those that scripts of this site train."""
        self._path = path
        self._tasks = frozenset(tasks)
        self._traces = traces
        self._end = end
        self._waiting: dict[str, _Waiting] = {}
        self._changed = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connect, sock=_bind(self._path))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def train(self, assignment: Assignment) -> Trained:
        """The update that a script hands over, or has before; cancelled, it tells the script.

        What was handed over whole is the round's update, also after a restart or an outage: its
        proof may be on its way to the chain, and its script has gone on.
        """
        task = assignment.stage.task
        if task.terms.evidence is Evidence.COMMITTED and not task.terms.own_loops:
            raise Refused(
                "peer.loop_terms",
                f"expected a task that takes updates of a site's own loop, found {task.id}, whose "
                "terms ask for its own recipe: take it out of [loop] tasks",
            )
        if task.terms.evidence is Evidence.REPLAYED:
            raise Refused(
                "peer.loop_evidence",
                f"expected a task that takes updates of class committed, found {task.id}, which "
                "asks for replay, of which a site's own loop is not capable: take it out of [loop] "
                "tasks",
            )
        kept = await asyncio.to_thread(self._kept, assignment)
        if kept is not None:
            return kept
        waiting = _Waiting(assignment, asyncio.get_running_loop().create_future())
        async with self._changed:
            self._waiting[task.id] = waiting
            self._changed.notify_all()
        log.info("loop.awaited", task=task.id, round=assignment.stage.round.number)
        try:
            return await waiting.update
        finally:
            del self._waiting[task.id]
            if waiting.server is not None and not waiting.answered:
                waiting.server.cancel()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None, "asyncio serves each connection in a task"
        self._connections.add(connection)
        try:
            if len(self._connections) > CONNECTIONS_MAX:
                raise Refused(
                    "loop.busy", f"expected at most {CONNECTIONS_MAX} connections, found more"
                )
            await self._serve(reader, writer)
        except Refused as refused:
            log.warning("loop.refused", code=refused.code, reason=refused.message)
            _turn(writer, refused)
        except (OSError, EOFError, TimeoutError) as error:
            log.warning("loop.left", type=type(error).__name__)
        except asyncio.CancelledError:
            _turn(writer, _over())
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One script, from its join to the end of one round."""
        async with asyncio.timeout(JOIN_S):
            joined = await _receive(reader)
        if not isinstance(joined, Join):
            raise Refused("loop.message", f"expected join, found {joined.TAG}")
        if joined.task not in self._tasks:
            raise Refused(
                "loop.task", f"expected a task of [loop] tasks, found {joined.task}: list it there"
            )
        waiting = await self._await_round(joined.task, reader)
        if waiting.update.done():  # as the script came
            raise _over()
        waiting.server = asyncio.current_task()
        try:
            evidence = _evidence(joined, waiting.assignment)
            await _offer(writer, waiting.assignment)
            trained = await self._collect(joined, evidence, waiting.assignment, reader, writer)
            if not waiting.update.done():  # else the round ended just now
                waiting.update.set_result(trained)
            await _acknowledge(writer, done=True)  # whoever has gone by now is done all the same
        finally:
            waiting.server = None
            async with self._changed:
                self._changed.notify_all()

    async def _await_round(self, task: str, reader: asyncio.StreamReader) -> _Waiting:
        """The round that waits for this script, once there is one.

        Ends if the script leaves; raises `Refused` if none will come.
        """

        async def round_of() -> _Waiting:
            async with self._changed:
                while True:
                    found = self._waiting.get(task)
                    if found is not None and found.server is None and not found.update.done():
                        found.server = asyncio.current_task()  # nobody else's from now on
                        return found
                    await self._changed.wait()

        waiting = asyncio.ensure_future(round_of())
        gone = asyncio.ensure_future(reader.read(1))
        end = asyncio.ensure_future(self._end(task))
        try:
            await asyncio.wait([waiting, gone, end], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if end.done():
                raise end.result()
            raise EOFError("the script left, or spoke before it was asked")
        finally:
            for future in (waiting, gone, end):
                future.cancel()
            await asyncio.gather(waiting, gone, end, return_exceptions=True)

    async def _collect(
        self,
        joined: Join,
        evidence: Evidence,
        assignment: Assignment,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> Trained:
        """What a round's snapshots come to, each of which is kept before it is acknowledged.

        The last is not acknowledged here; nor is it kept if the update would be out of range.
        """
        terms, base = assignment.stage.task.terms, assignment.base
        count = segments_due(terms.training, evidence)
        trace: Trace | None = None
        last = Snapshot(base.astype(np.int32), np.zeros(0, np.int32), (), ())
        for index in range(count):
            weights, state = await _receive_snapshot(reader, index, len(base))
            if trace is None:
                trace = await asyncio.to_thread(self._begin, joined, assignment, count, len(state))
            elif len(state) != trace.head.state:
                raise Refused(
                    "loop.state",
                    f"expected {trace.head.state} numbers of state, found {len(state)}",
                )
            last = _after(last, weights, state, joined, index)
            if index + 1 < count:
                await asyncio.to_thread(trace.keep, index + 1, last)
                await _acknowledge(writer, done=False)
        own = OwnLoop(joined.script, joined.environment)
        trained = _trained(assignment, last, evidence, own)
        assert trace is not None, "a round has segments"
        await asyncio.to_thread(trace.keep, count, last)
        await asyncio.to_thread(trace.sync)
        return trained

    def _kept(self, assignment: Assignment) -> Trained | None:
        """What a script has handed over for this assignment; None if that is not whole."""
        task = assignment.stage.task
        trace = self._traces.find(task.id, assignment.stage.round.number)
        if trace is None or trace.head.script is None or trace.head.environment is None:
            return None
        head, own = trace.head, OwnLoop(trace.head.script, trace.head.environment)
        if not head.is_of(_head(assignment, own, head.segments, head.state)):
            return None
        last = trace.newest()
        if last is None or len(last.segments) != head.segments:
            return None
        scored = segments_due(task.terms.training, Evidence.SCORED)
        weakest = task.terms.evidence is Evidence.SCORED and head.segments == scored
        evidence = Evidence.SCORED if weakest else Evidence.COMMITTED
        return _trained(assignment, last, evidence, own)

    def _begin(self, joined: Join, assignment: Assignment, count: int, state: int) -> Trace:
        """An empty trace: a script that joins again starts its round again."""
        own = OwnLoop(joined.script, joined.environment)
        head = _head(assignment, own, count, state)
        self._traces.drop(head.task, head.round)
        return self._traces.begin(head)


def _head(assignment: Assignment, own: OwnLoop, segments: int, state: int) -> Head:
    """Whose training a script's is, for its trace."""
    return replace(
        head_of(assignment),
        script=own.script,
        environment=own.environment,
        segments=segments,
        state=state,
        snapshot_steps=0,  # its losses are the script's own affair
    )


def _trained(assignment: Assignment, last: Snapshot, evidence: Evidence, own: OwnLoop) -> Trained:
    """What a script's training comes to, by its last snapshot."""
    delta = last.weights - assignment.base
    return Trained(Result(delta, norm(delta), last.segments, ()), evidence, own)


def _bind(path: Path) -> socket.socket:
    """A socket at `path` that only its owner may connect to; raises `Refused("loop.socket")`.

    Its mode is set before it listens, so nobody else connects in between.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise Refused(
            "loop.socket",
            f"expected a path of at most {PATH_BYTES_MAX} bytes, found {path}: name a shorter one "
            "in [loop] socket",
        )
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()  # left by a peer that was killed
        bound.bind(os.fspath(path))
        path.chmod(0o600)
    except OSError as error:
        bound.close()
        raise Refused(
            "loop.socket", f"{path}: expected room for a socket, found: {error.strerror}"
        ) from error
    return bound


def _evidence(joined: Join, assignment: Assignment) -> Evidence:
    """What the script's update can claim; raises `Refused` where the task asks for more."""
    task = assignment.stage.task
    if joined.scored and task.terms.evidence is not Evidence.SCORED:
        raise Refused(
            "loop.scored",
            f"expected snapshots, as {task.id} asks for updates of class committed, found an "
            "offer of a scored one",
        )
    if not joined.scored and not task.terms.own_loops:
        raise Refused(
            "loop.terms",
            f"expected an offer without snapshots, as {task.id} takes traces of its own recipe "
            "only, found one with them",
        )
    return Evidence.SCORED if joined.scored else Evidence.COMMITTED


async def _offer(writer: asyncio.StreamWriter, assignment: Assignment) -> None:
    """Send the round: what to train, from which weights, on which rows."""
    stage, rows = assignment.stage, assignment.rows
    offer = Offer(
        task=stage.task.id,
        round=stage.round.number,
        last=stage.task.closed + 1 >= stage.task.terms.rounds or stage.task.closing is not None,
        beacon=stage.round.beacon,
        spec=stage.base.spec,
        grid_bits=stage.base.grid_bits,
        training=stage.task.terms.training,
        rows=len(rows),
        inputs=rows.inputs[0].numel(),
    )
    writer.write(frames.frame(offer))
    for array in (
        assignment.base.astype("<i4"),
        rows.inputs.numpy().astype("<f8"),
        rows.labels.numpy().astype("<i8"),
    ):
        for part in frames.parts(array.tobytes()):
            writer.write(part)
            await writer.drain()


async def _receive_snapshot(
    reader: asyncio.StreamReader, index: int, parameters: int
) -> tuple[Int32s, Int32s]:
    """Weights and optimizer state after segment `index`."""
    kept = await _receive(reader)
    if not isinstance(kept, Kept) or kept.index != index:
        raise Refused("loop.message", f"expected snapshot {index}, found another message")
    if kept.state > frames.STATES_MAX * parameters:
        raise Refused(
            "loop.state",
            f"expected at most {frames.STATES_MAX} numbers of state for each parameter, found "
            f"{kept.state} in all",
        )
    array = Array(INT_BYTES * (parameters + kept.state))
    while array.missing:
        array.add(await _receive(reader))
    numbers = np.frombuffer(array.bytes(), np.dtype("<i4"))
    return numbers[:parameters], numbers[parameters:]


def _after(last: Snapshot, weights: Int32s, state: Int32s, joined: Join, index: int) -> Snapshot:
    """The snapshot that follows `last`, with its segment: what ran stands for its batches."""
    move = distance(weights, last.weights)
    if move == 0:
        raise Refused("loop.zero", f"expected segment {index} to move the weights, found no move")
    ran = encode((joined.script, joined.environment, index))
    segment = Segment(
        weights=digest_ints(WEIGHTS, weights),
        optimizer=digest_ints(OPTIMIZER, state),
        batches=digest(BATCHES, ran),
        move=move,
    )
    return Snapshot(weights, state, (*last.segments, segment), ())


async def _receive(reader: asyncio.StreamReader) -> Message:
    size = frames.length(await reader.readexactly(frames.LENGTH_BYTES))
    return frames.message(await reader.readexactly(size))


def _over() -> Refused:
    return Refused("loop.over", "expected the round to wait, found it over: join the next")


async def _acknowledge(writer: asyncio.StreamWriter, *, done: bool) -> None:
    writer.write(frames.frame(Taken(done)))
    await writer.drain()


def _turn(writer: asyncio.StreamWriter, why: Refused) -> None:
    """Say why, as far as the script still listens."""
    words = "".join(letter if letter.isprintable() else " " for letter in why.message)
    note = words.encode()[:NOTE_BYTES_MAX].decode(errors="ignore")
    writer.write(frames.frame(Turned(why.code, note)))
