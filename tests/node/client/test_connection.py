"""How a client says who it is: tokens minted when they are wanted, and waits as it is told."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from node.client import connection
from node.client.client import Client
from node.client.connection import Connection
from node.client.credentials import Credentials
from node.readers import desk
from tests.harness import key_of
from tests.node.network import HOSPITALS, Network
from tests.node.readers.reading import AUDITOR, TRAINER, private_network, set_standing
from tests.node.serving import Node, serve, serve_app
from vm.record import Member, Standing
from vm.refusal import Refused

READER = Credentials(AUDITOR, key_of(AUDITOR))
PATH = "/v1/members?limit=1"
BYTES_MAX = 1_000_000


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain whose readers are its members."""
    with private_network(tmp_path) as made:
        yield made


def run(network: Network, check: Callable[[str, Node], Awaitable[None]]) -> None:
    """Serve the network with a desk that asks who reads."""

    async def main() -> None:
        async with serve(network, known=False) as (url, node):
            await check(url, node)

    asyncio.run(main())


def minted(node: Node) -> int:
    """How many tokens are good at a node."""
    return len(node.desk._tokens._grants)


def test_a_client_mints_a_token_when_it_is_asked_who_it_is(network: Network) -> None:
    """Once, and it serves for all that is asked then."""

    async def check(url: str, node: Node) -> None:
        async with Client(network.genesis, [url], READER) as client:
            for _ in range(5):
                assert await client.record(Member, AUDITOR) is not None
            assert minted(node) == 1

    run(network, check)


def test_many_requests_at_once_mint_one_token(network: Network) -> None:
    """The first that is refused does it, and the others wait."""

    async def check(url: str, node: Node) -> None:
        async with Connection(READER) as one:
            await one.fetch(url, "/livez", BYTES_MAX)
            replies = await asyncio.gather(*(one.fetch(url, PATH, BYTES_MAX) for _ in range(20)))
            assert {reply.status for reply in replies} == {200}
            assert minted(node) == 1

    run(network, check)


def test_a_client_of_nobody_is_told_what_is_missing(network: Network) -> None:
    """It asks no further: nothing would come of it."""

    async def check(url: str, node: Node) -> None:
        async with Client(network.genesis, [url]) as client:
            with pytest.raises(Refused) as refused:
                await client.record(Member, AUDITOR)
        assert refused.value.code == "reader.required"

    run(network, check)


def test_a_node_that_has_forgotten_a_token_gets_another(network: Network) -> None:
    """A restart ends all tokens; a client notices nothing of it."""

    async def check(url: str, node: Node) -> None:
        async with Connection(READER) as one:
            assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200
            node.desk._tokens._grants.clear()
            node.desk._tokens._of.clear()
            assert (await one.fetch(url, PATH, BYTES_MAX)).status == 200

    run(network, check)


def test_a_member_that_was_suspended_is_told_so(network: Network) -> None:
    """It does not try to mint again and again."""

    async def check(url: str, node: Node) -> None:
        reader = Credentials(TRAINER, key_of(TRAINER))
        async with Client(network.genesis, [url], reader) as client:
            await client.record(Member, TRAINER)
            set_standing(network, TRAINER, Standing.SUSPENDED)
            with pytest.raises(Refused) as refused:
                await client.record(Member, TRAINER)
        assert refused.value.code == "reader.standing"

    run(network, check)


