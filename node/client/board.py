"""Records as they were proven last, shared by all who work on them, and news of what changed.

A node's events make it quick and are only its word: a record is kept until an event names it, and
for `POLL_S` at most, and nothing from before a receipt of our own. Then it is read again, and with
it whatever else was in use and has changed, in one answer.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

from node.api.keys import KEYS_MAX
from node.client.client import Client
from node.client.proven import Asked
from vm.learning import Round, Task
from vm.record import Dataset, Model
from vm.state import Record

POLL_S = 2.0  # an event stream may be silent or lie; asking costs one answer of a few records
KEPT_MAX = 4_096  # records; a round of eight sites has eighty
LASTING = (Dataset, Model)  # what is there of these never changes

R = TypeVar("R", bound=Record)


@dataclass(slots=True)
class _Kept:
    """What was read at a height, when by the event loop's clock, and whether it is in use."""

    record: Record | None
    height: int
    read_s: float
    used: bool = False

    def is_fresh(self, written: int) -> bool:
        """Whether it still stands; `written` is the height of our newest receipt."""
        young = _now_s() - self.read_s < POLL_S and self.height >= written
        return young or isinstance(self.record, LASTING)


_Reading: TypeAlias = "asyncio.Future[_Kept]"


class Board:
    """What `client` reads; `count` is of blocks that wrote a task or a round."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.count = 0
        self._changed = asyncio.Event()
        self._height = 0  # of the newest event
        self._kept: dict[Asked, _Kept] = {}  # the oldest first
        self._named: dict[Asked, None] = {}  # changed while they were in use
        self._reading: dict[Asked, _Reading] = {}  # under way, or about to be
        self._waiting: dict[Asked, _Reading] = {}  # for the next request
        self._requests: set[asyncio.Task[None]] = set()

    # News

    async def run(self) -> None:
        """Follow events until cancelled."""
        async for event in self.client.events():
            self._height = event.height
            changed = {(record.kind, tuple(record.key)) for record in event.records}
            for asked in {*self._kept, *self._reading}:
                if event.left_out or (asked[0].KIND, asked[1]) in changed:
                    self._forget(asked)
            if any(kind in (Task.KIND, Round.KIND) for kind, _ in changed):
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
        if reading is not None or (kept is not None and kept.used):
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
        kept.used = True
        return cast("R | None", kept.record)

    def _begin(self, asked: Asked) -> _Reading:
        """Have it read with the next request, which leaves in the event loop's next turn."""
        if not self._waiting:
            request = asyncio.create_task(self._request())
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)
        reading: _Reading = asyncio.get_running_loop().create_future()
        reading.add_done_callback(_heard)
        self._waiting[asked] = self._reading[asked] = reading
        return reading

    async def _request(self) -> None:
        """Ask for all that is waited for, and for what was in use and has changed."""
        await asyncio.sleep(0)  # whoever woke by the same event asks now too
        for asked, kept in tuple(self._kept.items()):
            if kept.height < self.client.proven.written:
                self._forget(asked)
        for named in self._named.keys() - self._reading.keys():
            self._begin(named)
        self._named.clear()
        waiting, self._waiting = list(self._waiting.items()), {}
        parts = (waiting[first : first + KEYS_MAX] for first in range(0, len(waiting), KEYS_MAX))
        await asyncio.gather(*(self._read(dict(part)) for part in parts))

    async def _read(self, readings: Mapping[Asked, _Reading]) -> None:
        told = self._height
        try:
            records, header = await self.client.together(tuple(readings))
        except Exception as error:  # noqa: BLE001 - raised where it was asked
            for asked, reading in readings.items():
                self._take(asked, reading)
                reading.set_exception(error)
            return
        for (asked, reading), record in zip(readings.items(), records, strict=True):
            kept = _Kept(record, header.height, _now_s())
            # Not what an event has named since, nor what a node says that lags behind the events.
            if self._take(asked, reading) and header.height >= told:
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
