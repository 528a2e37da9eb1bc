"""Blobs over real sockets: verified by the receiver, resumed after a cut, for the entitled only."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from node.api.problem import problem
from node.wire.blobs import BlobStore
from node.wire.cid import CHUNK_BYTES, address, split, summarise
from node.wire.gate import build_peer_app
from node.wire.listen import listening
from node.wire.sources import Sources
from node.wire.tls import client_context, server_context
from node.wire.transfer import BlobService, MayRead, MayWrite, download, open_session, upload
from tests.node.parties import HOST, Consortium, Party, plain_session
from vm.record import Role, Standing
from vm.refusal import Refused
from vm.shape import pack

STORE_BYTES = 64 * CHUNK_BYTES
SHORT = b"a short blob"
LONG = b"".join(bytes([i]) * CHUNK_BYTES for i in range(3)) + b"tail"  # four chunks


class Stage:
    """A consortium with a trainer, two validators and a store for each."""

    def __init__(self, folder: Path) -> None:
        self.consortium = Consortium(folder / "consortium")
        self.trainer = self.consortium.enrol("trainer", Role.TRAINER)
        self.one = self.consortium.enrol("one")
        self.two = self.consortium.enrol("two")
        self.gate = self.consortium.gate()
        self.store = Recorder(folder / "one")
        self.other = Recorder(folder / "two")
        self.own = Recorder(folder / "own")

    @asynccontextmanager
    async def serving(
        self,
        party: Party,
        store: BlobStore,
        may_read: MayRead = lambda member, address: True,
        may_write: MayWrite = lambda member, address, size: True,
    ) -> AsyncIterator[None]:
        """Serve a store on the party's port."""
        service = BlobService(store, may_read, may_write)
        app = build_peer_app(self.gate, service.routes())
        async with listening(app, HOST, party.port, server_context(party.files)):
            yield

    def session(self, party: Party) -> aiohttp.ClientSession:
        """A client session as members use it."""
        return open_session(client_context(party.files), self.gate.admit)


class Recorder(BlobStore):
    """A store that says which chunks it was asked to take and to give, and that can be cut off."""

    def __init__(self, folder: Path, puts_max: int = 1_000) -> None:
        super().__init__(folder, STORE_BYTES)
        self.taken: list[int] = []
        self.given: list[int] = []
        self._puts_max = puts_max

    def put(self, address: str, index: int, chunk: bytes) -> bool:
        """Take a chunk, or fail as a node that is shut down."""
        if len(self.taken) == self._puts_max:
            raise Refused("peer.stopping", "cut off by the test")
        self.taken.append(index)
        return super().put(address, index, chunk)

    def chunk(self, address: str, index: int) -> bytes:
        """Give a chunk."""
        self.given.append(index)
        return super().chunk(address, index)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Everybody, with nothing stored."""
    return Stage(tmp_path)


def manifest_of(content: bytes) -> bytes:
    """The root of a long content."""
    manifest = summarise(split(content))[1]
    assert manifest is not None
    return pack(manifest)


@pytest.mark.parametrize("content", [b"", SHORT, bytes(CHUNK_BYTES), LONG])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_blob_goes_up_and_comes_down_unchanged(
    stage: Stage, tmp_path: Path, content: bytes, as_file: bool
) -> None:
    """From a trainer's memory or disk to a validator, and from there to another."""
    path = tmp_path / "weights"
    path.write_bytes(content)

    async def scenario() -> str:
        async with stage.serving(stage.one, stage.store):
            async with stage.session(stage.trainer) as session:
                sent = await upload(session, stage.one.url, path if as_file else content)
            async with stage.session(stage.two) as session:
                await download(session, Sources([stage.one.url]), sent, stage.other)
        return sent

    sent = asyncio.run(scenario())

    assert sent == address(content)
    assert stage.store.load(sent, len(content)) == content
    assert stage.other.load(sent, len(content)) == content


