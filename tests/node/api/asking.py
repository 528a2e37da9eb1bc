"""Asking a served network, and what a problem document must say."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.node.network import Network
from tests.node.serving import Got, Node, call, serve
from vm.encoding import encode

Check = Callable[[str, Node], Awaitable[None]]


def run(network: Network, check: Check) -> None:
    """Serve the network and check what it answers."""

    async def main() -> None:
        async with serve(network) as (url, node):
            await check(url, node)

    asyncio.run(main())


def assert_problem(got: Got, status: int, code: str) -> None:
    """The answer is the problem document of this code."""
    assert (got.status, got.body["code"]) == (status, code), got.body
    assert got.headers["Content-Type"].startswith("application/problem+json")
    assert got.body["status"] == status
    assert got.body["type"] == f"/v1/problems/{code}"
    assert got.body["title"]
    assert got.body["detail"]


async def post(url: str, packed: list[bytes]) -> Got:
    """Submit as canonical msgpack."""
    headers = {"Content-Type": "application/msgpack"}
    return await call("POST", f"{url}/v1/transactions", data=encode(tuple(packed)), headers=headers)
