"""Blocking reads in a bounded pool of threads, one reader's beside another's.

A read takes the interpreter from everything else that the node does. So of one reader few run at a
time, readers who wait take turns, and what a read takes is counted as so many requests.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from threading import Barrier
from typing import Any, TypeVar

from aiohttp import web

from node.api.context import ApiContext
from node.readers.identity import READER, holder_of
from node.readers.pace import TooMany
from vm.refusal import Refused

T = TypeVar("T")

READ_THREADS = 4
RUNNING_OF_ONE_MAX = 2  # of one reader: its long reads leave as many threads for others
READS_MAX = 1_024  # waiting or running: each holds a request, of which a port has as many
READS_OF_ONE_MAX = 64
STRANGERS_MAX = READS_MAX // 2  # of all whom nobody knows: they have as many addresses as they like
DEBT_WAIT_S = 3  # for which a read waits in silence: a client waits 5 s, and longer if told so
LOOK_S = 1  # between looks whether clients of reads that wait are still there
NODE = "this node"  # whose reads tell many readers at once of a block


@dataclass(frozen=True, slots=True)
class _Turn:
    """A read that waits."""

    request: web.Request | None
    read: Callable[[], Any]
    done: asyncio.Future[Any]
    patient: bool  # of an answer that has begun: else whoever asked is told to come again

    def is_left(self) -> bool:
        """Whether nobody waits for it any more: the client has closed its connection."""
        return self.done.done() or (self.request is not None and self.request.transport is None)


class Pool:
    """The threads in which reads block."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._threads = _started()
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()  # who is first is next
        self._held = Counter[str]()  # waiting or running, by holder
        self._running = Counter[str]()
        self._strangers = 0  # of what is held
        self._later: asyncio.TimerHandle | None = None  # for who waits until it has paid

    async def run(self, request: web.Request | None, read: Callable[..., T], *args: object) -> T:
        """Run `read` in a thread for a request, or for the node itself.

        Raises `Refused("api.busy")` if too many wait, `TooMany` if whoever asks owes for long, and
        as `read` does.
        """
        if request is not None:
            self._check(request)
        return await self._wait(request, partial(read, *args), patient=False)

    async def go_on(self, request: web.Request | None, read: Callable[..., T], *args: object) -> T:
        """The same for one that was let in before: it has one read at a time, and waits for it."""
        return await self._wait(request, partial(read, *args), patient=True)

    async def _wait(
        self, request: web.Request | None, read: Callable[[], T], *, patient: bool
    ) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        holder = NODE if request is None else holder_of(request)
        self._held[holder] += 1
        self._strangers += _is_stranger(request)
        turns = self._waiting.setdefault(holder, deque())
        turns.append(_Turn(request, read, done, patient))
        self._start()
        return await done

    def _check(self, request: web.Request) -> None:
        holder = holder_of(request)
        if self._held[holder] >= READS_OF_ONE_MAX:
            raise _busy(f"{READS_OF_ONE_MAX} reads of {holder}")
        if _is_stranger(request) and self._strangers >= STRANGERS_MAX:
            raise _busy(f"{STRANGERS_MAX} reads of strangers")
        if self._held.total() >= READS_MAX:
            raise _busy(f"{READS_MAX} reads")

    def close(self) -> None:
        """Take no more reads; those that wait are cancelled."""
        if self._later is not None:
            self._later.cancel()
        for turns in self._waiting.values():
            for turn in turns:
                turn.done.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> None:
        """Run what may run now: in turns, the holder's oldest read first."""
        while self._running.total() < READ_THREADS:
            holder = self._next()
            if holder is None:
                return
            turns = self._waiting.pop(holder)
            turn = turns.popleft()
            if turns:
                self._waiting[holder] = turns  # behind all others
            if turn.is_left():
                turn.done.cancel()
                self._leave(holder, turn)
                continue
            if not turn.patient and self._debt_s(turn) > DEBT_WAIT_S:
                turn.done.set_exception(TooMany(self._debt_s(turn), "expected reads paid for"))
                self._leave(holder, turn)
                continue
            self._running[holder] += 1
            running = asyncio.get_running_loop().run_in_executor(
                self._threads, self._timed, turn.read
            )
            running.add_done_callback(partial(self._ended, holder, turn))

    def _next(self) -> str | None:
        """Whose read comes next; who owes for reads before waits until it has paid for them."""
        soonest_s = inf
        for holder, turns in self._waiting.items():
            if self._running[holder] < RUNNING_OF_ONE_MAX:
                first = turns[0]
                debt_s = self._debt_s(first)
                if debt_s == 0 or first.is_left() or (debt_s > DEBT_WAIT_S and not first.patient):
                    return holder
                soonest_s = min(soonest_s, debt_s)
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if soonest_s < inf:
            wait_s = min(soonest_s, LOOK_S)
            self._later = asyncio.get_running_loop().call_later(wait_s, self._start)
        return None

    def _debt_s(self, turn: _Turn) -> float:
        return 0.0 if turn.request is None else self._context.desk.debt_s(turn.request)

    def _timed(self, read: Callable[[], T]) -> tuple[T | Exception, float]:
        """What came of a read, and the seconds of this thread's processor that it took."""
        start_s = self._context.cpu_s()
        try:
            found: T | Exception = read()
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            found = error
        return found, self._context.cpu_s() - start_s

    def _ended(
        self, holder: str, turn: _Turn, running: "asyncio.Future[tuple[Any, float]]"
    ) -> None:
        self._running[holder] -= 1
        if not self._running[holder]:
            del self._running[holder]
        self._leave(holder, turn)
        if running.cancelled():  # the node stops
            turn.done.cancel()
            return
        found, took_s = running.result()
        if turn.request is not None:
            self._context.desk.spend(turn.request, took_s)
        if not turn.done.done():
            if isinstance(found, Exception):
                turn.done.set_exception(found)
            else:
                turn.done.set_result(found)
        self._start()

    def _leave(self, holder: str, turn: _Turn) -> None:
        self._strangers -= _is_stranger(turn.request)
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]


def _started() -> ThreadPoolExecutor:
    """The threads, all of them there: a node that cannot have them does not start."""
    threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
    together = Barrier(READ_THREADS + 1)
    try:
        for _ in range(READ_THREADS):
            threads.submit(together.wait)
        together.wait()
    except BaseException:
        together.abort()  # else those that are there would wait for ever, and the process with them
        raise
    return threads


def _is_stranger(request: web.Request | None) -> bool:
    return request is not None and READER not in request


def _busy(bound: str) -> Refused:
    return Refused("api.busy", f"expected at most {bound} waiting, found one more")
