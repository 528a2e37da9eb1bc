"""Blobs that are refused: what was not promised, who may not, and servers that get nothing."""

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.wire.cid import CHUNK_BYTES, address, split
from node.wire.listen import listening
from node.wire.tls import server_context
from node.wire.transfer import upload
from tests.node.parties import HOST, Consortium, plain_session
from tests.node.wire.stage import LONG, SHORT, Stage, manifest_of
from vm.record import Standing
from vm.refusal import Refused


async def attack(
    stage: Stage, method: str, path: str, body: bytes | None = None, **rules: Any
) -> tuple[int, str]:
    """Send one request as a member without our client; return the status and the code."""
    async with (
        stage.serving(stage.one, stage.store, **rules),
        plain_session(stage.trainer) as session,
        session.request(
            method, f"{stage.one.url}/blobs/{path}", data=BytesIO(body or b"")
        ) as response,
    ):
        return response.status, (await response.json())["code"]


@pytest.mark.parametrize(
    ("index", "chunk", "status", "code"),
    [
        (0, split(LONG)[0][:-1], 400, "blob.chunk"),
        (0, split(LONG)[1], 400, "blob.chunk"),
        (4, b"tail", 400, "blob.index"),
        (0, bytes(CHUNK_BYTES + 1), 413, "http.error"),
    ],
)
def test_a_chunk_that_was_not_promised_is_refused(
    stage: Stage, index: int, chunk: bytes, status: int, code: str
) -> None:
    """Truncated, exchanged, additional and oversized chunks leave the upload as it was."""
    stage.store.begin(address(LONG), manifest_of(LONG), "trainer")

    answer = asyncio.run(attack(stage, "PUT", f"{address(LONG)}/chunks/{index}", chunk))

    assert answer == (status, code)
    assert len(stage.store.begin(address(LONG), manifest_of(LONG), "trainer")) == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "nonsense", None, 400, "blob.address"),
        ("PUT", "nonsense", b"x", 400, "blob.address"),
        ("GET", address(SHORT), None, 404, "blob.absent"),
        ("GET", f"{address(LONG)}/chunks/0", None, 404, "blob.absent"),
        ("PUT", address(SHORT), b"other", 400, "blob.root"),
        ("PUT", address(LONG), LONG[: 2 * CHUNK_BYTES], 413, "http.error"),
        ("PUT", f"{address(LONG)}/chunks/0", split(LONG)[0], 409, "blob.not_begun"),
        ("PUT", f"{address(LONG)}/chunks/-1", split(LONG)[0], 404, "http.error"),
        ("GET", "..%2f..%2fetc%2fpasswd", None, 400, "blob.address"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    stage: Stage, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    """Each mistake has its code, and nothing is stored."""
    assert asyncio.run(attack(stage, method, path, body)) == (status, code)
    assert not stage.store.has(address(SHORT))


@pytest.mark.parametrize("path", [address(SHORT), f"{address(LONG)}/chunks/0", address(b"none")])
def test_a_member_that_may_not_read_gets_nothing(stage: Stage, path: str) -> None:
    """Not even whether the blob is here."""
    stage.store.add(SHORT)
    stage.store.add(LONG)

    answer = asyncio.run(attack(stage, "GET", path, may_read=lambda member, address: False))

    assert answer == (403, "blob.forbidden")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (address(SHORT), SHORT),
        (address(LONG), manifest_of(LONG)),
        (f"{address(LONG)}/chunks/0", split(LONG)[0]),
    ],
)
def test_a_member_that_may_not_write_stores_nothing(stage: Stage, path: str, body: bytes) -> None:
    """The rule sees the size of the content, and is asked for every request."""
    asked: list[tuple[str, str, int]] = []

    def nobody(member: Any, address: str, size: int) -> bool:
        asked.append((member.id, address, size))
        return False

    answer = asyncio.run(attack(stage, "PUT", path, body, may_write=nobody))

    assert answer == (403, "blob.forbidden")
    name = path.partition("/")[0]
    size = len(LONG) if path == address(LONG) else len(body)
    assert asked == [("trainer", name, size)]
    assert not stage.store.has(address(SHORT))
    assert stage.store.promised("trainer") == 0


@pytest.mark.parametrize("standing", [Standing.REVOKED, None])
def test_nothing_is_sent_to_a_server_that_is_not_a_member(
    stage: Stage, standing: Standing | None
) -> None:
    """An impostor with a certificate of ours sees no request at all."""
    requests: list[str] = []

    async def spy(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response()

    if standing is None:
        del stage.consortium.members[stage.one.spki]
    else:
        stage.consortium.set_standing(stage.one, standing)

    async def scenario() -> None:
        app = web.Application()
        app.add_routes([web.route("*", "/{path:.*}", spy)])
        async with (
            listening(app, HOST, stage.one.port, server_context(stage.one.files)),
            stage.session(stage.trainer) as session,
        ):
            await upload(session, stage.one.url, SHORT)

    with pytest.raises(Refused) as refused:
        asyncio.run(scenario())

    assert refused.value.code in {"peer.standing", "peer.unknown_key"}
    assert requests == []


def test_nothing_is_sent_to_a_server_of_a_foreign_authority(stage: Stage, tmp_path: Path) -> None:
    """Not even by a client that finds the key enrolled."""
    foreign = Consortium(tmp_path / "foreign")
    impostor = foreign.enrol("one")
    stage.consortium.members.update(foreign.members)
    impostor.files.authority.write_bytes(stage.one.files.authority.read_bytes())

    async def scenario() -> None:
        async with (
            stage.serving(impostor, stage.store),
            stage.session(stage.trainer) as session,
        ):
            await upload(session, impostor.url, SHORT)

    with pytest.raises(Refused) as refused:
        asyncio.run(scenario())

    assert refused.value.code == "blob.unreachable"
    assert not stage.store.has(address(SHORT))
