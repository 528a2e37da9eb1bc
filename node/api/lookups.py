"""Look-ups of single transactions; one that is pending may be waited for."""

import asyncio
from contextlib import suppress

import structlog
from aiohttp import web

from node.api.answer import Answer, parse_query
from node.api.context import ApiContext
from node.api.pool import Pool
from node.api.resource import parse_digest
from node.api.transactions import is_pending, read_transaction, tell_settled
from node.api.views import LookupQuery

LOOKUPS_MAX = (
    512  # that wait at one time; one whose client has left keeps its place for WAIT_MS_MAX
)

log = structlog.get_logger()


class Lookups:
    """Looks transactions up; those that are pending may be waited for, so many at one time.

    One task follows the feed for all who wait. It reads each new block once, and wakes only those
    whose transaction it settled: they crowd out neither event streams nor other reads.
    """

    def __init__(self, context: ApiContext, reader: Pool) -> None:
        self._context = context
        self._reader = reader
        self._waits: dict[bytes, set[asyncio.Future[Answer | None]]] = {}  # by transaction
        self._waiting = 0

    async def answer(self, request: web.Request) -> Answer:
        """A transaction as it stands, or once it is certified within the time that was asked for.

        Raises `Refused` with `query.*`, `id.invalid`, `block.pruned` or `api.busy`.
        """
        query = parse_query(request, LookupQuery)
        id = parse_digest(request.match_info["id"])
        if not query.wait_ms or self._waiting >= LOOKUPS_MAX:
            return await self._reader.run(request, read_transaction, self._context, id)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + query.wait_ms / 1_000
        settled: asyncio.Future[Answer | None] = loop.create_future()
        self._waits.setdefault(id, set()).add(settled)  # before it is read: no block slips between
        self._waiting += 1
        try:
            answer = await self._reader.run(request, read_transaction, self._context, id)
            if is_pending(answer):
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(end_s):
                        answer = await settled or answer
            return answer
        finally:
            self._waiting -= 1
            self._leave(id, settled)

    async def follow(self) -> None:
        """Wake those whose transactions are settled, until cancelled."""
        loop = asyncio.get_running_loop()

        def tell(id: bytes, answer: Answer) -> None:
            loop.call_soon_threadsafe(self._end, id, answer)

        height = self._context.feed.height
        while True:
            height = await self._context.feed.wait(height)
            ids = tuple(self._waits)
            if not ids:
                continue
            try:
                await self._reader.run(None, tell_settled, self._context, ids, tell)
            except Exception as error:  # noqa: BLE001 - whoever asks again is told what it is
                log.warning("lookups.unread", height=height, reason=str(error)[:200])
                for id in ids:
                    self._end(id, None)

    def close(self) -> None:
        """End all waits: the node stops."""
        for id in tuple(self._waits):
            self._end(id, None)

    def _end(self, id: bytes, answer: Answer | None) -> None:
        """Tell those who wait for a transaction; None if it is to be taken for pending."""
        for settled in self._waits.pop(id, ()):
            if not settled.done():  # its time is over in this very turn
                settled.set_result(answer)

    def _leave(self, id: bytes, settled: asyncio.Future[Answer | None]) -> None:
        waits = self._waits.get(id, set())
        waits.discard(settled)
        if not waits:
            self._waits.pop(id, None)
