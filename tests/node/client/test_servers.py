"""TLS servers that hold another key than they should: they get neither signatures nor tokens."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from node.client.connection import Connection
from node.client.credentials import Credentials
from node.readers.signature import SERVER, Message, sign
from node.wire.tls import authority_context, reading_context
from tests.harness import key_of
from tests.node.client.asking import refusal
from tests.node.network import Network
from tests.node.parties import Consortium, Party
from tests.node.readers.reading import AUDITOR, private_network
from tests.node.serving import HOST, Node, serve, serve_app
from vm.refusal import Refused

PATH = "/v1/members?limit=1"
BYTES_MAX = 1_000_000


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain whose readers are its members."""
    with private_network(tmp_path) as made:
        yield made


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """The authority that every certificate here is of: all of them are good for this host."""
    return Consortium(tmp_path / "pki")


def at(
    network: Network, server: Party, door: socket.socket | None = None
) -> AbstractAsyncContextManager[tuple[str, Node]]:
    """The network's interface over TLS with the key of `server`."""
    context = reading_context(server.files)
    return serve(network, known=False, context=context, server=server.spki, door=door)


def run(network: Network, server: Party, check: Callable[[str, Node], Awaitable[None]]) -> None:
    """Check what that interface does."""

    async def main() -> None:
        async with at(network, server) as (url, node):
            await check(url, node)

    asyncio.run(main())


def door(url: str) -> socket.socket:
    """The same port again."""
    return socket.create_server((HOST, int(url.rpartition(":")[2])))


def reader(party: Party) -> Credentials:
    """An auditor without a TLS key."""
    return Credentials(AUDITOR, key_of(AUDITOR), authority_context(party.files.authority))


def relay(to: str, party: Party) -> web.Application:
    """A server that passes on what it is asked, and what is answered."""

    async def pass_on(request: web.Request) -> web.Response:
        connector = aiohttp.TCPConnector(ssl=authority_context(party.files.authority))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                request.method, to + request.path_qs, headers=request.headers
            ) as answer,
        ):
            return web.Response(
                body=await answer.read(), status=answer.status, content_type=answer.content_type
            )

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", pass_on)
    return app


def spy(seen: list[Any]) -> web.Application:
    """A server that keeps what it is shown."""

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"items": [], "next": None})

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    return app


def test_a_reader_without_a_tls_key_mints_a_token_over_tls(
    network: Network, consortium: Consortium
) -> None:
    """At the node whose key it sees."""
    server = consortium.certify("validator")

    async def check(url: str, node: Node) -> None:
        async with Connection(reader(server)) as one:
            assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200
            assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200

    run(network, server, check)


def test_a_server_of_another_authority_is_told_from_one_that_is_away(
    network: Network, consortium: Consortium, tmp_path: Path
) -> None:
    """What TLS says is passed on."""
    server, other = consortium.certify("validator"), Consortium(tmp_path / "other")

    async def check(url: str, node: Node) -> None:
        async with Connection(reader(other.certify("validator"))) as one:
            with pytest.raises(Refused, match="certificate verify failed") as refused:
                await one.fetch(url, PATH, BYTES_MAX)
        assert refused.value.code == "client.unreachable"

    run(network, server, check)


def test_a_relay_mints_no_token_in_a_readers_name(network: Network, consortium: Consortium) -> None:
    """The attack: a retired key, a name that leads there, and the validator behind it."""
    server, retired = consortium.certify("validator"), consortium.certify("validator")

    async def check(url: str, node: Node) -> None:
        context = reading_context(retired.files)
        async with (
            serve_app(relay(url, retired), context=context) as other,
            Connection(reader(server)) as one,
        ):
            node.desk._names |= {other.removeprefix("https://")}  # so says the DNS
            assert await refusal(one.fetch(other, PATH, BYTES_MAX)) == "reader.signature"
        assert len(node.desk._tokens._grants) == 0

    run(network, server, check)


def test_a_token_goes_to_no_other_key(network: Network, consortium: Consortium) -> None:
    """The attack: the name leads elsewhere once the token is minted. The next request has none."""
    server, retired = consortium.certify("validator"), consortium.certify("validator")
    seen: list[Any] = []

    async def main() -> None:
        async with Connection(reader(server)) as one:
            async with at(network, server) as (url, _):
                assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200
            context = reading_context(retired.files)
            async with serve_app(spy(seen), door(url), context):
                assert await refusal(one.fetch(url, PATH, BYTES_MAX)) == "client.unreachable"
                assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200

    asyncio.run(main())
    assert seen == [None]


def test_a_server_with_a_new_key_gets_a_token_for_it(
    network: Network, consortium: Consortium
) -> None:
    """Keys are rotated: one request fails, the next one goes by the new key."""
    old, new = consortium.certify("validator"), consortium.certify("validator")

    async def main() -> None:
        async with Connection(reader(old)) as one:
            async with at(network, old) as (url, _):
                assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200
            async with at(network, new, door(url)) as (_, node):
                assert await refusal(one.fetch(url, PATH, BYTES_MAX)) == "client.unreachable"
                assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200
                assert len(node.desk._tokens._grants) == 1

    asyncio.run(main())


@pytest.mark.parametrize("seen", [None, "00" * 32])
def test_a_signature_for_another_tls_key_is_refused(
    network: Network, consortium: Consortium, seen: str | None
) -> None:
    """Also one that names none: it could be for anybody who was between."""
    server = consortium.certify("validator")

    async def check(url: str, node: Node) -> None:
        headers = CIMultiDict[str]({} if seen is None else {SERVER: seen})
        message = Message("GET", url + PATH, headers)
        sign(key_of(AUDITOR), AUDITOR, message, int(time.time()), "0123456789abcdef")
        connector = aiohttp.TCPConnector(ssl=authority_context(server.files.authority))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(url + PATH, headers=headers) as answer,
        ):
            body = await answer.json(content_type=None)
        assert (answer.status, body["code"]) == (401, "reader.signature")
        assert '"concilium-server"' in answer.headers["Accept-Signature"]

    run(network, server, check)
