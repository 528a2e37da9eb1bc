"""Listening on a port, and what to say when that cannot be."""

import errno
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from vm.refusal import Refused

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
    app: web.Application, host: str, port: int, context: ssl.SSLContext | None
) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the port (the one drawn, if `port` is 0).

    With `context` None it speaks plain HTTP.
    Raises `Refused("listen.port_busy" | "listen.address")`.
    """
    runner = web.AppRunner(
        app, access_log=None, logger=server_logger, shutdown_timeout=SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        await _start(web.TCPSite(runner, host, port, ssl_context=context), f"{host}:{port}")
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _start(site: web.TCPSite, address: str) -> None:
    try:
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Refused(
                "listen.port_busy",
                f"expected {address} to be free, found another program listening there: stop it, "
                "or set another port for `listen`",
            ) from error
        raise Refused(
            "listen.address",
            f"expected an address of this machine to listen on, found {address}: {error.strerror}",
        ) from error
