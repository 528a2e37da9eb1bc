"""Openings between a verifier and another hospital's trainer, who meets it at its own validator.

    GET  /openings/{task}/{round}/{organisation}/{piece}  by a verifier: that piece is wanted.
         200 {"address", "bytes"} once it is there, else 202 {"brought": chunks of this update so
         far, of whatever piece}: ask again
    GET  /openings/wanted?task=..&round=..                by the trainer: {"pieces": [...]}, empty
         if none was wanted for `WAIT_S`
    PUT  /openings/{task}/{round}/{piece}                 by the trainer: {"address", "bytes"} of
         the piece that it brings next
    /openings/blobs/...                                   the pieces' bytes, as `node.wire.transfer`

A piece is the number of a segment, or `part`: the leaves of the dataset and which of them were
trained on. The trainer connects out only. What verifiers want is kept in memory: they ask until
they have it, so after a restart of the validator all is known again, and bytes that had arrived
are not brought twice.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import aiohttp
from aiohttp import web

from node.wire.blobs import BlobStore
from node.wire.cid import CHUNK_BYTES, CHUNKS_MAX, parse, split, summarise
from node.wire.gate import MEMBER, Gate
from node.wire.sources import Sources
from node.wire.tls import TlsFiles, client_context
from node.wire.transfer import BlobService, download, open_session, request, upload
from vm.record import BLOB_BYTES_MAX, Member
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX
from vm.terms import SEGMENTS_MAX

if TYPE_CHECKING:
    from node.validator.openings import Openings

Piece: TypeAlias = str  # "part" or the number of a segment

PART: Piece = "part"
WAIT_S = 3.0  # a poll with nothing to tell; below the client's SILENCE_TIMEOUT_S
OFFER_BYTES_MAX = 256  # of an announcement: an address and a number
ACCEPTED = 202
ANSWER_BYTES_MAX = 16 * 1024  # numbers of SEGMENTS_MAX pieces take about 8 KiB

_PIECE = re.compile(rf"{PART}|0|[1-9][0-9]{{0,3}}")


@dataclass(frozen=True, slots=True)
class Offer:
    """Where the bytes of a piece are found, and how many they are."""

    address: str
    bytes: int

    @property
    def chunks(self) -> int:
        """How many chunks they are."""
        return -(-self.bytes // CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Pending:
    """A piece that is not here yet.

    `brought` chunks of the update's pieces have come to the validator, and `fetched` of this one
    from there.
    """

    brought: int
    fetched: int = 0


def segment_of(piece: Piece) -> int | None:
    """The segment that a piece opens, None of the part; raises `Refused("opening.piece")`."""
    if _PIECE.fullmatch(piece) is None or (piece != PART and int(piece) >= SEGMENTS_MAX):
        raise Refused("opening.piece", f"expected {PART} or the number of a segment")
    return None if piece == PART else int(piece)


class OpeningService:
    """Serves one validator's mailbox, and the store in which the pieces' bytes lie."""

    def __init__(self, openings: "Openings", store: BlobStore) -> None:
        self._openings = openings
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """What the peer port serves for openings."""
        where = "/openings/{task}/{round:[0-9]{1,16}}"
        blobs = BlobService(self._store, self._openings.may_read, self._openings.may_write)
        return [
            web.get("/openings/wanted", self._get_wanted),
            web.get(where + "/{organisation}/{piece}", self._get_piece),
            web.put(where + "/{piece}", self._put_piece),
            *blobs.routes("/openings"),
        ]

    async def _get_piece(self, asked: web.Request) -> web.Response:
        where = asked.match_info
        offer = self._openings.want(
            asked[MEMBER],
            where["task"],
            _number(where["round"]),
            where["organisation"],
            where["piece"],
        )
        if offer is not None and self._store.has(offer.address):
            return web.json_response({"address": offer.address, "bytes": offer.bytes})
        offers = self._openings.offers(where["task"], _number(where["round"]))
        brought = await asyncio.to_thread(self._brought, offers)
        return web.json_response({"brought": brought}, status=202)

    def _brought(self, offers: Sequence[Offer]) -> int:
        """Chunks that have come: a trainer that brings another piece first is not idle."""
        return sum(
            offer.chunks if self._store.has(offer.address) else self._store.held(offer.address)
            for offer in offers
        )

    async def _get_wanted(self, asked: web.Request) -> web.Response:
        query = asked.query
        if set(query) != {"task", "round"} or not re.fullmatch("[0-9]{1,16}", query["round"]):
            raise Refused("opening.query", "expected task and round, found another query")
        pieces = await self._openings.wanted(
            asked[MEMBER], query["task"], _number(query["round"]), WAIT_S
        )
        return web.json_response({"pieces": pieces})

    async def _put_piece(self, asked: web.Request) -> web.Response:
        where = asked.match_info
        offer = _parse_offer(await asked.read())
        self._openings.announce(
            asked[MEMBER], where["task"], _number(where["round"]), where["piece"], offer
        )
        return web.json_response({})


class Rendezvous:
    """One organisation's validator as trainers and verifiers use it; an asynchronous context.

    Rows of patients are in what is opened: it goes to no server but the one that holds the key
    enrolled for this very validator.
    """

    def __init__(self, validator: Member, url: str, files: TlsFiles) -> None:
        """`validator` as the chain has it, `url` of its peer port; raises for TLS files."""
        self._url = url
        known = {validator.transport: validator}
        self._gate = Gate(known.get, lambda: datetime.now(UTC))
        self._context = client_context(files)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = open_session(self._context, self._gate.admit)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None, "entered before"
        await self._session.close()

    # The trainer

    async def wanted(self, task: str, number: int) -> tuple[Piece, ...]:
        """Pieces that verifiers want of our update in that round and do not have; perhaps none.

        Returns after WAIT_S at the latest. Raises `Refused` with the validator's code,
        `blob.unreachable` or `opening.answer`.
        """
        answer = await self._call("GET", f"/openings/wanted?task={task}&round={number}")
        pieces = answer.get("pieces")
        if not isinstance(pieces, list) or len(pieces) > SEGMENTS_MAX + 1:
            raise _odd("a list of pieces")
        for piece in pieces:
            if not isinstance(piece, str):
                raise _odd("pieces as text")
            segment_of(piece)
        return tuple(pieces)

    async def open(self, task: str, number: int, piece: Piece, content: bytes) -> None:
        """Announce a piece and bring it; repeated after a cut, it brings what is missing.

        Raises `Refused` as `wanted` and `upload` do.
        """
        address, _ = await asyncio.to_thread(summarise, split(content))
        offer = {"address": address, "bytes": len(content)}
        await self._call("PUT", f"/openings/{task}/{number}/{piece}", json.dumps(offer).encode())
        await upload(self._opened(), f"{self._url}/openings", content)

    # The verifier

    async def take(
        self,
        task: str,
        number: int,
        organisation: str,
        piece: Piece,
        store: BlobStore,
        bytes_max: int,
    ) -> bytes | Pending:
        """Ask for a piece, and fetch it once it is there; the store keeps a part of it only.

        Raises `Refused` as `wanted` does, and with `blob.too_large`, `blob.disk_full`,
        `blob.store_full` or `blob.corrupt`.
        """
        status, answer = await self._ask(f"/openings/{task}/{number}/{organisation}/{piece}")
        if status == ACCEPTED:
            return Pending(_count(answer.get("brought")))
        offer = read_offer(answer)
        if offer.bytes > bytes_max:
            raise Refused(
                "blob.too_large", f"expected at most {bytes_max} bytes, found {offer.bytes}"
            )
        sources = Sources([f"{self._url}/openings"])
        try:
            await download(self._opened(), sources, offer.address, store, bytes_max)
        except Refused as refused:
            if refused.code != "blob.unavailable":
                raise
            return Pending(0, await asyncio.to_thread(store.held, offer.address))
        try:
            return await asyncio.to_thread(store.load, offer.address, bytes_max)
        finally:
            await asyncio.to_thread(store.delete, offer.address)

    async def _call(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        return (await self._ask(path, method, body))[1]

    async def _ask(
        self, path: str, method: str = "GET", body: bytes | None = None
    ) -> tuple[int, dict[str, Any]]:
        status, data = await request(
            self._opened(), method, self._url + path, body, ANSWER_BYTES_MAX
        )
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise _odd("a JSON object")
        return status, answer

    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None, "used as a context manager"
        return self._session


def read_offer(fields: object) -> Offer:
    """Read an announcement; raises `Refused("opening.offer" | "blob.address")`."""
    match fields:
        case {"address": str(address), "bytes": int(size)} if (
            1 <= size <= BLOB_BYTES_MAX and size is not True
        ):
            parse(address)
            return Offer(address, size)
    raise Refused(
        "opening.offer", f"expected an address and 1 to {BLOB_BYTES_MAX} bytes, found other fields"
    )


def _parse_offer(data: bytes) -> Offer:
    if len(data) > OFFER_BYTES_MAX:
        raise Refused(
            "opening.offer", f"expected at most {OFFER_BYTES_MAX} bytes, found {len(data)}"
        )
    try:
        return read_offer(json.loads(data))
    except (ValueError, RecursionError):
        raise Refused("opening.offer", "expected a JSON object, found other bytes") from None


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= CHUNKS_MAX * (SEGMENTS_MAX + 1):
        raise _odd("a number of chunks")
    return value


def _odd(expected: str) -> Refused:
    return Refused("opening.answer", f"expected {expected} from the validator, found another")


def _number(digits: str) -> int:
    return min(int(digits), HEIGHT_MAX)
