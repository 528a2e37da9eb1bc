"""Honest and lying servers, and a client that asks them."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from node.client.client import Client
from tests.node.network import Network
from tests.node.serving import Node, serve
from vm.refusal import Refused
from vm.shape import pack

NEWEST = "/v1/checkpoints"
DEAD = "http://127.0.0.1:1"  # nothing listens there
FIRST_EVENT = (
    b'id: 1\ndata: {"height": 1, "digest": "", "time_ms": 0, "time": null, "transactions": [], '
    b'"records": [], "left_out": 0}\n\n'
)


def run(network: Network, check: Callable[[Client, Node], Awaitable[None]], *before: str) -> None:
    """Check a client that knows `before`, then an honest node."""

    async def main() -> None:
        async with (
            serve(network) as (url, node),
            Client(network.genesis, [*before, url]) as client,
        ):
            await check(client, node)

    asyncio.run(main())


def lying(body: Any, status: int = 200) -> web.Application:
    """A server that answers everything with one body."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    return app


def encoded(proof: object) -> str:
    """A proof as the interface sends it."""
    return base64.b64encode(pack(proof)).decode()


async def refusal(awaitable: Awaitable[object]) -> str:
    """The code with which a call refuses."""
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value.code
