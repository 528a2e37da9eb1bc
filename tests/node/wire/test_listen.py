"""Listening: what is said when a port cannot be had, and what strangers cannot have logged."""

import asyncio
import logging
import socket

import aiohttp
import pytest
from aiohttp import web

from node.wire.listen import listening
from vm.refusal import Refused

HOST = "127.0.0.1"


async def answer(_: web.Request) -> web.Response:
    """Something to fetch."""
    return web.Response(text="here")


async def broken(_: web.Request) -> web.Response:
    """A bug of ours."""
    raise ValueError("a bug")


def build_app() -> web.Application:
    """One good route and one bad."""
    app = web.Application()
    app.add_routes([web.get("/", answer), web.get("/broken", broken)])
    return app


async def talk(data: bytes) -> bytes:
    """Serve the app, send bytes and close; whatever came back."""
    async with listening(build_app(), HOST, 0, None) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(data)
        writer.write_eof()
        found = await reader.read()
        writer.close()
        await writer.wait_closed()
        return found


def test_a_drawn_port_is_served_while_the_block_runs() -> None:
    """And refused afterwards."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            async with (
                listening(build_app(), HOST, 0, None) as port,
                session.get(f"http://{HOST}:{port}/") as response,
            ):
                assert await response.text() == "here"
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://{HOST}:{port}/")

    asyncio.run(run())


def test_a_busy_port_is_named() -> None:
    """With what to do about it."""

    async def run(port: int) -> None:
        async with listening(build_app(), HOST, port, None):
            raise AssertionError("expected a refusal")

    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"{HOST}:{port}.*another port") as refused:
            asyncio.run(run(port))

    assert refused.value.code == "listen.port_busy"


def test_an_address_of_another_machine_is_refused() -> None:
    """192.0.2.0/24 is for documentation (RFC 5737): no machine has it."""

    async def run() -> None:
        async with listening(build_app(), "192.0.2.1", 0, None):
            raise AssertionError("expected a refusal")

    with pytest.raises(Refused) as refused:
        asyncio.run(run())

    assert refused.value.code == "listen.address"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf",
    ],
)
def test_a_broken_request_is_not_logged(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger must not fill the log with bytes of his choice."""
    asyncio.run(talk(data))

    assert caplog.records == []


def test_a_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What is ours to mend is not filtered out."""
    asyncio.run(talk(b"GET /broken HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
