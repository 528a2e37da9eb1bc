"""Blocking reads: bounded, in turns, and one reader's beside another's."""

import asyncio
import gc
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from node.api import pool as pooling
from node.api.context import ApiContext
from node.api.pool import (
    READ_THREADS,
    READS_MAX,
    READS_OF_ONE_MAX,
    RUNNING_OF_ONE_MAX,
    STRANGERS_MAX,
    Pool,
)
from node.readers.identity import READER, Reader
from node.readers.pace import TooMany
from vm.accesslog import Via
from vm.record import Role
from vm.refusal import Refused


class Gate:
    """Reads that say when they begin, and go on when they are let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.open = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Semaphore(0)

    def read(self, name: str) -> str:
        """A read that takes until the gate is open."""
        self.begun.append(name)
        self._loop.call_soon_threadsafe(self._asked.release)
        assert self.open.wait(30)
        return name

    async def wait(self, count: int) -> None:
        """Until `count` reads more have begun."""
        async with asyncio.timeout(30):
            for _ in range(count):
                await self._asked.acquire()


def of(member: str) -> web.Request:
    """A request of a member."""
    request = make_mocked_request("GET", "/")
    request[READER] = Reader(member, Role.AUDITOR, Via.TOKEN)
    return request


def stranger(address: str) -> web.Request:
    """A request of somebody whom nobody knows."""
    return make_mocked_request("GET", "/").clone(remote=address)


def play(
    scenario: Callable[[Pool, Gate], Any],
    cpu_s: Callable[[], float] = lambda: 0.0,
    owed: Mapping[str, float] = MappingProxyType({}),
) -> Any:
    """Run a scenario with a pool; give what the desk was told that reads took.

    `owed` are the seconds that members have to wait until they have paid for reads.
    """
    spent: list[tuple[str, float]] = []

    def debt_s(request: web.Request) -> float:
        return owed.get(request[READER].member, 0.0) if READER in request else 0.0

    def spend(request: web.Request, seconds: float) -> None:
        if seconds:
            spent.append((request[READER].member, seconds))

    async def main() -> None:
        context = SimpleNamespace(desk=SimpleNamespace(spend=spend, debt_s=debt_s), cpu_s=cpu_s)
        pool, gate = Pool(cast(ApiContext, context)), Gate()
        try:
            await scenario(pool, gate)
        finally:
            gate.open.set()
            pool.close()

    asyncio.run(main())
    return spent


def started(pool: Pool, gate: Gate, member: str, count: int) -> list[asyncio.Task[str]]:
    """So many reads of a member, begun in order."""
    return [
        asyncio.create_task(pool.run(of(member), gate.read, f"{member} {number}"))
        for number in range(count)
    ]


def test_long_reads_of_one_leave_threads_for_others() -> None:
    """The attack: a stranger, within its pace, with reads that each take the machine for long."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        greedy = started(pool, gate, "greedy", READS_OF_ONE_MAX)
        await gate.wait(RUNNING_OF_ONE_MAX)

        assert await pool.run(of("honest"), lambda: "answer") == "answer"

        assert len(gate.begun) == RUNNING_OF_ONE_MAX < READ_THREADS
        gate.open.set()
        await asyncio.gather(*greedy)

    play(scenario)


def test_readers_who_wait_take_turns() -> None:
    """Whoever came last with one read is not behind all that others have asked before."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        first = started(pool, gate, "a", 6) + started(pool, gate, "b", 6)
        await gate.wait(READ_THREADS)
        last = started(pool, gate, "c", 1)
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*first, *last)

        assert set(gate.begun[:READ_THREADS]) == {"a 0", "a 1", "b 0", "b 1"}
        assert gate.begun.index("c 0") < READ_THREADS + 4
        for member in "ab":
            mine = [name for name in gate.begun if name.startswith(member)]
            assert mine == [f"{member} {number}" for number in range(6)]

    play(scenario)


def test_one_reader_has_so_many_places_and_no_more() -> None:
    """The next is refused, and another reader's is not."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        waiting = started(pool, gate, "greedy", READS_OF_ONE_MAX)
        await gate.wait(RUNNING_OF_ONE_MAX)
        with pytest.raises(Refused, match=r"api\.busy: expected at most 64 reads of member greedy"):
            await pool.run(of("greedy"), gate.read, "one more")
        assert await pool.run(of("honest"), lambda: 1) == 1
        gate.open.set()
        await asyncio.gather(*waiting)
        assert await pool.run(of("greedy"), lambda: 2) == 2

    play(scenario)


def test_all_places_together_are_bounded() -> None:
    """As many as a port has connections; then nobody's read is taken until one has ended."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        holders = READS_MAX // READS_OF_ONE_MAX
        waiting = [
            task
            for number in range(holders)
            for task in started(pool, gate, f"m{number}", READS_OF_ONE_MAX)
        ]
        await gate.wait(READ_THREADS)
        with pytest.raises(Refused, match=r"api\.busy"):
            await pool.run(of("honest"), lambda: 1)
        gate.open.set()
        await asyncio.gather(*waiting)
        assert await pool.run(of("honest"), lambda: 1) == 1

    play(scenario)


def test_strangers_together_have_half_of_the_places() -> None:
    """They have as many addresses as they like; members and the node's own reads go on."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        waiting = [
            asyncio.create_task(pool.run(stranger(f"192.0.2.{number}"), gate.read, "s"))
            for number in range(STRANGERS_MAX // READS_OF_ONE_MAX)
            for _ in range(READS_OF_ONE_MAX)
        ]
        await gate.wait(READ_THREADS)
        with pytest.raises(Refused, match=r"api\.busy: expected at most 512 reads of strangers"):
            await pool.run(stranger("192.0.2.250"), gate.read, "s")
        others = [
            asyncio.create_task(pool.run(of("honest"), lambda: 1)),
            asyncio.create_task(pool.run(None, lambda: 2)),
            asyncio.create_task(pool.go_on(stranger("192.0.2.0"), lambda: 3)),  # of its stream
        ]
        gate.open.set()
        assert await asyncio.gather(*others) == [1, 2, 3]
        await asyncio.gather(*waiting)
        assert await pool.run(stranger("192.0.2.250"), lambda: 4) == 4

    play(scenario)


