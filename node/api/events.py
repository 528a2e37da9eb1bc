"""Server-sent events: one for each certified block, `id:` its height, resumed by height.

The text/event-stream format is that of the HTML standard, section 9.2.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import cast

from aiohttp import web

from node.api.answer import parse_query
from node.api.context import ApiContext
from node.api.pool import Pool
from node.api.resource import parse_number
from node.api.scan import require_kept, summaries
from node.api.times import write_time
from node.api.views import EventsQuery, EventView, RecordKey
from node.audit.prove import certified_row
from node.readers.identity import holder_of
from node.wire.places import Places
from vm.access import RESTRICTED
from vm.encoding import decode
from vm.refusal import Refused

EVENTS = "/v1/events"
HEARTBEAT_S = 15  # proxies close connections that are silent for 30 to 60 s
STREAMS_MAX = 256  # each holds a connection
STREAMS_OF_READER_MAX = 8  # one whose reader has left keeps its place for HEARTBEAT_S at most
EVENT_RECORDS_MAX = 1_000  # changed records named in one event
NEWEST = 8  # blocks whose events are read once for all streams, and counted for none


class Streams:
    """The open event streams; each is a task that ends when its reader leaves or we stop."""

    def __init__(self, context: ApiContext, reader: Pool) -> None:
        self._context = context
        self._reader = reader
        self._newest = _Newest(context, reader)
        self._tasks: set[asyncio.Task[object]] = set()
        self._places = Places("events.full", "event streams", STREAMS_MAX, STREAMS_OF_READER_MAX)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send every certified block after the reader's last.

        Raises `Refused("events.full" | "block.pruned")`.
        """
        context = self._context
        height = _last_seen(context, request)
        if height < context.feed.height:
            await self._reader.run(request, require_kept, context.chain, height + 1)
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        with self._places.place(holder_of(request)):
            self._tasks.add(task)
            try:
                return await self._stream(request, height)
            finally:
                self._tasks.discard(task)

    def close(self) -> None:
        """End all streams: the node stops."""
        for task in self._tasks:
            task.cancel()

    async def _stream(self, request: web.Request, height: int) -> web.StreamResponse:
        """Answer with the stream; it ends when its reader leaves, or may have no more of it."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        try:
            await response.prepare(request)
            await self._send_blocks(request, response, height)
        except (ConnectionResetError, Refused):  # too late for a problem: who resumes is told
            pass
        return response

    async def _send_blocks(
        self, request: web.Request, response: web.StreamResponse, height: int
    ) -> None:
        """Send what comes after `height`, for as long as the reader stays and may read."""
        await response.write(b": certified blocks follow\n\n")
        desk, announced = self._context.desk, height
        while True:
            try:
                announced = await asyncio.wait_for(self._context.feed.wait(announced), HEARTBEAT_S)
            except TimeoutError:
                desk.look_again(request)
                await response.write(b": heartbeat\n\n")
            while height < announced:
                event = await self._next(request, response, height + 1)
                if event is None:  # a certificate came before the block: the next turn sends it
                    break
                desk.look_again(request)
                height += 1
                await response.write(event)

    async def _next(
        self, request: web.Request, response: web.StreamResponse, height: int
    ) -> bytes | None:
        """The event of a block; who is far behind pays for each, and waits until it has."""
        if height > self._context.feed.height - NEWEST:
            return await self._newest.read(height)
        desk = self._context.desk
        while (debt_s := desk.debt_s(request)) > 0:
            desk.look_again(request)
            await response.write(b": heartbeat\n\n")  # first: it may be long since anything came
            await _pause(min(debt_s, HEARTBEAT_S))
        reading = asyncio.ensure_future(
            self._reader.go_on(request, _written, self._context, height)
        )
        try:
            while not (await asyncio.wait({reading}, timeout=HEARTBEAT_S))[0]:
                await response.write(b": heartbeat\n\n")
            return await reading
        finally:
            reading.cancel()


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


class _Newest:
    """Events of the newest blocks: however many streams follow the chain, each is read once."""

    def __init__(self, context: ApiContext, reader: Pool) -> None:
        self._context = context
        self._reader = reader
        self._found: OrderedDict[int, asyncio.Task[bytes | None]] = OrderedDict()

    async def read(self, height: int) -> bytes | None:
        """The event of a block, None if it is not here yet; raises as reading it does."""
        first = self._found.get(height)
        if first is not None and (not first.done() or _is_there(first)):
            found = await asyncio.shield(first)  # one stream that ends does not end it for others
            if found is not None:
                return found
        again = self._found.get(height)
        if again is None or again is first:  # which was asked for before the block was there
            again = self._begin(height)
        return await asyncio.shield(again)

    def _begin(self, height: int) -> asyncio.Task[bytes | None]:
        task = asyncio.create_task(self._reader.go_on(None, _written, self._context, height))
        task.add_done_callback(_is_there)  # which looks at its exception, if nobody else does
        self._found[height] = task
        if len(self._found) > NEWEST:
            self._found.popitem(last=False)
        return task


def _is_there(task: asyncio.Task[bytes | None]) -> bool:
    return not task.cancelled() and task.exception() is None and task.result() is not None


def _last_seen(context: ApiContext, request: web.Request) -> int:
    """The header wins over the parameter: a browser that reconnects sends both."""
    since = parse_query(request, EventsQuery).since
    held = request.headers.get("Last-Event-ID")
    if held is not None:
        return parse_number("Last-Event-ID", held)
    return context.feed.height if since is None else since


def _written(context: ApiContext, height: int) -> bytes | None:
    """An event as it is sent, None if its block is not here yet."""
    event = _event(context, height)
    if event is None:
        return None
    return f"id: {height}\nevent: block\ndata: {event.model_dump_json()}\n\n".encode()


def _event(context: ApiContext, height: int) -> EventView | None:
    row = certified_row(context.chain, height)
    if row is None:
        require_kept(context.chain, height)
        return None
    return EventView(
        height=height,
        digest=row.header.digest.hex(),
        time_ms=row.header.time_ms,
        time=write_time(row.header.time_ms),
        transactions=summaries(context.chain, row),
        records=_record_keys(islice(row.writes, EVENT_RECORDS_MAX)),
        left_out=max(0, len(row.writes) - EVENT_RECORDS_MAX),
    )


def _record_keys(keys: Iterable[bytes]) -> list[RecordKey]:
    """The changed records; of each restricted kind only that some have, once."""
    found: dict[tuple[str, ...], None] = {}
    for key in keys:
        kind, *parts = cast("tuple[str, ...]", decode(key))
        found[(kind,) if kind in RESTRICTED else (kind, *parts)] = None
    return [RecordKey(kind=kind, key=list(parts)) for kind, *parts in found]
