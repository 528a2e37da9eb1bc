"""Pruning: old blocks, receipts and state go, at any time and in small steps.

What stays for ever are headers, history nodes, and the certificates of heights at which an epoch
ends; with them any earlier block is still proven to have been, and a light client still follows
the validators. The last two snapshots stay as well, with the receipts of their replay windows, so
that a node that was away longer than blocks are kept finds a state to begin with.

A chain that was never pruned before is pruned like any other (oasisprotocol/oasis-core#6286,
hyperledger/fabric#2797). Every step repeats harmlessly, and what is pruned is written last: a crash
costs the work since the last such note, never a row that is still needed.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from itertools import islice

import structlog

from node.api.feed import Feed
from node.validator.store import (
    BLOCK,
    CERTIFICATE,
    HEADER,
    KEPT,
    NODE,
    ROW,
    SNAPSHOTS_MAX,
    STALE,
    TRANSACTION,
    Kept,
    Store,
    at,
)
from node.validator.threads import to_the_end
from vm import sparse
from vm.refusal import Refused
from vm.shape import pack
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

SNAPSHOT_BLOCKS = 1_024  # between two heights whose state others may sync
RETAIN_BLOCKS_MIN = TX_LIFETIME_BLOCKS_MAX  # execution looks that far back for repeats
STEP_ROWS_MAX = 1_000  # deleted at once: a few milliseconds
NODE_KEY_BYTES = 12  # of most: height, depth, and some bits of a path
STEP_HEIGHTS_MAX = 32  # whose rows one step reads
PAUSE_S = 0.02  # between two steps, so that execution comes first
EVERY_BLOCKS = 64  # executed before a running node prunes again

log = structlog.get_logger()


class Pruner:
    """Prunes one store. `window` and `snapshot_blocks` are smaller in tests."""

    def __init__(
        self,
        store: Store,
        snapshot_blocks: int = SNAPSHOT_BLOCKS,
        window: int = TX_LIFETIME_BLOCKS_MAX,
    ) -> None:
        self._store = store
        self._database = store.database
        self._snapshot_blocks = snapshot_blocks
        self._window = window

    def target(self, retain: int) -> Kept:
        """What is to be kept of the certified chain with the last `retain` blocks; 0 keeps all.

        Raises `Refused("prune.retain")` for fewer than execution needs.
        """
        if retain and retain < self._window:
            raise Refused(
                "prune.retain",
                f"expected to keep 0 (all) or at least {self._window} blocks, which execution "
                f"looks back, found {retain}",
            )
        before, base = self._store.kept(), self._store.base()
        head = self._store.head()
        certified = None if head is None else self._store.certified(head.height)
        if certified is None:
            return before
        newest = certified.height
        below = max(before.below, newest - retain + 1 if retain else 0)
        if base > before.base:  # nothing between is there: state sync has left it out
            below = max(below, base - self._window + 1)
        last = newest - newest % self._snapshot_blocks
        snapshots = [last - number * self._snapshot_blocks for number in range(SNAPSHOTS_MAX)]
        return Kept(
            below=below,
            snapshots=tuple(
                height
                for height in reversed(snapshots)
                if below and max(base, 1) <= height  # the rest is kept, or was never here
                if height >= before.below or height in before.snapshots
            ),
            base=base,
        )

    def steps(self, target: Kept) -> Iterator[float]:
        """Prune down to `target`; after each step the share of the work that is done."""
        before = self._store.kept()
        if target == before:
            return
        dropped = sorted(set(before.snapshots) - set(target.snapshots))
        spans = [(max(0, top - self._window + 1), top + 1) for top in dropped]
        spans.append((before.below, target.below))
        for number, (first, stop) in enumerate(spans):
            for heights in self._heights(first, stop):
                self._drop_blocks(heights, target)
                share = (heights[-1] - first) / (stop - first)
                yield 0.5 * (number + share) / len(spans)
        since = min(before.below, *dropped) + 1 if dropped else before.below + 1
        if target.base > before.base:
            since = 0
            for _ in self._drop_rows(NODE, NODE + at(target.base)):
                yield 0.5
        for reached in self._drop_stale(since, target):
            yield 0.5 + 0.5 * (reached - since) / (target.below + 1 - since)
        self._database.put(KEPT, pack(target))
        yield 1.0

    def _heights(self, first: int, stop: int) -> Iterator[list[int]]:
        """The heights from `first` up to `stop` whose headers are here, some at a time.

        Below a snapshot with which a store began there is almost nothing, however high it is.
        """
        while True:
            with self._database.iterator(
                start=HEADER + at(first), stop=HEADER + at(stop), include_value=False
            ) as rows:
                some = islice(rows, STEP_HEIGHTS_MAX)
                heights = [int.from_bytes(row[len(HEADER) :], "big") for row in some]
            if not heights:
                return
            yield heights
            first = heights[-1] + 1

    def _drop_blocks(self, heights: list[int], target: Kept) -> None:
        with self._database.write_batch() as batch:
            for height in heights:
                key, header = at(height), self._store.header(height)
                assert header is not None, "headers are never pruned"
                if height < target.below:
                    batch.delete(BLOCK + key)
                    ends_epoch = header.validators != header.next_validators
                    if not ends_epoch and height not in target.snapshots:
                        batch.delete(CERTIFICATE + key)
                row = None if target.has_row(height, self._window) else self._store.row(height)
                if row is not None:
                    for receipt in row.receipts:
                        batch.delete(TRANSACTION + receipt.transaction)
                    batch.delete(ROW + key)

    def _drop_stale(self, since: int, target: Kept) -> Iterator[int]:
        """Delete nodes that no kept root reaches, of those stale from height `since` on."""
        start, stop = STALE + at(since), STALE + at(target.below + 1)
        while True:
            rows = self._stale_rows(start, stop)
            if not rows:
                return
            with self._database.write_batch() as batch:
                for row, joined in rows:
                    left = int.from_bytes(row[1:9], "big")  # the height that no longer reaches them
                    kept = []
                    for key in sparse.split_keys(joined):
                        written = int.from_bytes(key[:8], "big")
                        whole = left <= target.base  # of a tree that is here no more
                        if whole or not target.has_state(written, left - 1):
                            batch.delete(NODE + key)
                        else:
                            kept.append(key)
                    batch.delete(row)
                    if kept:
                        batch.put(row, b"".join(kept))
            yield int.from_bytes(rows[-1][0][1:9], "big")
            start = rows[-1][0] + b"\x00"

    def _stale_rows(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """The next stale rows, until a step's worth of keys is in them."""
        found, size = list[tuple[bytes, bytes]](), 0
        with self._database.iterator(start=start, stop=stop, verify_checksums=True) as rows:
            for row, joined in rows:
                found.append((bytes(row), joined))
                size += len(joined)
                if size >= STEP_ROWS_MAX * NODE_KEY_BYTES:
                    break
        return found

    def _drop_rows(self, start: bytes, stop: bytes) -> Iterator[None]:
        """Delete every row from `start` up to `stop`."""
        while True:
            with self._database.iterator(start=start, stop=stop, include_value=False) as rows:
                doomed = [bytes(row) for _, row in zip(range(STEP_ROWS_MAX), rows, strict=False)]
            if not doomed:
                return
            self._delete(doomed)
            start = doomed[-1]
            yield

    def _delete(self, keys: list[bytes]) -> None:
        with self._database.write_batch() as batch:
            for key in keys:
                batch.delete(key)


async def keep_pruned(pruner: Pruner, retain: int, executed: Feed) -> None:
    """Prune a running node's store, off the loop, whenever `executed` has come far enough."""
    height = 0
    while True:
        height = await executed.wait(height)
        target = await to_the_end(partial(pruner.target, retain))
        steps, done = pruner.steps(target), 0
        while await to_the_end(partial(next, steps, None)) is not None:
            done += 1
            await asyncio.sleep(PAUSE_S)
        if done:
            log.info("store.pruned", below=target.below, snapshots=target.snapshots)
        height += EVERY_BLOCKS - 1