def test_all_threads_are_there_from_the_start() -> None:
    """One that the system does not give is told then, and not to somebody who reads later."""

    async def scenario(pool: Pool, _: Gate) -> None:
        names = [thread.name for thread in threading.enumerate()]
        assert sum(name.startswith("read_") for name in names) >= READ_THREADS
        assert await pool.run(of("a"), lambda: 1) == 1

    play(scenario)


def test_a_node_that_does_not_get_its_threads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it got do not wait for the others: a process that hangs is not started again."""
    given, left = ThreadPoolExecutor.submit, [READ_THREADS - 1]
    before = set(threading.enumerate())

    def submit(self: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        return given(self, work)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Pool(cast(ApiContext, None))
    gc.collect()

    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_who_owes_for_long_is_told_when_to_come_again() -> None:
    """In silence a client would take the node for dead; an answer that has begun goes on."""
    owed = {"greedy": 20.0}

    async def scenario(pool: Pool, _: Gate) -> None:
        going_on = asyncio.create_task(pool.go_on(of("greedy"), lambda: 1))
        with pytest.raises(TooMany) as refused:
            await pool.run(of("greedy"), lambda: 2)
        assert refused.value.wait_s == 20
        assert not going_on.done()
        owed["greedy"] = 0.0
        assert await pool.run(of("greedy"), lambda: 3) == 3
        assert await going_on == 1

    play(scenario, owed=owed)


def test_who_has_left_keeps_no_place_though_it_owes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a quiet node nothing else would look again before the minute is over."""
    monkeypatch.setattr(pooling, "LOOK_S", 0.001)

    async def scenario(pool: Pool, gate: Gate) -> None:
        gone = of("greedy")
        left = asyncio.create_task(pool.go_on(gone, gate.read, "for nobody"))
        await asyncio.sleep(0)
        gone._protocol.transport = None
        async with asyncio.timeout(30):
            with pytest.raises(asyncio.CancelledError):
                await left
        assert gate.begun == []

    play(scenario, owed={"greedy": 60.0})


def test_who_owes_for_reads_waits_until_it_has_paid() -> None:
    """The attack: many long reads let in together, so that all run before any is counted."""
    owed = {"greedy": 0.0}

    async def scenario(pool: Pool, gate: Gate) -> None:
        first = started(pool, gate, "greedy", RUNNING_OF_ONE_MAX)
        await gate.wait(RUNNING_OF_ONE_MAX)
        more = started(pool, gate, "greedy", 3)
        owed["greedy"] = 0.001
        gate.open.set()
        await asyncio.gather(*first)
        assert await pool.run(of("honest"), lambda: "answer") == "answer"
        assert len(gate.begun) == RUNNING_OF_ONE_MAX
        owed["greedy"] = 0.0
        await asyncio.gather(*more)

    play(scenario, owed=owed)


def test_a_client_that_has_closed_its_connection_has_nothing_read() -> None:
    """Servers do not end what such a client has asked for: it would be read for nobody."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        kept = started(pool, gate, "a", RUNNING_OF_ONE_MAX)
        await gate.wait(RUNNING_OF_ONE_MAX)
        gone = of("a")
        left = asyncio.create_task(pool.run(gone, gate.read, "for nobody"))
        await asyncio.sleep(0)
        gone._protocol.transport = None
        gate.open.set()
        await asyncio.gather(*kept)
        with pytest.raises(asyncio.CancelledError):
            await left
        assert len(gate.begun) == RUNNING_OF_ONE_MAX

    play(scenario)


def test_who_has_left_takes_no_turn() -> None:
    """A client that asks and leaves, again and again, has nothing read for it."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        kept = started(pool, gate, "a", RUNNING_OF_ONE_MAX)
        left = started(pool, gate, "a", 5)
        await gate.wait(RUNNING_OF_ONE_MAX)
        for task in left:
            task.cancel()
        gate.open.set()
        await asyncio.gather(*kept)
        assert await pool.run(of("a"), gate.read, "next") == "next"
        assert len(gate.begun) == RUNNING_OF_ONE_MAX + 1

    play(scenario)


def test_what_a_read_took_is_told_though_it_failed() -> None:
    """Whoever asked pays for it; what the node reads for many, nobody."""
    ticks = iter(range(0, 100, 3))

    async def scenario(pool: Pool, _: Gate) -> None:
        def fail() -> None:
            raise Refused("block.pruned", "expected a block that is here")

        with pytest.raises(Refused, match=r"block\.pruned"):
            await pool.run(of("a"), fail)
        assert await pool.run(None, lambda: 1) == 1

    assert play(scenario, lambda: float(next(ticks))) == [("a", 3.0)]


def test_a_pool_that_closes_ends_what_waits() -> None:
    """The node stops: nobody waits for an answer that does not come."""

    async def scenario(pool: Pool, gate: Gate) -> None:
        waiting = started(pool, gate, "a", 5)
        await gate.wait(RUNNING_OF_ONE_MAX)
        gate.open.set()
        pool.close()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(item, asyncio.CancelledError) for item in found] == [False] * 2 + [
            True
        ] * 3

    play(scenario)
