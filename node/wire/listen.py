"""Listening on a port, and what to say when that cannot be."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from node.wire.door import BACKLOG, Door
from node.wire.places import Places
from vm.refusal import Refused

# Of one listener; what comes beyond is closed at once. Each holds a file descriptor. At the peers'
# port 64 validators hold one each, and their trainers, who transfer four blobs at a time, a few.
CONNECTIONS_MAX = 1_024
CONNECTIONS_OF_ADDRESS_MAX = 128  # a hospital's readers may share one; loopback has no share
KEEPALIVE_S = 75.0  # without a whole request, the first one too; proxies drop theirs after 60 s
HANDSHAKE_S = 10.0  # for TLS to begin: four messages, on the slowest of lines
FAREWELL_S = 5.0  # for TLS to end
SHUTDOWN_TIMEOUT_S = 2.0  # for requests in progress when the node stops


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a line of aiohttp's is worth keeping.

    A request that breaks HTTP is answered with 400, one that breaks off has nobody to answer.
    Logged, they would let any stranger fill the log with tracebacks around bytes of his choice.
    """
    strangers = (HttpProcessingError, ConnectionResetError)
    return record.exc_info is None or not isinstance(record.exc_info[1], strangers)


server_logger = logging.getLogger("aiohttp.server")
server_logger.addFilter(_is_ours)


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    connections_max: int = CONNECTIONS_MAX,
) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the port (the one drawn, if `port` is 0).

    With `context` None it speaks plain HTTP.
    Raises `Refused("listen.port_busy" | "listen.address")`.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=server_logger,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=KEEPALIVE_S,
    )
    await runner.setup()
    servers: list[asyncio.Server] = []
    try:
        doors = await _open(host, port, connections_max)
        servers += [await _serve(runner, door, context) for door in doors]
        yield doors[0].getsockname()[1]
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()


async def _serve(
    runner: web.AppRunner, door: Door, context: ssl.SSLContext | None
) -> asyncio.Server:
    assert runner.server is not None, "it was set up"
    return await asyncio.get_running_loop().create_server(
        runner.server,
        sock=door,
        backlog=BACKLOG,
        ssl=context,
        ssl_handshake_timeout=None if context is None else HANDSHAKE_S,
        ssl_shutdown_timeout=None if context is None else FAREWELL_S,
    )


async def _open(host: str, port: int, connections_max: int) -> list[Door]:
    """A door at each address that `host` has, with the same places behind all of them."""
    places = Places(
        "listen.full",
        "connections",
        connections_max,
        min(connections_max, CONNECTIONS_OF_ADDRESS_MAX),
    )
    loop = asyncio.get_running_loop()
    doors: list[Door] = []
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((item[0], item[4]) for item in found):
            opened = socket.create_server(address, family=family, backlog=BACKLOG)
            doors.append(Door(opened, places))
    except OSError as error:
        for door in doors:
            door.close()
        raise _refuse(error, f"{host}:{port}") from error
    return doors


def _refuse(error: OSError, address: str) -> Refused:
    if error.errno == errno.EADDRINUSE:
        return Refused(
            "listen.port_busy",
            f"expected {address} to be free, found another program listening there: stop it, "
            "or set another port for `listen`",
        )
    return Refused(
        "listen.address",
        f"expected an address of this machine to listen on, found {address}: {error.strerror}",
    )
