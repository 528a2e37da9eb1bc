"""Records as they were proven last, shared by all who work on them, and news of what changed.

A node's events make it quick and are only its word: a record is kept until an event names it, and
for `POLL_S` at most, and nothing from before a receipt of our own. Then it is read again, and with
it whatever else was in use and has changed, in one answer. What lags behind an event is kept for
`BEHIND_S`: a height that no block has costs no more than that.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TypeAlias, TypeVar, cast

from node.api.keys import KEYS_MAX
from node.client.client import Client
from node.client.proven import Asked
from vm.learning import Round, SiteApproval, Task
from vm.record import Dataset, Model
from vm.state import Record

POLL_S = 2.0  # an event stream may be silent or lie; asking costs one answer of a few records
BEHIND_S = 0.1  # for a node to certify what another told of: a block takes about that long
IN_USE_S = 10.0  # works ask every POLL_S; who replays a segment asks for other verdicts after it
KEPT_MAX = 8_192  # records; a round of 64 sites has 4,032 verdicts beside some hundred others
REQUESTS_MAX = 4  # at one time: a node reads 64 for a member
NEWS = (Task.KIND, Round.KIND, SiteApproval.KIND)  # kinds by which a peer's work may change
LASTING = (Dataset, Model)  # what is there of these never changes

R = TypeVar("R", bound=Record)


@dataclass(slots=True)
class _Kept:
    """What was read at a height, until when it stands and when it was asked for last.

    Both by the event loop's clock.
    """

    record: Record | None
    height: int
    end_s: float
    asked_s: float = -inf

    def is_fresh(self, written: int) -> bool:
        """Whether it still stands; `written` is the height of our newest receipt."""
        young = _now_s() < self.end_s and self.height >= written
        return young or isinstance(self.record, LASTING)

    def is_in_use(self) -> bool:
        """Whether somebody has asked for it lately, and not only before it was read again."""
        return _now_s() - self.asked_s < IN_USE_S


_Reading: TypeAlias = "asyncio.Future[_Kept]"


class Board:
    """What `client` reads; `count` is of blocks with `NEWS`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.count = 0
        self._changed = asyncio.Event()
        self._height = 0  # of the newest event
        self._kept: dict[Asked, _Kept] = {}  # the oldest first
        self._named: dict[Asked, None] = {}  # changed while they were in use
        self._reading: dict[Asked, _Reading] = {}  # under way, or about to be
        self._waiting: dict[Asked, _Reading] = {}  # for the next request
        self._requests: set[asyncio.Task[object]] = set()

    # News

    async def run(self) -> None:
        """Follow events until cancelled."""
        async for event in self.client.events():
            self._height = event.height
            changed = {(record.kind, tuple(record.key)) for record in event.records}
            unnamed = {kind for kind, key in changed if not key}  # which ones is not told
            for asked in {*self._kept, *self._reading}:
                kind = asked[0].KIND
                if event.left_out or kind in unnamed or (kind, asked[1]) in changed:
                    self._forget(asked)
            if any(kind in NEWS for kind, _ in changed):
                self.count += 1
                self._changed.set()
                self._changed = asyncio.Event()

    async def wait(self, seen: int) -> None:
        """Return once `count` is above `seen`, or after `POLL_S`."""
        if self.count > seen:
            return
        try:
            async with asyncio.timeout(POLL_S):
                await self._changed.wait()
        except TimeoutError:
            return

    def _forget(self, asked: Asked) -> None:
        """It has changed: who asks from now on gets what is read from now on."""
        if asked in self._waiting:
            return  # it has yet to be read
        kept, reading = self._kept.get(asked), self._reading.pop(asked, None)
        if kept is not None and isinstance(kept.record, LASTING):
            return
        self._kept.pop(asked, None)
        if reading is not None or (kept is not None and kept.is_in_use()):
            self._named[asked] = None

    # Reading

    async def record(self, cls: type[R], *key: str | int) -> R | None:
        """The record under `key`, proven, None if absent; raises `Refused` as `Client.record`."""
        asked, written = (cls, key), self.client.proven.written
        kept = self._kept.get(asked)
        while kept is None or not kept.is_fresh(written):
            kept = await asyncio.shield(self._reading.get(asked) or self._begin(asked))
            if kept.height >= written:
                break  # else it was under way before the receipt, and the next one was not
        kept.asked_s = _now_s()
        return cast("R | None", kept.record)

    def _begin(self, asked: Asked) -> _Reading:
        """Have it read with the next request, which leaves in the event loop's next turn."""
        if len(self._requests) < REQUESTS_MAX:
            self._requests.add(asyncio.create_task(self._request()))
        reading: _Reading = asyncio.get_running_loop().create_future()
        reading.add_done_callback(_heard)
        self._waiting[asked] = self._reading[asked] = reading
        return reading

    async def _request(self) -> None:
        """Ask for all that is waited for, one answer after the other."""
        task = asyncio.current_task()
        assert task is not None, "it runs in a task"
        await asyncio.sleep(0)  # whoever woke by the same event asks now too
        try:
            while self._waiting:
                self._read_along()
                part = dict(islice(self._waiting.items(), KEYS_MAX))
                for asked in part:
                    del self._waiting[asked]
                await self._read(part)
        finally:
            self._requests.discard(task)

    def _read_along(self) -> None:
        """Have read with what is waited for what was in use and has changed."""
        for asked, kept in tuple(self._kept.items()):
            if kept.height < self.client.proven.written:
                self._forget(asked)
        for named in self._named.keys() - self._reading.keys():
            self._begin(named)
        self._named.clear()

    async def _read(self, readings: Mapping[Asked, _Reading]) -> None:
        told = self._height
        try:
            records, header = await self.client.together(tuple(readings))
        except Exception as error:  # noqa: BLE001 - raised where it was asked
            for asked, reading in readings.items():
                self._take(asked, reading)
                reading.set_exception(error)
            return
        # A node may lag behind what another one told, and what was told may be false.
        end_s = _now_s() + (POLL_S if header.height >= told else BEHIND_S)
        for (asked, reading), record in zip(readings.items(), records, strict=True):
            kept = _Kept(record, header.height, end_s)
            if self._take(asked, reading):  # else an event has named it since
                self._keep(asked, kept)
            reading.set_result(kept)

    def _take(self, asked: Asked, reading: _Reading) -> bool:
        """End a reading; whether it still stood."""
        stood = self._reading.get(asked) is reading
        if stood:
            del self._reading[asked]
        return stood

    def _keep(self, asked: Asked, kept: _Kept) -> None:
        self._kept.pop(asked, None)
        self._kept[asked] = kept
        if len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _heard(reading: _Reading) -> None:
    """Whoever asked may be gone: a refusal that nobody takes is nothing to warn of."""
    if not reading.cancelled():
        reading.exception()
