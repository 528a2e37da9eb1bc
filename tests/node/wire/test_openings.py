"""Openings over real sockets: asked for, announced, brought, fetched, and cut off anywhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.validator import openings
from node.wire.blobs import BlobStore
from node.wire.cid import CHUNK_BYTES, address
from node.wire.gate import build_peer_app
from node.wire.listen import listening
from node.wire.openings import (
    OFFER_BYTES_MAX,
    PART,
    OpeningService,
    Pending,
    Rendezvous,
    segment_of,
)
from node.wire.tls import server_context
from tests.fl.dialogue import TASK
from tests.node.parties import HOST, Consortium, Party, plain_session
from tests.node.validator.office import HOME, Office
from vm.record import Member, Role
from vm.refusal import Refused
from vm.terms import SEGMENTS_MAX

STORE_BYTES = 64 * CHUNK_BYTES
BYTES_MAX = 3 * CHUNK_BYTES
SHORT = b"the salted leaves"
LONG = bytes(2 * CHUNK_BYTES) + b"tail"  # three chunks


class Stage:
    """The first hospital's validator with its store, its trainer, and others' verifiers."""

    def __init__(self, folder: Path) -> None:
        self.consortium = Consortium(folder / "consortium")
        self.validator = self.consortium.enrol(f"{HOME}.validator")
        self.trainer = self.consortium.enrol(f"{HOME}.trainer", Role.TRAINER)
        self.verifiers = {
            number: self.consortium.enrol(f"hospital-{number}.verifier", Role.VERIFIER)
            for number in (2, 3)
        }
        self.office = Office()
        self.store = Recorder(folder / "validator")
        self.own = BlobStore(folder / "verifier", STORE_BYTES)
        self.office.held = Held(self.store)
        self.office.restarted()

    @asynccontextmanager
    async def serving(self, party: Party | None = None) -> AsyncIterator[None]:
        """The validator's peer port."""
        service = OpeningService(self.office.openings, self.store)
        app = build_peer_app(self.consortium.gate(), service.routes())
        party = party or self.validator
        async with listening(app, HOST, self.validator.port, server_context(party.files)):
            yield

    def meet(self, party: Party) -> Rendezvous:
        """The validator as a member uses it."""
        return Rendezvous(self.member(self.validator), self.validator.url, party.files)

    def member(self, party: Party) -> Member:
        """What the chain has of a party."""
        return self.consortium.members[party.spki]

    async def take(self, number: int, piece: str, bytes_max: int = BYTES_MAX) -> bytes | Pending:
        """A verifier asks for a piece once."""
        async with self.meet(self.verifiers[number]) as meeting:
            return await meeting.take(TASK, 1, HOME, piece, self.own, bytes_max)


class Held(set[str]):
    """What a store holds whole."""

    def __init__(self, store: BlobStore) -> None:
        super().__init__()
        self._store = store

    def __contains__(self, item: object) -> bool:
        return self._store.has(str(item))


class Recorder(BlobStore):
    """A store that can be cut off, and says what it was asked to take and give."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, STORE_BYTES)
        self.taken: list[int] = []
        self.given: list[int] = []
        self.puts_max = self.gives_max = 1_000

    def put(self, address: str, index: int, chunk: bytes) -> bool:
        """Take a chunk, or fail as a node that is shut down."""
        if len(self.taken) >= self.puts_max:
            raise Refused("peer.stopping", "cut off by the test")
        self.taken.append(index)
        return super().put(address, index, chunk)

    def chunk(self, address: str, index: int) -> bytes:
        """Give a chunk, or fail as a node that is shut down."""
        if len(self.given) >= self.gives_max:
            raise Refused("peer.stopping", "cut off by the test")
        self.given.append(index)
        return super().chunk(address, index)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Before anybody asked for anything; pieces have several chunks, as those of large models."""
    monkeypatch.setattr(openings, "piece_bytes_max", lambda *_: BYTES_MAX)
    return Stage(tmp_path)