def test_a_token_goes_to_the_node_that_minted_it_alone(network: Network) -> None:
    """Another node that got it could read in our name, and we would be in that one's log."""
    seen: list[str] = []

    async def spy(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({})

    async def check(url: str, node: Node) -> None:
        app = web.Application()
        app.router.add_get("/v1/members", spy)
        async with serve_app(app) as other, Connection(READER) as one:
            await one.fetch(url, PATH, BYTES_MAX)
            await one.fetch(other, PATH, BYTES_MAX)

    run(network, check)
    assert seen == [""]


def test_a_client_waits_as_it_is_told(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 is no refusal: it comes again when the node said, and then it is served."""
    monkeypatch.setattr(desk, "BURST_S", 0.002)
    now, waits = [1_700_000_000.0], list[float]()

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    async def main() -> None:
        clock: Callable[[], float] = lambda: now[0]  # noqa: E731 - the node's clock
        async with serve(network, known=False, now_s=clock) as (url, _), Connection(READER) as one:
            monkeypatch.setattr(connection, "_now_s", lambda: int(now[0]))
            monkeypatch.setattr(connection, "_wait", wait)
            statuses = [(await one.fetch(url, PATH, BYTES_MAX)).status for _ in range(8)]
            assert set(statuses) == {200}

    asyncio.run(main())
    assert waits
    assert set(waits) == {1.0}


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("7", 7.0),
        ("999999", 20.0),
        ("0", 1.0),
        ("-3", 1.0),
        ("", 1.0),
        ("soon", 1.0),
        ("²", 1.0),
        ("9" * 5_000, 1.0),
    ],
)
def test_a_wait_is_within_bounds(header: str, wait_s: float) -> None:
    """A node cannot send us away for an hour, nor have us ask without pause."""
    assert connection._wait_s(header) == wait_s


def test_a_node_that_is_always_busy_is_passed_over(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries its refusal is told, and another node is asked."""
    asked: list[str] = []

    async def wait(_: float) -> None:
        return

    async def busy(request: web.Request) -> web.Response:
        asked.append(request.path)
        body = {"code": "reader.too_many", "detail": "come again"}
        return web.json_response(body, status=429, headers={"Retry-After": "1"})

    async def check(url: str, node: Node) -> None:
        app = web.Application()
        app.router.add_get("/v1/members/{id}", busy)
        app.router.add_get("/v1/checkpoints", busy)
        async with (
            serve_app(app) as bad,
            Client(network.genesis, [bad, url], READER) as client,
        ):
            with monkeypatch.context() as patient:
                patient.setattr(connection, "_wait", wait)
                assert await client.record(Member, AUDITOR) is not None
        assert len([path for path in asked if "members" in path]) == connection.BUSY_TRIES + 1

    run(network, check)


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": "a\nb"}, {"token": "x" * 513}, []])
def test_a_token_that_is_none_is_refused(body: object) -> None:
    """What a node sends goes into a header of ours: nothing but letters, and not many."""

    async def main() -> None:
        async def unknown(_: web.Request) -> web.Response:
            return web.json_response({"code": "reader.required", "detail": "who?"}, status=401)

        async def mint(_: web.Request) -> web.Response:
            return web.json_response(body, status=201)

        app = web.Application()
        app.router.add_get("/v1/members", unknown)
        app.router.add_post("/v1/tokens", mint)
        async with serve_app(app) as url, Connection(READER) as one:
            with pytest.raises(Refused) as refused:
                await one.fetch(url, PATH, BYTES_MAX)
            assert refused.value.code == "http.answer"

    asyncio.run(main())


def test_a_node_that_never_believes_us_is_asked_twice(network: Network) -> None:
    """One token is enough to see that it helps nothing."""
    asked: list[str] = []

    async def unknown(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization", "none"))
        return web.json_response({"code": "reader.expired", "detail": "over"}, status=401)

    async def mint(_: web.Request) -> web.Response:
        return web.json_response({"token": f"t{len(asked)}"}, status=201)

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/members", unknown)
        app.router.add_post("/v1/tokens", mint)
        async with serve_app(app) as url, Connection(READER) as one:
            assert (await one.fetch(url, PATH, BYTES_MAX)).status == 401

    asyncio.run(main())
    assert asked == ["none", "Bearer t1"]


def test_an_event_stream_begins_with_a_token(network: Network) -> None:
    """Whoever follows the chain is asked who it is, like any reader."""

    async def check(url: str, node: Node) -> None:
        async with Client(network.genesis, [url], READER) as client:
            event = await anext(client.events(0))
            assert event.height == 1
            assert minted(node) == 1

    run(network, check)


def test_reading_needs_no_member_where_it_is_public(tmp_path: Path) -> None:
    """And no token is minted for it, whoever asks."""
    with private_network(tmp_path, public=True) as network:

        async def check(url: str, node: Node) -> None:
            async with Client(network.genesis, [url]) as client:
                assert await client.record(Member, f"{HOSPITALS[0]}.admin") is not None
            async with Client(network.genesis, [url], READER) as client:
                assert await client.record(Member, AUDITOR) is not None
            assert minted(node) == 0

        run(network, check)


def test_no_cookie_is_kept(network: Network) -> None:
    """Nodes have no say in what we remember: not of us, and not in our memory."""
    brought: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        brought.append(request.headers.get("Cookie", ""))
        response = web.json_response({})
        response.set_cookie("mark", "x" * 300)
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/x", answer)
        async with serve_app(app) as url, Connection(None) as opened:
            named = url.replace("127.0.0.1", "localhost")
            for _ in range(2):
                await opened.fetch(named, "/x", BYTES_MAX)

    asyncio.run(main())
    assert brought == ["", ""]


@pytest.mark.parametrize("url", ["http://user:pw@127.0.0.1:1", "https://token@host", "ftp://host"])
def test_a_url_names_a_host_alone(network: Network, url: str) -> None:
    """What stands before an @ would be sent as another credential than our own."""
    with pytest.raises(Refused) as refused:
        Client(network.genesis, [url])

    assert refused.value.code == "client.urls"
