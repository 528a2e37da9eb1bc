"""Who comes in at the peer port, and what the others are told."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from node.wire.gate import MEMBER, REMINDER, REMINDERS_MAX, Reminders, build_peer_app
from node.wire.listen import listening
from node.wire.tls import server_context
from tests.node.parties import HOST, LONG_AGO, NOW, Consortium, Party, plain_session
from vm.record import Standing
from vm.refusal import Refused


async def whoami(request: web.Request) -> web.Response:
    """Tell the caller who it is."""
    return web.Response(text=request[MEMBER].id)


async def ask(
    consortium: Consortium, server: Party, client: Party, path: str = "/whoami", times: int = 1
) -> tuple[int, str, Any]:
    """Serve `whoami`, ask it as `client`; return status, content type and body of the last."""
    app = build_peer_app(consortium.gate(), [web.get("/whoami", whoami)])
    async with (
        listening(app, HOST, server.port, server_context(server.files)),
        plain_session(client) as session,
    ):
        for _ in range(times):
            async with session.get(server.url + path) as response:
                is_text = response.content_type == "text/plain"
                body = await response.text() if is_text else await response.json()
    return response.status, response.content_type, body


def test_a_member_is_known_by_its_key(tmp_path: Path) -> None:
    """The handler sees the member that the chain has for the certificate's key."""
    consortium = Consortium(tmp_path / "c")
    one, two = consortium.enrol("one"), consortium.enrol("two")

    status, _, name = asyncio.run(ask(consortium, one, two))

    assert (status, name) == (200, "two")


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.REVOKED])
def test_a_member_that_may_not_act_is_refused(tmp_path: Path, standing: Standing) -> None:
    """A certificate that is still good does not help a member that the chain has put out."""
    consortium = Consortium(tmp_path / "c")
    one, two = consortium.enrol("one"), consortium.enrol("two")
    consortium.set_standing(two, standing)

    status, content_type, body = asyncio.run(ask(consortium, one, two))

    assert (status, content_type) == (403, "application/problem+json")
    assert body["code"] == "peer.standing"
    assert "two" in body["detail"]


def test_a_key_that_is_not_enrolled_is_refused(tmp_path: Path) -> None:
    """A certificate of our authority in a member's name, but for another key, opens nothing."""
    consortium = Consortium(tmp_path / "c")
    one = consortium.enrol("one")
    consortium.enrol("two")
    stolen_name = consortium.certify("two")

    status, _, body = asyncio.run(ask(consortium, one, stolen_name))

    assert status == 403
    assert body["code"] == "peer.unknown_key"
    assert stolen_name.spki.hex() in body["detail"]


def test_a_certificate_of_a_foreign_authority_reaches_no_handler(tmp_path: Path) -> None:
    """The attacker enrolled its key on chain by fraud and still lacks a certificate of ours."""
    consortium, foreign = Consortium(tmp_path / "c"), Consortium(tmp_path / "f")
    one, stranger = consortium.enrol("one"), foreign.enrol("two")
    consortium.members.update(foreign.members)
    stranger.files.authority.write_bytes(one.files.authority.read_bytes())

    with pytest.raises(aiohttp.ClientError):
        asyncio.run(ask(consortium, one, stranger))


def test_a_refused_key_is_logged_once_in_an_interval(tmp_path: Path) -> None:
    """One who keeps knocking does not fill the log."""
    consortium = Consortium(tmp_path / "c")
    one, stranger = consortium.enrol("one"), consortium.certify("two")

    with structlog.testing.capture_logs() as lines:
        asyncio.run(ask(consortium, one, stranger, times=3))

    assert [(line["event"], line["code"]) for line in lines] == [
        ("peer.refused", "peer.unknown_key")
    ]


def test_an_expired_certificate_comes_in_with_a_warning(tmp_path: Path) -> None:
    """The enrolled key decides; the dates are for the operator to look after."""
    consortium = Consortium(tmp_path / "c", issued=LONG_AGO)
    one, two = consortium.enrol("one"), consortium.enrol("two")

    with structlog.testing.capture_logs() as lines:
        status, _, name = asyncio.run(ask(consortium, one, two, times=2))

    assert (status, name) == (200, "two")
    assert [line["event"] for line in lines] == ["peer.certificate"]
    assert "expired" in lines[0]["reason"]


def test_a_path_that_does_not_exist_is_a_problem_document(tmp_path: Path) -> None:
    """Errors of the HTTP library have our form."""
    consortium = Consortium(tmp_path / "c")
    one, two = consortium.enrol("one"), consortium.enrol("two")

    status, content_type, body = asyncio.run(ask(consortium, one, two, "/nothing"))

    assert (status, content_type) == (404, "application/problem+json")
    assert body["code"] == "http.error"


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    """The operator learns which address is taken and what to do."""
    consortium = Consortium(tmp_path / "c")
    one = consortium.enrol("one")

    async def start() -> None:
        app = build_peer_app(consortium.gate())
        async with listening(app, HOST, one.port, server_context(one.files)):
            pytest.fail("the port is taken")

    with socket.create_server((HOST, one.port)), pytest.raises(Refused) as refused:
        asyncio.run(start())

    assert refused.value.code == "listen.port_busy"
    assert f"{HOST}:{one.port}" in refused.value.message


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    """192.0.2.1 is reserved for documentation (RFC 5737): no machine has it."""
    consortium = Consortium(tmp_path / "c")
    one = consortium.enrol("one")

    async def start() -> None:
        app = build_peer_app(consortium.gate())
        async with listening(app, "192.0.2.1", one.port, server_context(one.files)):
            pytest.fail("the address is not ours")

    with pytest.raises(Refused, match=r"192\.0\.2\.1") as refused:
        asyncio.run(start())

    assert refused.value.code == "listen.address"


def test_a_reminder_is_due_again_after_the_interval() -> None:
    """Each subject has its own interval."""
    now = NOW
    reminders = Reminders(lambda: now)
    assert reminders.due("a")
    assert not reminders.due("a")
    assert reminders.due("b")

    now += REMINDER

    assert reminders.due("a")
    assert not reminders.due("a")


def test_reminders_are_bounded() -> None:
    """Of too many subjects the oldest is forgotten, so it is spoken of again."""
    reminders = Reminders(lambda: NOW)
    for subject in range(REMINDERS_MAX + 1):
        assert reminders.due(subject)

    assert not reminders.due(1)
    assert reminders.due(0)
