"""Server-sent events: one for each certified block, `id:` its height, resumed by height.

The text/event-stream format is that of the HTML standard, section 9.2.
"""

import asyncio
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


class Streams:
    """The open event streams; each is a task that ends when its reader leaves or we stop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._places = Places("events.full", "event streams", STREAMS_MAX, STREAMS_OF_READER_MAX)

    async def serve(
        self, context: ApiContext, reader: Pool, request: web.Request
    ) -> web.StreamResponse:
        """Send every certified block after the reader's last.

        Raises `Refused("events.full" | "block.pruned")`.
        """
        height = _last_seen(context, request)
        if height < context.feed.height:
            await reader.run(request, require_kept, context.chain, height + 1)
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        with self._places.place(holder_of(request)):
            self._tasks.add(task)
            try:
                return await _stream(context, reader, request, height)
            finally:
                self._tasks.discard(task)

    def close(self) -> None:
        """End all streams: the node stops."""
        for task in self._tasks:
            task.cancel()


async def _stream(
    context: ApiContext, reader: Pool, request: web.Request, height: int
) -> web.StreamResponse:
    """Answer with the stream; it ends when its reader leaves, or may have no more of it."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    try:
        await response.prepare(request)
        await _send_blocks(context, reader, request, response, height)
    except (ConnectionResetError, Refused):  # too late for a problem document: who resumes is told
        pass
    return response


async def _wait(context: ApiContext, request: web.Request, response: web.StreamResponse) -> None:
    """Until the reader may ask again: events count for what they took."""
    while (wait_s := context.desk.wait_s(request)) > 0:
        await _pause(min(wait_s, HEARTBEAT_S))
        context.desk.look_again(request)
        await response.write(b": heartbeat\n\n")


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _send_blocks(
    context: ApiContext,
    reader: Pool,
    request: web.Request,
    response: web.StreamResponse,
    height: int,
) -> None:
    """Send what comes after `height`, for as long as the reader stays and may read."""
    await response.write(b": certified blocks follow\n\n")
    announced = height
    while True:
        try:
            announced = await asyncio.wait_for(context.feed.wait(announced), HEARTBEAT_S)
        except TimeoutError:
            context.desk.look_again(request)
            await response.write(b": heartbeat\n\n")
        # None where a certificate came before the block itself: the next turn sends it
        while height < announced:
            await _wait(context, request, response)
            event = await reader.go_on(request, _event, context, height + 1)
            if event is None:
                break
            context.desk.look_again(request)
            height = event.height
            data = event.model_dump_json()
            await response.write(f"id: {height}\nevent: block\ndata: {data}\n\n".encode())


def _last_seen(context: ApiContext, request: web.Request) -> int:
    """The header wins over the parameter: a browser that reconnects sends both."""
    since = parse_query(request, EventsQuery).since
    held = request.headers.get("Last-Event-ID")
    if held is not None:
        return parse_number("Last-Event-ID", held)
    return context.feed.height if since is None else since


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