def test_a_resumed_upload_sends_only_the_missing_chunks(stage: Stage, tmp_path: Path) -> None:
    """The server is cut off after two chunks and started again; the caller repeats the call."""
    cut = Recorder(tmp_path / "cut", puts_max=2)

    async def attempt(store: BlobStore) -> None:
        async with (
            stage.serving(stage.one, store),
            stage.session(stage.trainer) as session,
        ):
            await upload(session, stage.one.url, LONG)

    with pytest.raises(Refused, match=r"peer\.stopping"):
        asyncio.run(attempt(cut))
    restarted = Recorder(tmp_path / "cut")
    asyncio.run(attempt(restarted))

    assert cut.taken == [0, 1]
    assert restarted.taken == [2, 3]
    assert restarted.load(address(LONG), len(LONG)) == LONG


def test_an_upload_of_what_is_there_sends_no_chunk(stage: Stage) -> None:
    """Asking costs one request."""
    stage.store.add(LONG)
    stage.store.taken.clear()

    async def scenario() -> None:
        async with (
            stage.serving(stage.one, stage.store),
            stage.session(stage.trainer) as session,
        ):
            await upload(session, stage.one.url, LONG)

    asyncio.run(scenario())

    assert stage.store.taken == []


def test_a_download_goes_on_at_the_next_source_with_what_is_missing(
    stage: Stage, tmp_path: Path
) -> None:
    """One validator's disk is damaged in the third chunk: the other gives that and the rest."""
    stage.store.add(LONG)
    stage.other.add(LONG)
    with (tmp_path / "one" / "whole" / address(LONG) / "content").open("r+b") as file:
        file.seek(2 * CHUNK_BYTES)
        file.write(b"?")

    async def scenario() -> None:
        async with (
            stage.serving(stage.one, stage.store),
            stage.serving(stage.two, stage.other),
            stage.session(stage.trainer) as session,
        ):
            sources = Sources([stage.one.url, stage.two.url])
            await download(session, sources, address(LONG), stage.own)

    asyncio.run(scenario())

    assert stage.other.given == [2, 3]
    assert stage.own.load(address(LONG), len(LONG)) == LONG


def test_a_blob_that_is_held_is_not_fetched(stage: Stage) -> None:
    """No source is asked, so none need be up."""
    stage.own.add(SHORT)

    async def scenario() -> None:
        async with stage.session(stage.trainer) as session:
            await download(session, Sources([stage.one.url]), address(SHORT), stage.own)

    asyncio.run(scenario())


def test_sources_that_have_nothing_are_named(stage: Stage) -> None:
    """One is down and one has not got it: the refusal says so of each."""

    async def scenario() -> None:
        async with (
            stage.serving(stage.two, stage.other),
            stage.session(stage.trainer) as session,
        ):
            sources = Sources([stage.one.url, stage.two.url])
            await download(session, sources, address(SHORT), stage.own)

    with pytest.raises(Refused) as refused:
        asyncio.run(scenario())

    assert refused.value.code == "blob.unavailable"
    assert "blob.unreachable" in refused.value.message
    assert "blob.absent" in refused.value.message


def lying_app(stage: Stage, content: bytes, lie: Callable[[], web.Response]) -> web.Application:
    """A validator that gives the true manifest, if there is one, and then lies."""

    async def root(request: web.Request) -> web.Response:
        if len(content) > CHUNK_BYTES:
            return web.Response(body=manifest_of(content))
        return await chunk(request)

    async def chunk(request: web.Request) -> web.Response:
        return lie()

    async def true(request: web.Request) -> web.Response:
        return web.Response(body=content[:CHUNK_BYTES])

    routes = [
        web.get("/blobs/{address}", root),
        web.get("/blobs/{address}/chunks/{i}", chunk),
        web.get("/true", true),
    ]
    return build_peer_app(stage.gate, routes)


