"""Who may be at the other end of the mesh, now and after a standing changed."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import WSMsgType, web

from node.wire.listen import listening
from node.wire.tls import server_context
from tests.node.parties import HOST, LONG_AGO, Consortium, plain_session
from tests.node.wire.mesh import CONSENSUS, Node, raw_peer, validators
from vm.record import Role, Standing


@pytest.mark.parametrize(
    ("name", "role", "standing", "status", "code"),
    [
        ("a", Role.VALIDATOR, Standing.REVOKED, 403, "peer.standing"),
        ("a", Role.VALIDATOR, Standing.SUSPENDED, 403, "peer.standing"),
        ("a", Role.VALIDATOR, None, 403, "peer.unknown_key"),
        ("a", Role.TRAINER, Standing.ENROLLED, 403, "peer.role"),
        ("z", Role.VALIDATOR, Standing.ENROLLED, 409, "peer.direction"),
        ("b", Role.VALIDATOR, Standing.ENROLLED, 409, "peer.direction"),
    ],
)
def test_who_may_not_join_is_refused_at_the_upgrade(
    tmp_path: Path, name: str, role: Role, standing: Standing | None, status: int, code: str
) -> None:
    """The answer to the upgrade says why, and no connection comes about."""
    consortium = Consortium(tmp_path / "c")
    b = consortium.enrol("b")
    if standing is None:
        intruder = consortium.certify(name)
    else:
        intruder = consortium.enrol(name, role)
        consortium.set_standing(intruder, standing)

    async def scenario() -> None:
        async with (
            Node(consortium, b, {}).running() as node,
            plain_session(intruder) as session,
        ):
            async with session.get(b.url + "/peer") as response:
                assert response.status == status
                assert (await response.json())["code"] == code
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await raw_peer(session, b)
            assert node.events.empty()

    asyncio.run(scenario())


def test_a_validator_of_a_foreign_authority_is_not_heard(tmp_path: Path) -> None:
    """Enrolled by fraud, trusting our authority, it still fails in the handshake."""
    consortium, foreign = Consortium(tmp_path / "c"), Consortium(tmp_path / "f")
    b, stranger = consortium.enrol("b"), foreign.enrol("a")
    consortium.members.update(foreign.members)
    stranger.files.authority.write_bytes(b.files.authority.read_bytes())

    async def scenario() -> None:
        node = Node(consortium, b, {})
        intruder = Node(consortium, stranger, {"b": b})
        async with node.running(), intruder.running():
            await intruder.dialled_in_vain.wait()
            assert intruder.mesh.status()[0].failure is not None
            assert node.events.empty()

    asyncio.run(scenario())


def test_a_server_of_a_foreign_authority_is_not_spoken_to(tmp_path: Path) -> None:
    """Who takes over an address has no certificate of ours."""
    consortium, foreign = Consortium(tmp_path / "c"), Consortium(tmp_path / "f")
    a, b = consortium.enrol("a"), foreign.enrol("b")
    consortium.members.update(foreign.members)
    b.files.authority.write_bytes(a.files.authority.read_bytes())

    async def scenario() -> None:
        node, impostor = Node(consortium, a, {"b": b}), Node(consortium, b, {})
        async with impostor.running(), node.running():
            await node.dialled_in_vain.wait()
            failure = node.mesh.status()[0].failure
            assert failure is not None
            assert "Certificate" in failure
            assert impostor.events.empty()

    asyncio.run(scenario())


def test_a_validator_that_answers_for_another_is_refused(tmp_path: Path) -> None:
    """An enrolled validator at the address of another gets no message meant for that one."""
    consortium = Consortium(tmp_path / "c")
    a, _, c = validators(consortium, "a", "b", "c").values()

    async def scenario() -> None:
        node, impostor = Node(consortium, a, {"b": c}), Node(consortium, c, {})
        async with impostor.running(), node.running():
            await node.dialled_in_vain.wait()
            node.mesh.send("b", CONSENSUS, b"secret")
            (status,) = node.mesh.status()
            assert not status.connected
            assert status.failure is not None
            assert status.failure.startswith("peer.impersonation")
            assert node.events.empty()
        assert impostor.messages.empty()

    asyncio.run(scenario())


def test_a_server_that_is_revoked_is_not_spoken_to(tmp_path: Path) -> None:
    """The dialling side asks the chain too."""
    consortium = Consortium(tmp_path / "c")
    a, b = validators(consortium, "a", "b").values()
    consortium.set_standing(b, Standing.REVOKED)

    async def scenario() -> None:
        async with (
            Node(consortium, b, {}).running(),
            Node(consortium, a, {"b": b}).running() as node,
        ):
            await node.dialled_in_vain.wait()
            failure = node.mesh.status()[0].failure
            assert failure is not None
            assert failure.startswith("peer.standing")
            assert node.events.empty()

    asyncio.run(scenario())


def test_a_member_that_is_no_validator_is_not_spoken_to(tmp_path: Path) -> None:
    """An id that was enrolled anew in another role takes no part."""
    consortium = Consortium(tmp_path / "c")
    a, b = consortium.enrol("a"), consortium.enrol("b", Role.TRAINER)

    async def scenario() -> None:
        async def welcome(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.receive()
            return socket

        app = web.Application()
        app.add_routes([web.get("/peer", welcome)])
        async with (
            listening(app, HOST, b.port, server_context(b.files)),
            Node(consortium, a, {"b": b}).running() as node,
        ):
            await node.dialled_in_vain.wait()
            failure = node.mesh.status()[0].failure
            assert failure is not None
            assert failure.startswith("peer.role")
            assert node.events.empty()

    asyncio.run(scenario())


@pytest.mark.parametrize("expelling", ["a", "b"])
def test_a_member_revoked_since_is_expelled(tmp_path: Path, expelling: str) -> None:
    """Rechecking closes its connection, tells it why, and lets it in no more."""
    consortium = Consortium(tmp_path / "c")
    all_of_them = validators(consortium, "a", "b")
    (expelled,) = set(all_of_them) - {expelling}

    async def scenario() -> None:
        nodes = {name: Node(consortium, party, all_of_them) for name, party in all_of_them.items()}
        async with nodes["a"].running(), nodes["b"].running():
            for node in nodes.values():
                await node.events.get()
            nodes[expelling].mesh.recheck()  # nothing has changed yet
            consortium.set_standing(all_of_them[expelled], Standing.REVOKED)
            nodes[expelling].mesh.recheck()
            for name, node in nodes.items():
                (other,) = set(nodes) - {name}
                assert await node.events.get() == ("down", other)
            nodes["a"].dialled_in_vain.clear()
            await nodes["a"].dialled_in_vain.wait()
            assert not nodes[expelling].mesh.status()[0].connected
            assert nodes[expelling].events.empty()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(scenario())

    assert {"event": "peer.expelled", "code": "peer.standing", "peer": expelled} in [
        {key: line.get(key) for key in ("event", "code", "peer")} for line in lines
    ]
    assert any("peer.standing" in str(line.get("reason")) for line in lines)


def test_a_second_connection_of_a_member_replaces_the_first(tmp_path: Path) -> None:
    """A validator that restarted is not locked out by what is left of its old connection."""
    consortium = Consortium(tmp_path / "c")
    a, b = validators(consortium, "a", "b").values()

    async def scenario() -> None:
        async with (
            Node(consortium, b, {}).running() as node,
            plain_session(a) as session,
        ):
            first = await raw_peer(session, b)
            assert await node.events.get() == ("up", "a")
            second = await raw_peer(session, b)
            closed = await first.receive()
            assert (closed.type, closed.extra) == (WSMsgType.CLOSE, "peer.replaced")
            assert await node.events.get() == ("down", "a")
            assert await node.events.get() == ("up", "a")
            await second.send_bytes(b"\x01still here")
            assert await node.messages.get() == ("a", 1, b"still here")

    asyncio.run(scenario())


def test_a_connection_that_ends_before_it_began_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member expelled in the very moment of joining is closed and forgotten like any other."""
    consortium = Consortium(tmp_path / "c")
    a, b = validators(consortium, "a", "b").values()

    def stillborn(group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.cancel()
        return task

    async def scenario() -> None:
        async with (
            Node(consortium, b, {}).running() as node,
            plain_session(a) as session,
        ):
            monkeypatch.setattr(asyncio.TaskGroup, "create_task", stillborn)
            socket = await raw_peer(session, b)
            assert (await socket.receive()).type == WSMsgType.CLOSE
            assert node.mesh.status() == ()
            assert node.events.empty()

    asyncio.run(scenario())


def test_an_expired_certificate_connects_with_a_warning_at_both_ends(tmp_path: Path) -> None:
    """No date on a certificate can halt the consortium."""
    consortium = Consortium(tmp_path / "c", issued=LONG_AGO)
    all_of_them = validators(consortium, "a", "b")

    async def scenario() -> None:
        a, b = (Node(consortium, party, all_of_them) for party in all_of_them.values())
        async with a.running(), b.running():
            assert await a.events.get() == ("up", "b")
            assert await b.events.get() == ("up", "a")

    with structlog.testing.capture_logs() as lines:
        asyncio.run(scenario())

    warned = {line["peer"] for line in lines if line["event"] == "peer.certificate"}
    assert warned == {"a", "b"}
