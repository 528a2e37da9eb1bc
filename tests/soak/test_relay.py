"""The relay: what arrives, what is held, and in which direction."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.soak.relay import HOST, Relay

Test = Callable[["Wire"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wire:
    """Both ends of a connection through a relay: who dialled and who was dialled."""

    relay: Relay
    near: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    far: tuple[asyncio.StreamReader, asyncio.StreamWriter]

    async def there(self, data: bytes) -> bytes:
        """What the far end hears next, after the near end has said `data`."""
        self.near[1].write(data)
        return await self.far[0].readexactly(len(data))

    async def back(self, data: bytes) -> bytes:
        """The same the other way round."""
        self.far[1].write(data)
        return await self.near[0].readexactly(len(data))


@asynccontextmanager
async def wire() -> AsyncIterator[Wire]:
    """A connection through a relay."""
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.put_nowait((reader, writer))

    server = await asyncio.start_server(accept, HOST, 0)
    relay = Relay(server.sockets[0].getsockname()[1])
    near = await asyncio.open_connection(HOST, await relay.start())
    far = await arrived.get()
    try:
        yield Wire(relay, near, far)
    finally:
        for writer in (near[1], far[1]):
            writer.close()
        await relay.close()
        server.close()


def on_a_wire(test: Test) -> None:
    """Run `test` on a connection through a relay."""

    async def run() -> None:
        async with wire() as made, asyncio.timeout(30):
            await test(made)

    asyncio.run(run())


def test_bytes_arrive_in_order_both_ways() -> None:
    """An open relay is a connection like any other."""

    async def test(made: Wire) -> None:
        long = bytes(range(256)) * 4_000
        assert await made.there(long) == long
        assert await made.back(b"thanks") == b"thanks"

    on_a_wire(test)


@pytest.mark.parametrize("cut", ["there", "back"])
def test_a_way_that_is_cut_holds_what_comes_and_the_other_stays_open(cut: str) -> None:
    """One-way partitions; once healed, everything arrives, what was held first."""

    async def test(made: Wire) -> None:
        ways = {"there": made.there, "back": made.back}
        closed, opened = ways.pop(cut), next(iter(ways.values()))
        way = getattr(made.relay, cut)
        way.cut()

        held = asyncio.create_task(closed(b"held"))
        assert await opened(b"heard") == b"heard"
        assert await opened(b"again") == b"again"
        assert not held.done()
        way.heal()

        assert await held == b"held"

    on_a_wire(test)


def test_a_slow_way_takes_its_time() -> None:
    """A message is held for the delay, by the clock of the loop."""

    async def test(made: Wire) -> None:
        clock = asyncio.get_running_loop().time
        made.relay.there.delay_s = 0.2
        began = clock()

        assert await made.there(b"slow") == b"slow"

        assert clock() - began >= 0.2

    on_a_wire(test)


def test_the_end_of_a_connection_is_passed_on() -> None:
    """Who hangs up is not left hanging at the other side."""

    async def test(made: Wire) -> None:
        made.near[1].close()

        assert await made.far[0].read() == b""

    on_a_wire(test)


def test_a_target_that_is_down_is_a_connection_that_ends() -> None:
    """As a port at which nobody listens would."""

    async def run() -> None:
        server = await asyncio.start_server(lambda _reader, _writer: None, HOST, 0)
        relay = Relay(server.sockets[0].getsockname()[1])
        server.close()
        reader, writer = await asyncio.open_connection(HOST, await relay.start())
        assert await reader.read() == b""
        writer.close()
        await relay.close()

    asyncio.run(run())
