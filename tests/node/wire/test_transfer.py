"""Blobs over real sockets: verified by the receiver, and resumed after a cut."""

import asyncio
import resource
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.api.problem import problem
from node.wire.blobs import BlobStore
from node.wire.cid import CHUNK_BYTES, address, split
from node.wire.gate import build_peer_app
from node.wire.listen import listening
from node.wire.sources import Sources
from node.wire.tls import server_context
from node.wire.transfer import download, upload
from tests.node.parties import HOST
from tests.node.wire.stage import LONG, SHORT, Recorder, Stage, manifest_of
from vm.refusal import Refused


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
