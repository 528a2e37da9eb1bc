"""Whole lists as streams, CSV (RFC 4180) or NDJSON: page after page, as fast as the client reads.

A stream that cannot be finished is cut off without its last chunk, so that no HTTP client takes a
part for the whole. CSV is for people: proofs are longer than a spreadsheet's cell and stand in
NDJSON alone, whose lines are the items of JSON's pages.
"""

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import fields
from typing import Any, cast

import structlog
from aiohttp import web
from pydantic import BaseModel

from node.api.answer import JSON, VARY, Answer, Path, Read
from node.api.context import ApiContext
from node.api.pool import Pool
from node.api.times import time_fields
from node.api.views import LIMIT_MAX
from node.readers.identity import holder_of
from node.wire.places import Places
from vm.refusal import Refused
from vm.state import Record

CSV, NDJSON = "text/csv", "application/x-ndjson"
FORMATS = {"json": JSON, "csv": CSV, "ndjson": NDJSON}
EXPORTS_MAX = 8  # at a time; each holds a connection and reads page after page
EXPORTS_OF_READER_MAX = 2
LOOK_S = 1.0  # between looks whether the reader of an export that waits is still there
EXPORT_S_MAX = 600.0  # for all of a list: a client that dawdles does not keep its place
OPENED = ("record", "epoch")  # parts of an item whose own fields are columns
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # with these a spreadsheet's formula may begin

log = structlog.get_logger()


def choose_format(request: web.Request, read: Read, query: Any) -> str:
    """What an answer is to be written as: `format`, or what Accept likes best; else JSON."""
    if not read.columns:
        return JSON
    if query.format is not None:
        return FORMATS[query.format]
    likes = dict(_likes(request.headers.get("Accept", "")))
    return max(FORMATS.values(), key=lambda kind: _like(likes, kind))  # the first of equal ones


def _likes(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            yield kind, float(weight)
        except ValueError:  # says nothing that we understand
            yield kind, 0.0


def _like(likes: Mapping[str, float], kind: str) -> float:
    for name in (kind, kind.partition("/")[0] + "/*", "*/*"):
        if name in likes:
            return likes[name]
    return 0.0


class Exports:
    """The streams of whole lists that are open."""

    def __init__(self, context: ApiContext, reader: Pool) -> None:
        self._context = context
        self._reader = reader
        self._places = Places("api.busy", "exports", EXPORTS_MAX, EXPORTS_OF_READER_MAX)

    async def serve(
        self, request: web.Request, read: Read, query: Any, media_type: str
    ) -> web.StreamResponse:
        """Send a list from its cursor on: all of it, or `limit` items if that was asked for.

        Raises as its first page does, or `Refused("api.busy")`.
        """
        with self._places.place(holder_of(request)):
            writer = _Writer(read, media_type)
            async with aclosing(self._pages(request, read, query, writer)) as pages:
                first = await anext(pages)
                response = web.StreamResponse(headers=_headers(read, media_type))
                await response.prepare(request)
                if request.method != "HEAD":
                    await self._send(request, response, first, pages)
                return response

    async def _pages(
        self, request: web.Request, read: Read, query: Any, writer: "_Writer"
    ) -> AsyncGenerator[bytes, None]:
        """The head, and each page as it is written: `limit` items in all if it was given.

        No page leaves before what is restricted in it is noted, nor when its reader may read no
        more.
        """
        given = "limit" in query.model_fields_set
        left = query.limit if given else None
        if hasattr(query, "limit"):
            query = query.model_copy(update={"limit": left or LIMIT_MAX})
        head, begun = writer.head(), False
        while True:
            if begun:
                await self._wait(request)
            run = self._reader.go_on if begun else self._reader.run
            answer, data = await run(request, self._write, request.match_info, read, query, writer)
            self._context.desk.look_again(request)
            await self._context.desk.note(request, answer.shown)
            page: Any = answer.body
            yield head + data
            head, begun = b"", True
            left = None if left is None else left - len(page.items)
            if page.next is None or (left is not None and left <= 0):
                return
            following = {read.turn: page.next} | ({} if left is None else {"limit": left})
            query = query.model_copy(update=following)

    async def _wait(self, request: web.Request) -> None:
        """Until the reader has paid for the pages before, or has left."""
        while (debt_s := self._context.desk.debt_s(request)) > 0 and request.transport is not None:
            await _pause(min(debt_s, LOOK_S))
            self._context.desk.look_again(request)

    def _write(self, path: Path, read: Read, query: Any, writer: "_Writer") -> tuple[Answer, bytes]:
        """A page, and its items as they are sent; in a thread, as both take time."""
        answer = read.answer(self._context, path, query)
        page: Any = answer.body
        return answer, writer.body(page.items)

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        first: bytes,
        pages: AsyncIterator[bytes],
    ) -> None:
        try:
            async with asyncio.timeout(EXPORT_S_MAX):
                await response.write(first)
                async for data in pages:
                    await response.write(data)
        except (Refused, TimeoutError) as error:  # too late for a problem document
            log.warning("export.cut", path=request.path[:200], reason=str(error)[:200])
            if request.transport is not None:
                request.transport.abort()


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _headers(read: Read, media_type: str) -> dict[str, str]:
    name = read.path.rpartition("/")[2]
    if media_type == CSV:
        kind, end = f"{CSV}; charset=utf-8; header=present", "csv"
    else:
        kind, end = NDJSON, "ndjson"
    return {
        "Content-Type": kind,
        "Content-Disposition": f'attachment; filename="{name}.{end}"',
        "Cache-Control": "no-store",
        "Vary": VARY,
    }


class _Writer:
    """Writes items in one of the two formats."""

    def __init__(self, read: Read, media_type: str) -> None:
        self._columns = read.columns if media_type == CSV else ()

    def head(self) -> bytes:
        return csv_row(self._columns) if self._columns else b""

    def body(self, items: Iterable[BaseModel]) -> bytes:
        if not self._columns:
            return b"".join(item.model_dump_json().encode() + b"\n" for item in items)
        rows = (flat(item.model_dump(mode="json")) for item in items)
        return b"".join(csv_row([row.get(name) for name in self._columns]) for row in rows)


def columns_of(record: type[Record]) -> tuple[str, ...]:
    """The columns of a list of records: their fields, then the times that they tell."""
    names = (field.name for field in fields(cast(Any, record)))
    return (*names, *(_column(name) for name in time_fields(record)))


def flat(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item by columns: what it shows, a record or a header, is laid open."""
    row: dict[str, Any] = {}
    for name, value in item.items():
        if name == "checkpoint":
            row = value["header"] | row
        elif name in OPENED:
            row |= value
        elif name == "times":
            row |= {_column(time): text for time, text in value.items()}
        else:
            row[name] = value
    return row


def _column(time: str) -> str:
    return time if time == "time" else f"{time}_time"


def csv_row(values: Iterable[Any]) -> bytes:
    """A line of CSV; nested values as JSON, None as nothing.

    Text with which a spreadsheet's formula may begin gets an apostrophe before it (OWASP, CSV
    injection).
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return text.getvalue().encode()


def _cell(value: Any) -> str | int:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return value
        case str():
            return "'" + value if value.startswith(FORMULA) else value
    return json.dumps(value, ensure_ascii=False)
