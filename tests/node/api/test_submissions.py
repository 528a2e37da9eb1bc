"""Bodies that arrive: who dawdles shuts nobody out, and what has arrived is bounded."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from node.api import transactions
from node.api.admission import ON_LOOP_BYTES_MAX
from tests.node.api.asking import assert_problem, post, run
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import HOST, Got, Node
from vm.encoding import encode
from vm.shape import pack

OTHER_HOST = "127.0.0.2"  # another address of this machine
PATH = "/v1/transactions"
MSGPACK = {"Content-Type": "application/msgpack"}
SMALL = "Content-Length: 1000"
LARGE = f"Content-Length: {transactions.SMALL_BYTES_MAX + 1}"


@asynccontextmanager
async def slow(url: str, length: str, count: int) -> AsyncIterator[None]:
    """Hold `count` requests whose body does not come, once their handlers wait for it."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\n"
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}Expect: 100-continue\r\n{length}\r\n\r\n".encode())
        assert b" 100 " in await reader.readline()
        writers.append(writer)
    yield
    for writer in writers:
        writer.close()


async def send(url: str, data: Any, source: str = HOST, **headers: str) -> Got:
    """A submission from that address."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(url + PATH, data=data, headers=MSGPACK | headers) as response,
    ):
        return Got(response.status, response.headers, await response.json())


@pytest.mark.parametrize("length", [SMALL, LARGE, "Transfer-Encoding: chunked"])
def test_a_stranger_with_slow_bodies_shuts_nobody_out(network: Network, length: str) -> None:
    """Four times as many as there are places, small or large: the next transaction is admitted."""

    async def check(url: str, _: Node) -> None:
        item = pack(register_dataset(network, HOSPITALS[0]))
        async with slow(url, length, 4 * transactions.SUBMISSIONS_MAX):
            assert (await post(url, [item])).status == 202

    run(network, check)


def test_large_bodies_of_one_address_leave_places_to_the_others(network: Network) -> None:
    """One address has its share of those that arrive; those of others have theirs."""

    async def check(url: str, _: Node) -> None:
        body = encode((bytes(transactions.SMALL_BYTES_MAX),))
        async with slow(url, LARGE, transactions.LARGE_OF_ADDRESS_MAX):
            refused = await send(url, body)
            assert_problem(refused, 503, "api.busy")
            assert "at most 4 large submissions of address 127.0.0.1" in refused.body["detail"]
            assert (await send(url, body, OTHER_HOST)).status == 422
        while (await send(url, body)).status == 503:  # until the node has seen them leave
            pass

    run(network, check)


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_what_may_become_large_takes_a_place(
    network: Network, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of unknown length, and one that is packed: a thousand times as much may come out."""
    monkeypatch.setattr(transactions, "LARGE_OF_ADDRESS_MAX", 0)

    async def check(url: str, _: Node) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield encode((b"x",))

        if encoding:
            packed = gzip.compress(encode((b"x",)))
            got = await send(url, packed, **{"Content-Encoding": encoding})
        else:
            got = await send(url, body())
        assert_problem(got, 503, "api.busy")
        assert (await post(url, [b"x"])).status == 422

    run(network, check)


def test_work_on_what_has_arrived_is_bounded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next has its turn later."""
    monkeypatch.setattr(transactions, "SUBMISSIONS_MAX", 1)
    read_body, begun, goes_on = transactions._read_body, threading.Event(), threading.Event()

    def slowly(media_type: str, body: bytes) -> Sequence[bytes]:
        if len(body) > ON_LOOP_BYTES_MAX:
            begun.set()
            goes_on.wait()
        return read_body(media_type, body)

    monkeypatch.setattr(transactions, "_read_body", slowly)

    async def check(url: str, _: Node) -> None:
        first = asyncio.create_task(post(url, [b"x" * ON_LOOP_BYTES_MAX]))
        await asyncio.to_thread(begun.wait)
        assert_problem(await post(url, [b"x"]), 503, "api.busy")
        goes_on.set()
        assert (await first).status == 422
        assert (await post(url, [b"x"])).status == 422

    run(network, check)


def test_a_body_of_two_lengths_is_none(network: Network) -> None:
    """Nobody calls a body short and sends another one."""

    async def check(url: str, _: Node) -> None:
        headers = MSGPACK | {"Content-Length": "9", "Transfer-Encoding": "chunked"}
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{lines}\r\n0\r\n\r\n".encode())
        assert b" 400 " in await reader.readline()
        writer.close()

    run(network, check)
