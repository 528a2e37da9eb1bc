"""What a validator gives to one that syncs: offers, snapshots, ranges of state, receipts."""

from node.validator.prune import SNAPSHOT_BLOCKS
from node.validator.snapshot import (
    OFFERED_MAX,
    RECEIPTS_BYTES_MAX,
    BlockReceipts,
    Offer,
    Snapshot,
    WindowPart,
)
from node.validator.store import Store
from vm import tree
from vm.range import StateRange, prove_range
from vm.refusal import Refused
from vm.shape import pack
from vm.sparse import DamagedNode
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

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

    def range(
        self, height: int, start: bytes, stop: bytes, content_bytes: int = RANGE_BYTES
    ) -> StateRange:
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

    def receipts(self, height: int, first: int, bytes_max: int = RECEIPTS_BYTES_MAX) -> WindowPart:
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
