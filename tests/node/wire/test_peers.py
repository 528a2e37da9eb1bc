"""The mesh of validators over real sockets and mutual TLS: messages, queues and silence."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from hypothesis import given
from hypothesis import strategies as st

from node.wire import peers
from node.wire.listen import listening
from node.wire.peers import (
    BACKOFF_MAX_S,
    BACKOFF_MIN_S,
    BULK_BYTES_MAX,
    FRAME_COST_BYTES,
    PEERS_MAX,
    URGENT_BYTES_MAX,
    backoff_s,
)
from node.wire.tls import server_context
from tests.node.parties import HOST, Consortium, plain_session
from tests.node.wire.mesh import CONSENSUS, GOSSIP, Node, raw_peer, validators
from vm.encoding import MESSAGE_BYTES_MAX


def test_two_validators_exchange_messages_both_ways(tmp_path: Path) -> None:
    """Each knows the other as the sender, and channels and contents arrive as they were sent."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            assert await a.events.get() == ("up", "b")
            assert await b.events.get() == ("up", "a")
            a.mesh.send("b", CONSENSUS, b"from a")
            b.mesh.send("a", 255, b"")
            assert await b.messages.get() == ("a", CONSENSUS, b"from a")
            assert await a.messages.get() == ("b", 255, b"")

    asyncio.run(scenario())


def test_a_broadcast_reaches_every_other_validator(tmp_path: Path) -> None:
    """Four validators find each other, and one says something to all."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b", "c", "d")

    async def scenario() -> None:
        a, b, c, d = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running(), c.running(), d.running():
            for node in (a, b, c, d):
                others = {(await node.events.get())[1] for _ in range(3)}
                assert others == {"a", "b", "c", "d"} - {node.party.id}
            for node in (a, b, c, d):
                node.mesh.broadcast(CONSENSUS, node.party.id.encode())
            for node in (a, b, c, d):
                heard = [await node.messages.get() for _ in range(3)]
                assert sorted(heard) == [
                    (name, CONSENSUS, name.encode()) for name in "abcd" if name != node.party.id
                ]

    asyncio.run(scenario())


@pytest.mark.parametrize("stopped", ["a", "b"])
def test_a_validator_that_comes_back_is_connected_again(tmp_path: Path, stopped: str) -> None:
    """Whether the dialling or the dialled one of a pair was away."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    (stayed,) = set(all_of_them) - {stopped}

    async def scenario() -> None:
        node = Node(consortium, all_of_them[stayed], all_of_them)
        async with node.running():
            for _ in range(2):
                async with Node(consortium, all_of_them[stopped], all_of_them).running() as other:
                    assert await node.events.get() == ("up", stopped)
                    assert await other.events.get() == ("up", stayed)
                    node.mesh.send(stopped, CONSENSUS, b"welcome")
                    assert await other.messages.get() == (stayed, CONSENSUS, b"welcome")
                assert await node.events.get() == ("down", stopped)
                assert node.mesh.status()[0].connected is False

    asyncio.run(scenario())