@pytest.mark.parametrize("content", [SHORT, LONG])
@pytest.mark.parametrize(
    "lie",
    [
        lambda: web.Response(body=b""),
        lambda: web.Response(body=b"other bytes"),
        lambda: web.Response(body=SHORT[:-1]),
        lambda: web.Response(body=split(LONG)[0][:-1]),
        lambda: web.Response(body=BytesIO(bytes(CHUNK_BYTES + 1))),
        lambda: problem(507, Refused("blob.disk_full", "to pass for trouble of the caller's own")),
        lambda: problem(500, Refused("x" * 10_000, "y" * 10_000)),
        lambda: web.Response(status=404, text="[" * 10_000),
        lambda: web.Response(status=302, headers={"Location": "/true"}),
    ],
    ids=[
        *("empty", "other", "cut", "cut chunk", "long", "our trouble", "shouting", "nested"),
        "elsewhere",
    ],
)
def test_a_source_that_lies_is_left_for_an_honest_one(
    stage: Stage, content: bytes, lie: Callable[[], web.Response]
) -> None:
    """Wrong, short and endless bodies, false errors and redirections do no harm."""
    stage.other.add(content)

    async def scenario() -> None:
        app = lying_app(stage, content, lie)
        async with (
            listening(app, HOST, stage.one.port, server_context(stage.one.files)),
            stage.serving(stage.two, stage.other),
            stage.session(stage.trainer) as session,
        ):
            with pytest.raises(Refused) as refused:
                await download(session, Sources([stage.one.url]), address(content), stage.own)
            assert refused.value.code == "blob.unavailable"
            assert not stage.own.has(address(content))
            sources = Sources([stage.one.url, stage.two.url])
            await download(session, sources, address(content), stage.own)

    asyncio.run(scenario())

    assert stage.own.load(address(content), len(content)) == content


@pytest.mark.parametrize(
    "answer",
    [{"missing": [4]}, {"missing": [-1]}, {"missing": "all"}, {}, ["missing"], {"missing": [0]}],
)
def test_a_server_that_answers_nonsense_is_refused(stage: Stage, answer: Any) -> None:
    """Also one that takes every chunk and never says that it has the blob."""

    async def put(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(answer)

    routes = [web.put("/blobs/{address}", put), web.put("/blobs/{address}/chunks/{i}", put)]

    async def scenario() -> None:
        app = build_peer_app(stage.gate, routes)
        async with (
            listening(app, HOST, stage.one.port, server_context(stage.one.files)),
            stage.session(stage.trainer) as session,
        ):
            await upload(session, stage.one.url, LONG)

    with pytest.raises(Refused) as refused:
        asyncio.run(scenario())

    assert refused.value.code == "blob.answer"


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


def test_a_validators_full_disk_is_told_and_nothing_is_lost(stage: Stage) -> None:
    """The upload goes on, once there is room, with the chunks that found none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario() -> None:
        async with (
            stage.serving(stage.one, stage.store),
            stage.session(stage.trainer) as session,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES + 1, hard))
            try:
                with pytest.raises(Refused) as refused:
                    await upload(session, stage.one.url, LONG)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert refused.value.code == "blob.disk_full"
            await upload(session, stage.one.url, LONG)

    asyncio.run(scenario())

    assert stage.store.taken == [0, 1, 1, 2, 3]
    assert stage.store.load(address(LONG), len(LONG)) == LONG


def test_our_own_full_disk_stops_a_download(stage: Stage) -> None:
    """It is not blamed on the sources, and no other is asked."""
    stage.store.add(LONG)
    stage.other.add(LONG)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario() -> None:
        async with (
            stage.serving(stage.one, stage.store),
            stage.serving(stage.two, stage.other),
            stage.session(stage.trainer) as session,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES + 1, hard))
            try:
                sources = Sources([stage.one.url, stage.two.url])
                await download(session, sources, address(LONG), stage.own)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(Refused) as refused:
        asyncio.run(scenario())

    assert refused.value.code == "blob.disk_full"
    assert stage.other.given == []


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
