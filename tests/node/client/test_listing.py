"""Lists: page by page, from one node, each record under the header that was asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from node.audit.prove import newest, prove_key, view_header
from node.client import listing
from node.client.client import Client
from node.client.listing import records
from tests.node.client.asking import encoded, lying, refusal, run
from tests.node.light.liar import Server, answering, honest
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import Node, serve_app
from vm.inclusion import CertifiedHeader
from vm.record import Dataset, Member
from vm.state import state_key

PATH = "/v1/datasets?"


def listed(network: Network, check: Callable[[Client], Awaitable[None]], *servers: Server) -> None:
    """Check a client that asks these nodes in order."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(serve_app(server())) for server in servers]
            await check(await stack.enter_async_context(Client(network.genesis, urls)))

    asyncio.run(main())


def at(network: Network, height: int) -> CertifiedHeader:
    """The header of a height, certified."""
    view = network.chain.view(height)
    assert view is not None
    return view_header(network.chain, view)


def test_a_list_is_read_page_by_page(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members come, each once, whatever the size of a page."""
    monkeypatch.setattr(listing, "LIMIT_MAX", 3)

    async def check(client: Client, _: Node) -> None:
        ids = [member.id for member in await records(client, Member)]
        assert len(ids) == 20
        assert len(set(ids)) == 20

    run(network, check)


def test_a_page_that_repeats_itself_is_refused(network: Network) -> None:
    """A server that hands out one page for ever is found out at the second."""
    key = state_key(Dataset.KIND, ("hospital-1.opt",))
    proof = encoded(prove_key(network.chain, newest(network.chain), key))

    async def check(client: Client) -> None:
        assert await refusal(records(client, Dataset)) == "audit.key"

    listed(network, check, lambda: lying({"items": [{"proof": proof}], "next": "again"}))


def test_a_list_has_an_end(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is proven on it, no more is held."""
    monkeypatch.setattr(listing, "LIMIT_MAX", 3)
    monkeypatch.setattr(listing, "LISTED_MAX", 5)

    async def check(client: Client, _: Node) -> None:
        assert await refusal(records(client, Member)) == "client.long"

    run(network, check)


def test_a_liars_page_spoils_no_other_nodes_list(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a page with less than there is, the rest at an honest node, which is blamed."""
    monkeypatch.setattr(listing, "LIMIT_MAX", 2)
    network.block(*(register_dataset(network, hospital) for hospital in HOSPITALS[1:3]))
    key = state_key(Dataset.KIND, ("hospital-2.opt",))
    alone = {"proof": encoded(prove_key(network.chain, newest(network.chain), key))}

    def lie(path: str, body: Any) -> Any:
        if not path.startswith(PATH):
            return None
        return {} if "cursor" in path else {"items": [alone], "next": body["next"]}

    async def check(client: Client) -> None:
        true = client.urls[1]
        found = await records(client, Dataset, count=3)
        assert [dataset.id for dataset in found] == [f"{name}.opt" for name in HOSPITALS[:3]]
        assert true not in client.distrusted

    listed(network, check, answering(network, lie), honest(network))


def test_a_list_of_another_height_is_refused(network: Network) -> None:
    """The attack: as many records as there were, and among them one that came later."""
    height = network.chain.head.height
    network.block(register_dataset(network, HOSPITALS[1]))
    key = state_key(Dataset.KIND, ("hospital-2.opt",))
    later = {"proof": encoded(prove_key(network.chain, newest(network.chain), key))}

    def lie(path: str, _: Any) -> Any:
        return {"items": [later], "next": None} if path.startswith(PATH) else None

    async def check(client: Client) -> None:
        bad = client.urls[0]
        found = await records(client, Dataset, at=at(network, height), count=1)
        assert [dataset.id for dataset in found] == ["hospital-1.opt"]
        assert client.distrusted[bad].code == "audit.path.root"

    listed(network, check, answering(network, lie), honest(network))


def test_a_cursor_is_no_query(network: Network) -> None:
    """A node that names its next page does not get to name the height, or anything else, of it."""
    key = state_key(Dataset.KIND, ("hospital-1.opt",))
    proof = encoded(prove_key(network.chain, newest(network.chain), key))
    cursors: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        cursors.append(request.query.get("cursor", ""))
        return web.json_response({"items": [{"proof": proof}], "next": "x&at=0#"})

    def serve_page() -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/datasets", answer)
        return app

    async def check(client: Client) -> None:
        assert await refusal(records(client, Dataset)) == "audit.key"

    listed(network, check, serve_page)
    assert cursors == ["", "x&at=0#"]
