"""The door: a stranger who holds connections takes neither the node's files nor others' places."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import structlog

from node.wire import listen
from node.wire.listen import listening
from node.wire.tls import server_context
from tests.node.parties import HOST, Consortium, plain_session
from tests.node.wire.test_listen import build_app

OTHER_HOST = "127.0.0.2"  # another address of this machine
IDLE = 300  # connections that the stranger holds
ASKS = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

STRANGER = """
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
print("held", flush=True)
sys.stdin.read()
"""

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def stranger(port: int) -> AsyncIterator[None]:
    """A process that holds connections and sends nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STRANGER, HOST, str(port), str(IDLE)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        await process.communicate(b"")  # it ends


async def is_served(port: int, source: str = HOST) -> bool:
    """Whether a connection from that address is let in and answered."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port, local_addr=(source, 0))
        writer.write(ASKS)
        found = await reader.read(12)
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        return False
    return found == b"HTTP/1.1 200"


async def hold(port: int, source: str = HOST) -> Ends:
    """A connection that is in, and idle after a request."""
    reader, writer = await asyncio.open_connection(HOST, port, local_addr=(source, 0))
    writer.write(ASKS)
    await reader.readuntil(b"here")
    return reader, writer


def test_idle_connections_of_a_stranger_leave_the_node_its_files() -> None:
    """Three times as many as there are places, with files for half of them: the node opens more."""
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def run() -> None:
        async with listening(build_app(), HOST, 0, None, 100) as port, stranger(port):
            more = [os.dup(0) for _ in range(20)]
            for descriptor in more:
                os.close(descriptor)
        async with listening(build_app(), HOST, 0, None, 100) as port:
            assert await is_served(port)

    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + IDLE // 2, kept[1]))
    try:
        asyncio.run(run())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, kept)


def test_what_is_shut_out_is_closed_at_once_and_told_once() -> None:
    """Those who are in stay; the operator finds one line, however many came."""

    async def run() -> None:
        async with listening(build_app(), HOST, 0, None, 2) as port:
            inside = [await hold(port) for _ in range(2)]
            assert [await is_served(port) for _ in range(5)] == [False] * 5
            for reader, writer in inside:
                writer.write(ASKS)
                await reader.readuntil(b"here")
                writer.close()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())

    (line,) = lines
    assert (line["event"], line["log_level"]) == ("listen.full", "warning")


def test_a_crowd_that_is_shut_out_leaves_the_loop_its_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of those who come beyond only so many are looked at in one go; all are closed."""
    monkeypatch.setattr("node.wire.door.BACKLOG", 1)

    async def run() -> None:
        async with listening(build_app(), HOST, 0, None, 1) as port:
            _, held = await hold(port)
            assert not any(await asyncio.gather(*(is_served(port) for _ in range(10))))
            held.close()

    asyncio.run(run())


def test_one_address_leaves_places_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger has its share; whoever comes from elsewhere is let in."""
    monkeypatch.setattr(listen, "CONNECTIONS_OF_ADDRESS_MAX", 3)
    monkeypatch.setattr("node.wire.door.is_loopback", lambda _: False)

    async def run() -> None:
        async with listening(build_app(), HOST, 0, None) as port:
            held = [await hold(port) for _ in range(3)]
            assert not await is_served(port)
            assert await is_served(port, OTHER_HOST)
            for _, writer in held:
                writer.close()
            while not await is_served(port):
                pass

    asyncio.run(run())


def test_a_proxy_on_this_machine_is_bound_by_the_whole_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All its readers come from one address."""
    monkeypatch.setattr(listen, "CONNECTIONS_OF_ADDRESS_MAX", 1)

    async def run() -> None:
        async with listening(build_app(), HOST, 0, None) as port:
            held = [await hold(port) for _ in range(5)]
            for _, writer in held:
                writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "data",
    [b"", ASKS, ASKS[:9], b"\x00\xff\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"],
)
@pytest.mark.parametrize("ending", ["close", "abort"])
def test_a_place_comes_back_however_the_connection_ends(data: bytes, ending: str) -> None:
    """Closed or reset by the other end, idle, within a request, after one, or after no HTTP."""

    async def run() -> None:
        async with listening(build_app(), HOST, 0, None, 1) as port:
            for _ in range(3):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.write(data)
                await writer.drain()
                (writer.transport.abort if ending == "abort" else writer.close)()
                while not await is_served(port):
                    pass

    asyncio.run(run())


@pytest.mark.parametrize("data", [b"", ASKS[:9], ASKS])
def test_an_idle_connection_is_closed_after_a_while(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it never asked, asked for a part, or has had its answer."""
    monkeypatch.setattr(listen, "KEEPALIVE_S", 0.05)

    async def run() -> None:
        async with listening(build_app(), HOST, 0, None, 1) as port:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(data)
            await reader.read()
            writer.close()
            while not await is_served(port):
                pass

    asyncio.run(run())


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_handshake_that_never_ends_has_a_place_for_a_while_only(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts, though no protocol hears of it, and is cut off; then a member is let in."""
    monkeypatch.setattr(listen, "HANDSHAKE_S", 0.2)
    consortium = Consortium(tmp_path / "c")
    one, two = consortium.enrol("one"), consortium.enrol("two")

    async def run() -> None:
        async with (
            listening(build_app(), HOST, one.port, server_context(one.files), 1),
            plain_session(two) as session,
        ):
            reader, writer = await asyncio.open_connection(HOST, one.port)
            if not data:
                with pytest.raises(aiohttp.ClientError):
                    await session.get(one.url)
            writer.write(data)
            await reader.read()
            writer.close()
            while True:
                try:
                    async with session.get(one.url) as response:
                        assert await response.text() == "here"
                        return
                except aiohttp.ClientConnectionError:
                    pass

    asyncio.run(run())