async def say(
    stage: Stage, party: Party, method: str, path: str, body: bytes | None = None
) -> tuple[int, str]:
    """Status and code of the validator's answer to what anybody may send."""
    async with (
        plain_session(party) as session,
        session.request(method, stage.validator.url + path, data=body) as response,
    ):
        if "json" not in response.content_type:
            return response.status, ""
        return response.status, (await response.json()).get("code", "")


async def code_of(call: Awaitable[object]) -> str:
    """The code with which a call is refused."""
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code


@pytest.mark.parametrize("content", [SHORT, bytes(CHUNK_BYTES), LONG])
def test_a_piece_goes_from_the_trainer_to_the_verifier(stage: Stage, content: bytes) -> None:
    """Both connect out only, and the verifier's store is as empty afterwards as before."""

    async def scenario() -> None:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            assert await stage.take(2, "3") == Pending(0)
            assert await trainer.wanted(TASK, 1) == ("3",)
            await trainer.open(TASK, 1, "3", content)

            assert await stage.take(2, "3") == content

    asyncio.run(scenario())
    assert stage.own.addresses() == ()


def test_the_part_is_a_piece_as_segments_are(stage: Stage) -> None:
    """It has a name where they have numbers."""

    async def scenario() -> None:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, PART)
            await trainer.open(TASK, 1, PART, SHORT)

            assert await stage.take(2, PART) == SHORT

    asyncio.run(scenario())
    assert (segment_of(PART), segment_of("0"), segment_of("17")) == (None, 0, 17)


def test_an_upload_that_was_cut_off_goes_on_where_it_ended(stage: Stage) -> None:
    """The verifier sees how much has come; no chunk is brought twice."""

    async def scenario() -> None:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            stage.store.puts_max = 2
            assert await code_of(trainer.open(TASK, 1, "0", LONG)) == "peer.stopping"
            assert await stage.take(2, "0") == Pending(2)
            assert await trainer.wanted(TASK, 1) == ("0",)

            stage.store.puts_max = 1_000
            await trainer.open(TASK, 1, "0", LONG)
            assert await stage.take(2, "0") == LONG

    asyncio.run(scenario())
    assert stage.store.taken == [0, 1, 2]


def test_a_fetch_that_was_cut_off_goes_on_where_it_ended(stage: Stage) -> None:
    """What has come here counts as progress too; no chunk is given twice."""

    async def scenario() -> None:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            await trainer.open(TASK, 1, "0", LONG)
            stage.store.gives_max = 1
            assert await stage.take(2, "0") == Pending(0, fetched=1)

            stage.store.gives_max = 1_000
            assert await stage.take(2, "0") == LONG

    asyncio.run(scenario())
    assert stage.store.given == [0, 1, 2]


def test_a_trainer_that_brings_another_piece_first_is_not_idle(stage: Stage) -> None:
    """Whoever waits for one piece sees that chunks of the other come."""

    async def scenario() -> list[bytes | Pending]:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(3, "1")
            seen = [await stage.take(2, "0")]
            stage.store.puts_max = 2
            await code_of(trainer.open(TASK, 1, "1", LONG))
            seen.append(await stage.take(2, "0"))
            stage.store.puts_max = 1_000
            await trainer.open(TASK, 1, "1", LONG)
            return [*seen, await stage.take(2, "0")]

    assert asyncio.run(scenario()) == [Pending(0), Pending(2), Pending(3)]


def test_a_restarted_validator_takes_no_chunk_twice(stage: Stage) -> None:
    """Its mailbox is empty, its disk is not: asking and announcing again is enough."""

    async def first() -> None:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            stage.store.puts_max = 2
            await code_of(trainer.open(TASK, 1, "0", LONG))

    async def second() -> None:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            assert await stage.take(2, "0") == Pending(0)
            assert await trainer.wanted(TASK, 1) == ("0",)
            await trainer.open(TASK, 1, "0", LONG)
            assert await stage.take(2, "0") == LONG

    asyncio.run(first())
    stage.office.restarted(stage.store.addresses())
    stage.store.puts_max = 1_000
    asyncio.run(second())

    assert stage.store.taken == [0, 1, 2]