def test_messages_arrive_in_order_and_one_at_a_time(tmp_path: Path) -> None:
    """Receiving waits for the handler: that is what slows a fast sender down."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    inside, most = 0, 0

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())

        async def slow(sender: str, channel: int, data: bytes) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)  # lets another delivery in, if there were one
            inside -= 1
            await b.messages.put((sender, channel, data))

        b.mesh._on_message = slow
        async with a.running(), b.running():
            await a.events.get()
            for number in range(100):
                a.mesh.send("b", CONSENSUS, b"%d" % number)
            heard = [(await b.messages.get())[2] for _ in range(100)]
        assert heard == [b"%d" % number for number in range(100)]
        assert most == 1

    asyncio.run(scenario())


def test_the_largest_message_arrives(tmp_path: Path) -> None:
    """The bound of a message does not count the byte of the channel."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            await a.events.get()
            a.mesh.send("b", CONSENSUS, bytes(MESSAGE_BYTES_MAX))
            assert await b.messages.get() == ("a", CONSENSUS, bytes(MESSAGE_BYTES_MAX))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (bytes(MESSAGE_BYTES_MAX + 2), aiohttp.WSCloseCode.MESSAGE_TOO_BIG),
        (b"", aiohttp.WSCloseCode.GOING_AWAY),
        ("text", aiohttp.WSCloseCode.GOING_AWAY),
    ],
)
def test_a_frame_that_breaks_the_rules_closes_the_connection(
    tmp_path: Path, frame: bytes | str, code: aiohttp.WSCloseCode
) -> None:
    """An oversized one is not even read to its end; nothing of it reaches the handler."""
    consortium = Consortium(tmp_path / "c")
    a, b = validators(consortium, "a", "b").values()

    async def scenario() -> None:
        async with (
            Node(consortium, b, {}).running() as node,
            plain_session(a) as session,
        ):
            attacker = await raw_peer(session, b)
            assert await node.events.get() == ("up", "a")
            if isinstance(frame, str):
                await attacker.send_str(frame)
            else:
                await attacker.send_bytes(frame)
            closed = await attacker.receive()
            assert (closed.type, closed.data) == (WSMsgType.CLOSE, code)
            assert await node.events.get() == ("down", "a")
            assert node.messages.empty()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("channel", "bytes_max"), [(CONSENSUS, URGENT_BYTES_MAX), (GOSSIP, BULK_BYTES_MAX)]
)
def test_a_full_queue_drops_the_newest_and_counts(
    tmp_path: Path, channel: int, bytes_max: int
) -> None:
    """Sending never waits; what was queued before arrives without a gap."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    fit = bytes_max // (MESSAGE_BYTES_MAX + 1 + FRAME_COST_BYTES)

    def message(number: int) -> bytes:
        return bytes([number]) + bytes(MESSAGE_BYTES_MAX - 1)

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            await a.events.get()
            for number in range(fit + 3):
                a.mesh.send("b", channel, message(number))
            (status,) = a.mesh.status()
            assert status.dropped == 3
            assert status.queued_bytes <= bytes_max
            heard = [(await b.messages.get())[2][0] for _ in range(fit)]
            assert heard == list(range(fit))
            for number in (98, 99):  # what has left makes room again
                a.mesh.send("b", channel, message(number))
                assert (await b.messages.get())[2][0] == number
            assert b.messages.empty()

    asyncio.run(scenario())


def test_a_vote_waits_behind_no_gossip(tmp_path: Path) -> None:
    """Gossip that fills its queue neither takes the room of a vote nor leaves before it."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    fit = BULK_BYTES_MAX // (MESSAGE_BYTES_MAX + 1 + FRAME_COST_BYTES)

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            await a.events.get()
            for _ in range(fit + 2):
                a.mesh.send("b", GOSSIP, bytes(MESSAGE_BYTES_MAX))
            for vote in (b"prepare", b"commit"):
                a.mesh.send("b", CONSENSUS, vote)
            assert a.mesh.status()[0].dropped == 2
            heard = [(await b.messages.get())[1:] for _ in range(fit + 2)]
            assert heard[:2] == [(CONSENSUS, b"prepare"), (CONSENSUS, b"commit")]
            assert heard[2:] == [(GOSSIP, bytes(MESSAGE_BYTES_MAX))] * fit

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("channel", "bound"), [(CONSENSUS, "URGENT_BYTES_MAX"), (GOSSIP, "BULK_BYTES_MAX")]
)
def test_many_small_messages_fill_the_queue_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: int, bound: str
) -> None:
    """What a queued frame costs beside its message counts, so empty ones are bounded."""
    monkeypatch.setattr(peers, bound, 10 * (FRAME_COST_BYTES + 1))
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            await a.events.get()
            for _ in range(11):
                a.mesh.broadcast(channel, b"")
            assert a.mesh.status()[0].dropped == 1

    asyncio.run(scenario())


