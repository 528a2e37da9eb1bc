"""What a validator gives to one that syncs: offers, snapshots, ranges of state, receipts.

    GET /sync                                  an Offer
    GET /sync/epochs/{after}                   Steps to the epochs behind this number
    GET /sync/{height}                         a Snapshot
    GET /sync/{height}/state/{start}/{stop}    a StateRange; paths in hexadecimal
    GET /sync/{height}/receipts/{first}        a WindowPart

Answers are packed records. Whoever asks is an enrolled validator, with or without a seat.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from aiohttp import web

from node.audit.prove import stored_steps
from node.validator.prune import SNAPSHOT_BLOCKS
from node.validator.snapshot import (
    OFFERED_MAX,
    RECEIPTS_BYTES_MAX,
    STEPS_MAX,
    BlockReceipts,
    Offer,
    Snapshot,
    Steps,
    WindowPart,
)
from node.validator.store import Store
from node.wire.gate import MEMBER
from vm import tree
from vm.range import StateRange, prove_range
from vm.record import Role
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, pack
from vm.sparse import DamagedNode
from vm.state import State
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

ANSWERS_MAX = 8  # made at a time; each takes a thread and some megabytes
ANSWERS_OF_MEMBER_MAX = 2  # who syncs asks for one after the other, and may give one up
RANGE_BYTES = 1024 * 1024  # of keys and values in one answer; a large leaf makes it more


class Source:
    """Reads one store, in any thread. Raises `Refused("sync.gone")` for what it has no more."""

    def __init__(
        self,
        store: Store,
        snapshot_blocks: int = SNAPSHOT_BLOCKS,
        window: int = TX_LIFETIME_BLOCKS_MAX,
    ) -> None:
        self._store = store
        self._snapshot_blocks = snapshot_blocks
        self._window = window

    def offer(self) -> Offer:
        """The last snapshots, if their states and certificates are here, and the first block."""
        kept, base, head = self._store.kept(), self._store.base(), self._store.head()
        certified = None if head is None else self._store.certified(head.height)
        if certified is None:
            return Offer((), 0, 1)
        last = certified.height - certified.height % self._snapshot_blocks
        heights = [last - number * self._snapshot_blocks for number in range(OFFERED_MAX)]
        return Offer(
            snapshots=tuple(
                height
                for height in reversed(heights)
                if height >= max(base, 1)
                and kept.has_state(height, height)
                and self._store.certificate(height) is not None
            ),
            newest=certified.height,
            first=max(kept.below, base + 1),
        )

    def steps(self, after: int) -> Steps:
        """The steps to the epochs that follow number `after`, as far as they are certified."""
        head = self._store.head()
        assert head is not None, "a store that serves has a head"
        state = State(partial(self._store.read, head.root))
        return Steps(tuple(stored_steps(self._store, state, after, STEPS_MAX)))

    def snapshot(self, height: int) -> Snapshot:
        """What the snapshot at `height` stands on."""
        self._require(height)
        certificate = self._store.certificate(height)
        first = max(0, height - self._window + 1)
        headers = [self._store.header(number) for number in range(first, height + 1)]
        found = tuple(header for header in headers if header is not None)
        if certificate is None or len(found) != len(headers):
            raise _gone(height)
        frontier = tree.frontier_at(self._store.history_node, first)
        return Snapshot(certificate, frontier, found)

    def range(self, height: int, start: bytes, stop: bytes, content_bytes: int) -> StateRange:
        """The leaves from `start` on, at most to `stop`."""
        self._require(height)
        row = self._store.row(height)
        if row is None:
            raise _gone(height)
        try:
            return prove_range(self._store.node, row.root, start, stop, content_bytes)
        except DamagedNode:
            self._require(height)  # pruned meanwhile
            raise

    def receipts(self, height: int, first: int, bytes_max: int) -> WindowPart:
        """Receipts of the replay window from the block `first` on: one block at least."""
        self._require(height)
        if not max(0, height - self._window + 1) <= first <= height:
            raise Refused(
                "sync.window", f"expected a block of the replay window of {height}, found {first}"
            )
        blocks: list[BlockReceipts] = []
        for number in range(first, height + 1):
            row = self._store.row(number)
            if row is None:
                raise _gone(height)
            block = BlockReceipts(row.receipts)
            bytes_max -= len(pack(block))
            if blocks and bytes_max < 0:
                break
            blocks.append(block)
        return WindowPart(tuple(blocks))

    def _require(self, height: int) -> None:
        if height not in self.offer().snapshots:
            raise _gone(height)


def _gone(height: int) -> Refused:
    return Refused("sync.gone", f"expected one of the last snapshots, found height {height}")


class SyncService:
    """Serves a source at the peer port."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._making: Counter[str] = Counter()  # by member: answers that are being made

    def routes(self) -> list[web.RouteDef]:
        """What the peer port serves for state sync."""
        height, path = "/sync/{height:[0-9]{1,16}}", "[0-9a-f]{64}"
        return [
            web.get("/sync", self._get_offer),
            web.get("/sync/epochs/{after:[0-9]{1,16}}", self._get_steps),
            web.get(height, self._get_snapshot),
            web.get(f"{height}/state/{{start:{path}}}/{{stop:{path}}}", self._get_range),
            web.get(f"{height}/receipts/{{first:[0-9]{{1,16}}}}", self._get_receipts),
        ]

    async def _get_offer(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._source.offer)

    async def _get_steps(self, request: web.Request) -> web.Response:
        return await self._answer(request, partial(self._source.steps, _number(request, "after")))

    async def _get_snapshot(self, request: web.Request) -> web.Response:
        height = _number(request, "height")
        return await self._answer(request, partial(self._source.snapshot, height))

    async def _get_range(self, request: web.Request) -> web.Response:
        start, stop = (bytes.fromhex(request.match_info[name]) for name in ("start", "stop"))
        if start > stop:
            raise Refused("sync.range", "expected a range that begins before it ends")
        height = _number(request, "height")
        return await self._answer(
            request, partial(self._source.range, height, start, stop, RANGE_BYTES)
        )

    async def _get_receipts(self, request: web.Request) -> web.Response:
        height, first = _number(request, "height"), _number(request, "first")
        return await self._answer(
            request, partial(self._source.receipts, height, first, RECEIPTS_BYTES_MAX)
        )

    async def _answer(self, request: web.Request, make: Callable[[], object]) -> web.Response:
        member = request[MEMBER]
        if member.role is not Role.VALIDATOR:
            raise Refused("peer.role", f"expected a validator, found {member.id}, a {member.role}")
        if self._making.total() >= ANSWERS_MAX or self._making[member.id] >= ANSWERS_OF_MEMBER_MAX:
            raise Refused(
                "sync.busy",
                f"expected at most {ANSWERS_OF_MEMBER_MAX} requests of {member.id} at a time, "
                f"and {ANSWERS_MAX} of all",
            )
        self._making[member.id] += 1
        try:
            body = await asyncio.to_thread(lambda: pack(make()))
        finally:
            self._making[member.id] -= 1
            self._making += Counter()  # drops those with none
        return web.Response(body=body, content_type="application/octet-stream")


def _number(request: web.Request, name: str) -> int:
    return min(int(request.match_info[name]), HEIGHT_MAX)