def test_a_verifier_fetches_only_what_it_asked_for(stage: Stage) -> None:
    """Knowing the address is not enough, nor is the role."""

    async def scenario() -> list[int]:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            await trainer.open(TASK, 1, "0", SHORT)
            path = f"/openings/blobs/{address(SHORT)}"
            parties = (stage.verifiers[2], stage.verifiers[3], stage.trainer, stage.validator)
            return [(await say(stage, party, "GET", path))[0] for party in parties]

    assert asyncio.run(scenario()) == [200, 403, 403, 403]


def test_openings_are_not_among_the_blobs_that_others_read(stage: Stage) -> None:
    """The store of updates and models knows nothing of them."""

    async def scenario() -> tuple[int, str]:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            await trainer.open(TASK, 1, "0", SHORT)
            return await say(stage, stage.verifiers[2], "GET", f"/blobs/{address(SHORT)}")

    assert asyncio.run(scenario()) == (404, "http.error")


def put(stage: Stage, party: Party, path: str, body: bytes) -> tuple[int, str]:
    """Status and code of a PUT."""

    async def scenario() -> tuple[int, str]:
        async with stage.serving():
            await stage.take(2, "0")
            return await say(stage, party, "PUT", path, body)

    return asyncio.run(scenario())


def offer(blob: object = address(SHORT), size: object = len(SHORT)) -> bytes:
    """An announcement."""
    return json.dumps({"address": blob, "bytes": size}).encode()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (offer() + b" " * OFFER_BYTES_MAX, "opening.offer"),
        (b"[" * OFFER_BYTES_MAX, "opening.offer"),
        (b"\xff", "opening.offer"),
        (b"[]", "opening.offer"),
        (offer(size=0), "opening.offer"),
        (offer(size=True), "opening.offer"),
        (offer(size=1.5), "opening.offer"),
        (offer(size=2**63), "opening.offer"),
        (offer(blob=7), "opening.offer"),
        (offer(blob="../../keys"), "blob.address"),
        (offer(size=BYTES_MAX + 1), "opening.too_large"),
    ],
)
def test_an_announcement_that_is_none(stage: Stage, body: bytes, code: str) -> None:
    """Nothing is remembered of it."""
    status, found = put(stage, stage.trainer, f"/openings/{TASK}/1/0", body)

    assert (status, found) == (413 if code == "opening.too_large" else 400, code)
    assert stage.office.wanted() == ("0",)
    assert not stage.office.openings.may_write(stage.member(stage.trainer), address(SHORT), 1)


def test_bytes_that_were_not_announced_are_not_taken(stage: Stage) -> None:
    """Also not those of the right trainer."""
    path = f"/openings/blobs/{address(SHORT)}"

    assert put(stage, stage.trainer, path, SHORT) == (403, "blob.forbidden")
    assert stage.store.addresses() == ()


def test_a_larger_blob_than_announced_is_not_taken(stage: Stage) -> None:
    """The announcement of a small one does not let in a large one under the same address."""

    async def scenario() -> str:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            await trainer._call("PUT", f"/openings/{TASK}/1/0", offer(address(LONG), 17))
            return await code_of(trainer.open(TASK, 1, "0", LONG))

    assert asyncio.run(scenario()) == "opening.offered"
    assert stage.store.addresses() == ()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/openings/{TASK}/1/{HOME}/0", 200, ""),
        (f"/openings/{TASK}/1/hospital-2/0", 404, "opening.organisation"),
        (f"/openings/{TASK}/2/{HOME}/0", 409, "opening.phase"),
        (f"/openings/another/1/{HOME}/0", 409, "opening.phase"),
        (f"/openings/{TASK}/{10**15}/{HOME}/0", 409, "opening.phase"),
        (f"/openings/{TASK}/1/{HOME}/9", 400, "opening.piece"),
        (f"/openings/{TASK}/1/{HOME}/x", 400, "opening.piece"),
        (f"/openings/wanted?task={TASK}&round=1", 403, "opening.trainer"),
        ("/openings/wanted?task=x", 400, "opening.query"),
        (f"/openings/wanted?task={TASK}&round=-1", 400, "opening.query"),
        (f"/openings/{TASK}/x/{HOME}/0", 404, "http.error"),
    ],
)
def test_what_a_verifier_may_ask(stage: Stage, path: str, status: int, code: str) -> None:
    """A refusal is a problem document that says what was expected."""

    async def scenario() -> tuple[int, str]:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            await trainer.open(TASK, 1, "0", SHORT)
            return await say(stage, stage.verifiers[2], "GET", path)

    assert asyncio.run(scenario()) == (status, code)