def test_a_writer_that_fails_ends_the_link(tmp_path: Path) -> None:
    """A link that hears but no longer speaks would keep a better one from coming about."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")

    async def broken(data: bytes, compress: int | None = None) -> None:
        raise RuntimeError("a bug of the library's")

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            await a.events.get()
            await b.events.get()
            a.mesh._links["b"].socket.send_bytes = broken  # type: ignore[method-assign]
            a.mesh.send("b", CONSENSUS, b"lost")
            assert await a.events.get() == ("down", "b")
            assert await b.events.get() == ("down", "a")
            assert await a.events.get() == ("up", "b")
            a.mesh.send("b", CONSENSUS, b"heard")
            assert (await b.messages.get())[2] == b"heard"

    asyncio.run(scenario())


def test_a_ping_that_can_no_longer_be_answered_ends_the_link_and_not_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validator that was stopped for a while finds pings of peers that have long hung up."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    receive = aiohttp.ClientWebSocketResponse.receive
    gone = [True]

    async def answer_nobody(socket: Any, *rest: Any) -> Any:
        if gone:
            gone.pop()
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        return await receive(socket, *rest)

    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "receive", answer_nobody)

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with asyncio.timeout(20), a.running(), b.running():
            for node, other in ((a, "b"), (b, "a")):
                assert await node.events.get() == ("up", other)
                assert await node.events.get() == ("down", other)
                assert await node.events.get() == ("up", other)

    asyncio.run(scenario())


def test_a_message_for_one_who_is_not_there_is_lost(tmp_path: Path) -> None:
    """Nothing is kept for later: consensus resends after the exchange of Status."""
    consortium = Consortium(tmp_path / "c")
    a, b = validators(consortium, "a", "b").values()

    async def scenario() -> None:
        async with Node(consortium, a, {"b": b}).running() as node:
            await node.dialled_in_vain.wait()
            node.mesh.send("b", CONSENSUS, b"early")
            async with Node(consortium, b, {}).running() as other:
                assert await node.events.get() == ("up", "b")
                node.mesh.send("b", CONSENSUS, b"late")
                assert (await other.messages.get())[2] == b"late"

    asyncio.run(scenario())


def test_a_peer_that_fell_silent_is_noticed(tmp_path: Path) -> None:
    """One whose machine hangs keeps its connection open but answers no ping."""
    consortium = Consortium(tmp_path / "c")
    a, b = validators(consortium, "a", "b").values()

    async def scenario() -> None:
        ended = asyncio.Event()

        async def hang(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(autoping=False)
            await socket.prepare(request)
            await ended.wait()
            return socket

        app = web.Application()
        app.add_routes([web.get("/peer", hang)])
        async with (
            listening(app, HOST, b.port, server_context(b.files)),
            Node(consortium, a, {"b": b}, heartbeat_s=0.1).running() as node,
        ):
            assert await node.events.get() == ("up", "b")
            assert await node.events.get() == ("down", "b")
            ended.set()

    asyncio.run(scenario())


@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_failing_handler_ends_the_mesh_loudly(tmp_path: Path, failing: str) -> None:
    """Our own bug must stop the node, not vanish in a connection's task."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    (other,) = set(all_of_them) - {failing}

    async def broken(peer: str) -> None:
        raise AssertionError("a bug of ours")

    async def scenario() -> None:
        node = Node(consortium, all_of_them[failing], all_of_them)
        node.mesh._on_connected = broken
        context = server_context(node.party.files)
        async with (
            Node(consortium, all_of_them[other], all_of_them).running(),
            listening(node.app, HOST, node.party.port, context),
        ):
            with pytest.raises(ExceptionGroup) as group:
                await node.mesh.run()
            assert group.group_contains(AssertionError, match="a bug of ours")

    asyncio.run(scenario())


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_pause_between_dials_is_bounded(failures: int, chance: float) -> None:
    """Never busy, never longer than the cap, and never shorter after one more failure."""
    pause = backoff_s(failures, chance)

    assert BACKOFF_MIN_S / 2 <= pause <= BACKOFF_MAX_S
    assert pause <= backoff_s(failures + 1, chance)


@pytest.mark.parametrize("newcomer", ["a", "b"])
def test_a_validator_that_joins_is_connected_without_a_restart(
    tmp_path: Path, newcomer: str
) -> None:
    """Whichever of the two has the lower id, which dials: it learns the address while it runs."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    (there,) = set(all_of_them) - {newcomer}

    async def scenario() -> None:
        first = Node(consortium, all_of_them[there], {})
        second = Node(consortium, all_of_them[newcomer], all_of_them)
        async with first.running(), second.running():
            first.mesh.set_addresses({newcomer: f"{HOST}:{all_of_them[newcomer].port}"})
            assert await first.events.get() == ("up", newcomer)
            assert await second.events.get() == ("up", there)

    asyncio.run(scenario())


def test_a_validator_that_moves_is_found_at_its_new_address(tmp_path: Path) -> None:
    """What was in vain at the old one does not count, and a connection that holds is kept."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    a, b = all_of_them.values()

    async def scenario() -> None:
        node = Node(consortium, a, {})
        async with node.running():
            node.mesh.set_addresses({"b": f"{HOST}:{consortium.free_port()}"})
            await node.dialled_in_vain.wait()
            assert not node.mesh.status()[0].connected
            async with Node(consortium, b, all_of_them).running() as other:
                node.mesh.set_addresses({"b": f"{HOST}:{b.port}"})
                assert await node.events.get() == ("up", "b")
                node.mesh.set_addresses({"b": f"{HOST}:{consortium.free_port()}"})
                node.mesh.send("b", CONSENSUS, b"still here")
                assert await other.messages.get() == ("a", CONSENSUS, b"still here")
                assert node.events.empty()

    asyncio.run(scenario())


def test_a_validator_that_left_is_not_dialled_any_more(tmp_path: Path) -> None:
    """The connection that was dialled to it ends; named again, it is dialled again."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    addresses = {name: f"{HOST}:{party.port}" for name, party in all_of_them.items()}

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            assert await b.events.get() == ("up", "a")
            a.mesh.set_addresses({"a": addresses["a"]})
            assert await b.events.get() == ("down", "a")
            assert a.mesh.status() == ()
            a.mesh.set_addresses(addresses)
            assert await b.events.get() == ("up", "a")

    asyncio.run(scenario())


def test_more_peers_than_a_mesh_can_have_are_our_bug(tmp_path: Path) -> None:
    """Who decides on addresses bounds them."""
    consortium = Consortium(tmp_path / "c")
    node = Node(consortium, consortium.enrol("a"), {})

    node.mesh.set_addresses({f"v{number}": HOST for number in range(PEERS_MAX)})
    with pytest.raises(AssertionError, match="bound"):
        node.mesh.set_addresses({f"v{number}": HOST for number in range(PEERS_MAX + 1)})
