"""Blobs between members, chunk by chunk: the routes of the peer port and the client.

    GET  /blobs/{address}             the root: short content, or the manifest of long content
    PUT  /blobs/{address}             the root; answers {"missing": [numbers of chunks]}
    GET  /blobs/{address}/chunks/{i}  one chunk
    PUT  /blobs/{address}/chunks/{i}  one chunk; answers {"whole": true | false}

Whoever receives verifies every body against the address before keeping it, so both directions may
be cut off anywhere, and repeating the same call goes on with what is missing.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from node.api.problem import read_body, read_problem
from node.wire.blobs import OURS, BlobStore, FileChunks
from node.wire.cid import CHUNK_BYTES, Manifest, check_root, parse, split, summarise
from node.wire.gate import MEMBER, WrongServer, guard
from node.wire.sources import UNREACHABLE, Sources
from vm.record import BLOB_BYTES_MAX, Member
from vm.refusal import Refused
from vm.shape import pack

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 3.0  # TCP and TLS: a validator that is up answers within one
SILENCE_TIMEOUT_S = 5.0  # between two parts of an answer, the first after a chunk is on disk
CHUNK_TIMEOUT_S = 60.0  # for one chunk: 1 MiB over 140 kbit/s, or somebody who trickles
ANSWER_BYTES_MAX = 64 * 1024  # the numbers of 4,096 missing chunks take about 24 KiB
OUR_TROUBLE = frozenset({"blob.disk_full", "blob.store_full"})  # no other source can help

MayRead = Callable[[Member, str], bool]
MayWrite = Callable[[Member, str, int], bool]


class BlobService:
    """Serves a store to members.

    `may_read(member, address)` and `may_write(member, address, size)` decide by certified state;
    `size` is that of the content, or of the chunk that is brought, in bytes. What one member may
    have under way at a time is bounded by the store.
    """

    def __init__(self, store: BlobStore, may_read: MayRead, may_write: MayWrite) -> None:
        self._store = store
        self._may_read = may_read
        self._may_write = may_write

    def routes(self, below: str = "") -> list[web.RouteDef]:
        """What the peer port serves for blobs, under the path `below`."""
        root = below + "/blobs/{address}"
        chunk = root + "/chunks/{index:[0-9]{1,6}}"
        return [
            web.get(root, self._get_root),
            web.put(root, self._put_root),
            web.get(chunk, self._get_chunk),
            web.put(chunk, self._put_chunk),
        ]

    async def _get_root(self, request: web.Request) -> web.Response:
        address = self._readable(request)
        return _blob(await asyncio.to_thread(self._store.root, address))

    async def _get_chunk(self, request: web.Request) -> web.Response:
        address = self._readable(request)
        index = int(request.match_info["index"])
        return _blob(await asyncio.to_thread(self._store.chunk, address, index))

    async def _put_root(self, request: web.Request) -> web.Response:
        address = request.match_info["address"]
        root = await request.read()
        manifest = check_root(parse(address), root)
        member = self._writer(request, address, len(root) if manifest is None else manifest.size)
        missing = await asyncio.to_thread(self._store.begin, address, root, member.id)
        return web.json_response({"missing": missing})

    async def _put_chunk(self, request: web.Request) -> web.Response:
        address, index = request.match_info["address"], int(request.match_info["index"])
        chunk = await request.read()
        self._writer(request, address, len(chunk))
        whole = await asyncio.to_thread(self._store.put, address, index, chunk)
        return web.json_response({"whole": whole})

    def _readable(self, request: web.Request) -> str:
        address = request.match_info["address"]
        parse(address)
        member = request[MEMBER]
        if not self._may_read(member, address):
            raise Refused(
                "blob.forbidden",
                f"expected a member who may read {address} now, found {member.id}, a {member.role}",
            )
        return address

    def _writer(self, request: web.Request, address: str, size: int) -> Member:
        member = request[MEMBER]
        if not self._may_write(member, address, size):
            raise Refused(
                "blob.forbidden",
                f"expected a member who may store {size} bytes as {address}, "
                f"found {member.id}, a {member.role}",
            )
        return member


def open_session(
    context: ssl.SSLContext, admit: Callable[[ssl.SSLObject], object]
) -> aiohttp.ClientSession:
    """A session for `upload` and `download`, to be closed by the caller.

    `context` is a TLS client context of this session's own; `admit` (such as `Gate.admit`) raises
    `Refused` for a server that nothing must be sent to.
    """
    guard(context, admit)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        timeout=aiohttp.ClientTimeout(
            total=CHUNK_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
        ),
    )


async def upload(session: aiohttp.ClientSession, base_url: str, content: bytes | Path) -> str:
    """Bring a blob to one validator; return its address. Repeated, it sends what is missing.

    Raises `Refused` with the server's code, `blob.unreachable`, `blob.answer` or a code that
    `open_session`'s `admit` gives.
    """
    chunks: Iterable[bytes] = split(content) if isinstance(content, bytes) else FileChunks(content)
    address, manifest = await asyncio.to_thread(summarise, chunks)
    url = f"{base_url}/blobs/{address}"
    root = pack(manifest) if manifest else b"".join(chunks)
    missing = _missing(await _put(session, url, root), manifest)
    whole = not missing
    parts = enumerate(chunks)
    while not whole:
        index, chunk = await asyncio.to_thread(next, parts, (-1, b""))
        if index < 0:
            raise Refused(
                "blob.answer", f"{url}: expected it whole after the last chunk: send it again"
            )
        if index in missing:
            answer = await _put(session, f"{url}/chunks/{index}", chunk)
            whole = answer.get("whole") is True
    return address


async def download(
    session: aiohttp.ClientSession,
    sources: Sources,
    address: str,
    into: BlobStore,
    bytes_max: int = BLOB_BYTES_MAX,
) -> None:
    """Fetch a blob from the first of several validators that has it, keeping what verified.

    Nothing is kept of one larger than `bytes_max`: an address alone does not say how large its
    content is, and a record may claim less.
    A source that fails or lies is left for the next one, which goes on where that one ended; a
    slow one gets a second one beside it.
    Raises `Refused` with code `blob.unavailable`, saying what each source answered, or with
    `blob.address`, `blob.disk_full` or `blob.store_full`.
    """
    parse(address)
    if into.has(address):
        return

    async def fetch(source: str) -> None:
        await _fetch(session, f"{source}/blobs/{address}", address, into, bytes_max)

    found, failures = await sources.ask(1, fetch, final=OUR_TROUBLE)
    if not found:
        raise Refused(
            "blob.unavailable",
            f"expected one of {len(sources)} validators to give {address}, "
            f"found: {'; '.join(failures)}",
        )


async def obtain(
    session: aiohttp.ClientSession,
    sources: Sources,
    address: str,
    store: BlobStore,
    bytes_max: int,
) -> bytes:
    """A blob's content from `store`, downloaded if it is not there or the disk has damaged it.

    Raises `Refused` as `download` and `BlobStore.load` do.
    """
    await download(session, sources, address, store, bytes_max)
    try:
        return await asyncio.to_thread(store.load, address, bytes_max)
    except Refused as refused:
        if refused.code != "blob.corrupt":
            raise
        log.warning("blob.corrupt", address=address, reason=refused.message)
    await asyncio.to_thread(store.delete, address)
    await download(session, sources, address, store, bytes_max)
    return await asyncio.to_thread(store.load, address, bytes_max)


async def _fetch(
    session: aiohttp.ClientSession, url: str, address: str, into: BlobStore, bytes_max: int
) -> None:
    root = await _get(session, url)
    manifest = check_root(parse(address), root)
    size = len(root) if manifest is None else manifest.size
    if size > bytes_max:
        raise Refused("blob.too_large", f"expected at most {bytes_max} bytes, found {size}")
    missing = await asyncio.to_thread(into.begin, address, root, OURS)
    for index in missing:
        chunk = await _get(session, f"{url}/chunks/{index}")
        await asyncio.to_thread(into.put, address, index, chunk)


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        return (await request(session, "GET", url, None, CHUNK_BYTES))[1]
    except Refused as refused:  # a source's word must not pass for trouble of our own
        code = UNREACHABLE if refused.code == UNREACHABLE else "blob.source"
        raise Refused(code, str(refused)) from refused


async def _put(session: aiohttp.ClientSession, url: str, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads((await request(session, "PUT", url, body, ANSWER_BYTES_MAX))[1])
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Refused("blob.answer", f"{url}: expected a JSON object, found another answer")
    return answer


async def request(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes | None,
    bytes_max: int,
) -> tuple[int, bytes]:
    """Status and body of a successful answer (200 or 202), of at most `bytes_max` bytes.

    Raises `Refused` with the server's code, `blob.unreachable`, `http.answer` or a code that
    `open_session`'s `admit` gives.
    """
    try:
        async with session.request(method, url, data=body, allow_redirects=False) as response:
            if response.status not in (200, 202):
                raise await read_problem(response)
            return response.status, await read_body(response, bytes_max)
    except aiohttp.ClientConnectorCertificateError as error:
        cause = error.certificate_error
        if isinstance(cause, WrongServer):
            raise cause.refused from error
        raise Refused(UNREACHABLE, f"{url}: expected our authority: {cause}") from error
    except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
        raise Refused(
            UNREACHABLE, f"{url}: expected an answer, found {type(error).__name__}: {error}"
        ) from error


def _missing(answer: dict[str, Any], manifest: Manifest | None) -> frozenset[int]:
    missing = answer.get("missing")
    count = len(manifest.chunks) if manifest else 0
    if not isinstance(missing, list) or not all(
        type(index) is int and 0 <= index < count for index in missing
    ):
        raise Refused("blob.answer", f"expected numbers of chunks below {count}")
    return frozenset(missing)


def _blob(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/octet-stream")