def test_nothing_goes_to_a_server_that_is_not_this_validator(stage: Stage) -> None:
    """Another member of the consortium that listens at its address learns nothing."""
    other = stage.consortium.enrol("hospital-3.validator")

    async def scenario() -> list[str]:
        async with stage.serving(other):
            async with stage.meet(stage.trainer) as trainer:
                told = await code_of(trainer.wanted(TASK, 1))
            return [told, await code_of(stage.take(2, "0"))]

    assert asyncio.run(scenario()) == ["peer.unknown_key", "peer.unknown_key"]


# A validator that lies: it can deny, but neither harm nor hold


def answering(
    stage: Stage, answer: Any, call: Callable[[Rendezvous], Awaitable[object]], status: int = 200
) -> str:
    """The code with which a call is refused that is answered so."""

    async def lie(request: web.Request) -> web.Response:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return web.Response(body=body, status=status)

    async def scenario() -> str:
        app = web.Application()
        app.add_routes([web.route("*", "/{path:.*}", lie)])
        files = stage.validator.files
        async with (
            listening(app, HOST, stage.validator.port, server_context(files)),
            stage.meet(stage.verifiers[2]) as meeting,
        ):
            return await code_of(call(meeting))

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"no JSON", "opening.answer"),
        (b"[" * 10_000, "opening.answer"),
        ([], "opening.answer"),
        ({"pieces": "0"}, "opening.answer"),
        ({"pieces": [0]}, "opening.answer"),
        ({"pieces": ["../0"]}, "opening.piece"),
        ({"pieces": ["0"] * (SEGMENTS_MAX + 2)}, "opening.answer"),
        (b" " * 100_000, "http.answer"),
    ],
)
def test_a_trainer_believes_no_odd_answer(stage: Stage, answer: Any, code: str) -> None:
    """Whatever it is, it is bounded and refused."""
    assert answering(stage, answer, lambda meeting: meeting.wanted(TASK, 1)) == code


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (202, {"brought": -1}, "opening.answer"),
        (202, {"brought": "1"}, "opening.answer"),
        (202, {}, "opening.answer"),
        (202, {"brought": 2**60}, "opening.answer"),
        (200, {"address": "x", "bytes": 1}, "blob.address"),
        (200, {"address": address(LONG), "bytes": BYTES_MAX + 1}, "blob.too_large"),
        (200, {"brought": 1}, "opening.offer"),
        (204, {}, "http.answer"),
    ],
)
def test_a_verifier_believes_no_odd_answer(
    stage: Stage, status: int, answer: Any, code: str
) -> None:
    """Also a number is one within bounds."""
    found = answering(
        stage,
        answer,
        lambda meeting: meeting.take(TASK, 1, HOME, "0", stage.own, BYTES_MAX),
        status,
    )

    assert found == code


def test_a_verifier_takes_no_more_than_it_expects(stage: Stage) -> None:
    """A piece that was announced as small and is large is not fetched."""

    async def scenario() -> str:
        async with stage.serving(), stage.meet(stage.trainer) as trainer:
            await stage.take(2, "0")
            await trainer.open(TASK, 1, "0", LONG)
            return await code_of(stage.take(2, "0", bytes_max=CHUNK_BYTES))

    assert asyncio.run(scenario()) == "blob.too_large"
    assert stage.own.addresses() == ()
