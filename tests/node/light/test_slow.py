"""A node that is slow on purpose: it has a minute of a round, and then the others go on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from node.client import connection
from node.light.follow import LOOK_S, SHOW_S, Round, State
from node.light.history import History
from tests.node.light.liar import Server, following, held_at, honest, lagging, rotated
from tests.node.network import Network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain of several sets of validators; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("network")
    with rotated(folder) as made:
        yield made


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time goes on by itself, and further by what a client waits."""

    waited_s = 0.0

    def time(self) -> float:
        """Seconds."""
        return super().time() + self.waited_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Nobody really waits where a node says so."""
    made = Clock()

    async def wait(seconds: float) -> None:
        made.waited_s += seconds
        for _ in range(3):  # a timeout that is due by now comes first
            await asyncio.sleep(0)

    monkeypatch.setattr(connection, "_wait", wait)
    yield made
    made.close()


def slow(network: Network, path: str) -> Server:
    """A node without any key that is honest, after each request there was put off four times."""

    def make() -> web.Application:
        app, asked = honest(network)(), dict[str, int]()

        @web.middleware
        async def put_off(request: web.Request, handler: Handler) -> web.StreamResponse:
            asked[request.path] = asked.get(request.path, 0) + 1
            if request.path.startswith(path) and asked[request.path] % 5:
                return web.json_response({}, status=429, headers={"Retry-After": "20"})
            return await handler(request)

        app.middlewares.append(put_off)
        return app

    return make


def look(clock: Clock, network: Network, held: History | None, *servers: Server) -> Round:
    """A round of these nodes."""

    async def main() -> Round:
        async with following(network, *servers, held=held) as follower:
            return await follower.round()

    return clock.run_until_complete(main())


def test_a_node_that_puts_off_every_answer_is_left_after_a_minute(
    network: Network, clock: Clock
) -> None:
    """The attack: 80 s for each request, and a request for each step: minutes for every command."""
    found = look(clock, network, None, slow(network, "/v1/"))

    assert [(seen.state, seen.code) for seen in found.seen] == [
        (State.UNREACHABLE, "client.unreachable")
    ]
    assert clock.waited_s <= LOOK_S + connection.WAIT_S_MAX


@pytest.mark.parametrize(("path", "older"), [("/v1/consistency", 1), ("/v1/records", 0)])
def test_a_node_that_is_slow_to_show_its_history_is_left_after_a_minute(
    network: Network, clock: Clock, path: str, older: int
) -> None:
    """All that it is asked for after its checkpoint counts together."""
    held = held_at(network, older) if older else None

    found = look(clock, network, held, slow(network, path))

    assert [seen.code for seen in found.seen] == ["client.unreachable"]
    assert found.held == held
    assert clock.waited_s <= SHOW_S + connection.WAIT_S_MAX


def test_a_slow_leader_puts_no_other_node_behind(network: Network, clock: Clock) -> None:
    """It is the one that did not answer: the next one leads, and shows how all stand."""
    servers = (slow(network, "/v1/consistency"), honest(network), lagging(network))
    held = held_at(network, network.chain.head.height)

    found = look(clock, network, held, *servers)

    assert [seen.state for seen in found.seen] == [State.UNREACHABLE, State.AGREES, State.AGREES]
