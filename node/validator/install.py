"""What state sync keeps on disk, and how it becomes the chain's head.

Rows of a sync stand apart from those of the chain until all of it is here. Then the tree is built
and everything is put in its place, the head last: until that row is written the store is what it
was before, and after a crash the same work is done again. The old state is left to pruning.

What was kept is synced before more is: of unsynced writes a power cut may take earlier ones and
leave later ones (`Store.sync`), and then rows of an install would be there without the snapshot.
"""

from collections.abc import Sequence
from itertools import islice

from node.validator.snapshot import BlockReceipts, Missing, Snapshot, WindowPart
from node.validator.store import (
    BASE,
    CERTIFICATE,
    DIGEST,
    HEAD,
    HEADER,
    HISTORY,
    JOURNAL,
    KEY,
    NODE,
    ROW,
    TRANSACTION,
    Binding,
    BlockRow,
    Head,
    Place,
    Store,
    at,
)
from vm import sparse, tree
from vm.block import receipts_root
from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.range import RangeLeaf
from vm.rebuild import Rebuild
from vm.shape import pack, unpack
from vm.succession import Step

SNAPSHOT = b"q"  # -> Snapshot that is being synced
MISSING = b"qm"  # -> Missing
LEAF = b"ql"  # path -> leaf of the state
RECEIPTS = b"qr"  # height -> BlockReceipts
STEP = b"qs"  # height -> Step to the epoch that begins behind it
SYNC_ROWS = (b"q", b"r")  # all rows of a sync, and the first that is none of its

BATCH_ROWS = 2_000  # put or deleted at once


class Sync:
    """The rows of the sync in a store; there is one at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database

    def resume(self) -> tuple[Snapshot, Missing] | None:
        """What was begun before and is yet to become the head; of anything else all is forgotten.

        To be called before any block is executed: an install that was cut off has written rows of
        blocks above the head, and is done again first.
        """
        kept, head = self.kept(), self._store.head()
        if kept is None or (head is not None and kept[0].header.height <= head.height):
            self.forget()
            return None
        return kept

    def kept(self) -> tuple[Snapshot, Missing] | None:
        """The snapshot that rows are kept of, and what is missing of it; None if there is none."""
        snapshot = self._database.get(SNAPSHOT, verify_checksums=True)
        missing = self._database.get(MISSING, verify_checksums=True)
        if snapshot is None or missing is None:
            return None
        return unpack(Snapshot, snapshot), unpack(Missing, missing)

    def begin(self, snapshot: Snapshot, missing: Missing, steps: Sequence[Step] = ()) -> None:
        """Forget any other snapshot and begin this one; `steps` lead to its epoch."""
        self.forget()
        before = [step for step in steps if step.header.height < snapshot.header.height]
        self._put([(STEP + at(step.header.height), pack(step)) for step in before])
        self._store.sync()  # or leaves that were forgotten could come back among its own
        with self._database.write_batch(sync=True) as batch:
            batch.put(SNAPSHOT, pack(snapshot))
            batch.put(MISSING, pack(missing))

    def keep_leaves(self, leaves: tuple[RangeLeaf, ...], missing: Missing) -> None:
        """Keep verified leaves and what is missing now, at once."""
        with self._database.write_batch(sync=True) as batch:
            for leaf in leaves:
                path = digest(STATE_KEY, leaf.state_key)
                batch.put(LEAF + path, sparse.leaf_bytes(leaf.state_key, leaf.value))
            batch.put(MISSING, pack(missing))

    def keep_receipts(self, first: int, part: WindowPart, missing: Missing) -> None:
        """Keep verified receipts and what is missing now, at once."""
        with self._database.write_batch(sync=True) as batch:
            for height, block in enumerate(part.blocks, start=first):
                batch.put(RECEIPTS + at(height), pack(block))
            batch.put(MISSING, pack(missing))

    def forget(self) -> None:
        """Delete every row of a sync; the one that says that there is a sync goes first.

        After a crash `kept` finds no sync then, and what is left of it another call deletes.
        """
        with self._database.write_batch(sync=True) as batch:
            batch.delete(SNAPSHOT)
        start, stop = SYNC_ROWS
        while True:
            with self._database.iterator(start=start, stop=stop, include_value=False) as rows:
                doomed = list(islice(rows, BATCH_ROWS))
            if not doomed:
                return
            with self._database.write_batch() as batch:
                for key in doomed:
                    batch.delete(key)

    def install(self) -> None:
        """Make the snapshot the chain's head; only once nothing of it is missing.

        Raises `sparse.DamagedNode` if the disk gave back other leaves or receipts than were kept.
        """
        kept = self.kept()
        assert kept is not None, "a sync was completed"
        snapshot, missing = kept
        header = snapshot.header
        assert missing.empty(header.height), "nothing is missing"
        root = self._build(header.height)
        if root.digest != header.state:
            raise sparse.DamagedNode(f"expected the state {header.state.hex()} of kept leaves")
        self._release_journal(header.height)
        self._follow()
        frontier = self._window(snapshot, root)
        head = Head(header.chain, header.height, header.digest, header.time_ms, root, frontier)
        self._store.sync()
        with self._database.write_batch(sync=True) as batch:
            batch.put(CERTIFICATE + at(header.height), pack(snapshot.certificate))
            batch.put(BASE, at(header.height))
            batch.put(HEAD, pack(head))
        self.forget()

    def _release_journal(self, height: int) -> None:
        """Note that the journal need not know certificates up to `height`: before any is written.

        A crash behind the first of them must not make a sound journal look like an older copy.
        """
        bound = self._store.journal
        if bound is not None:
            self._put([(JOURNAL, pack(Binding(bound.identity, height)))])

    def _build(self, height: int) -> sparse.Root:
        """Write the state's nodes, of which each is a step of its own; the tree's root."""
        rebuild, own, nodes = Rebuild(height), at(height), list[tuple[bytes, bytes]]()
        with self._database.iterator(prefix=LEAF, verify_checksums=True) as rows:
            for row, data in rows:
                path = bytes(row[len(LEAF) :])
                key, value = sparse.split_leaf(data)
                nodes.append((NODE + sparse.node_key(own, sparse.DEPTH_MAX, path), data))
                nodes.append((KEY + key, own))
                found = digest(STATE_VALUE, value)
                nodes += [(NODE + name, node) for name, node in rebuild.add(path, found)]
                if len(nodes) >= BATCH_ROWS:
                    self._put(nodes)
                    nodes.clear()
        nodes += [(NODE + name, node) for name, node in rebuild.finish()]
        self._put(nodes)
        return rebuild.root

    def _follow(self) -> None:
        """Write the headers and certificates by which others follow the epochs in their turn."""
        with self._database.iterator(prefix=STEP, include_key=False) as rows:
            for data in rows:
                step = unpack(Step, data)
                key = at(step.header.height)
                certificate = pack(step.certificate)
                header = step.header
                found = [(HEADER + key, pack(header)), (DIGEST + header.digest, key)]
                self._put([*found, (CERTIFICATE + key, certificate)])

    def _window(self, snapshot: Snapshot, root: sparse.Root) -> tree.Frontier:
        """Write headers, receipts, their places and the history; its new frontier."""
        frontier = snapshot.frontier
        self._put(_peaks(frontier))
        for header in snapshot.headers:
            key = at(header.height)
            data = self._database.get(RECEIPTS + key, verify_checksums=True)
            receipts = () if data is None else unpack(BlockReceipts, data).receipts
            if receipts_root(receipts) != header.receipts:
                raise sparse.DamagedNode(f"expected the kept receipts of block {header.height}")
            row = BlockRow(header, root, (), receipts, (), ())
            rows = [(HEADER + key, pack(header)), (DIGEST + header.digest, key)]
            if self._store.row(header.height) is None:  # else it says more than we know
                rows.append((ROW + key, pack(row)))
            for index, receipt in enumerate(receipts):
                rows.append((TRANSACTION + receipt.transaction, pack(Place(header.height, index))))
            frontier, nodes = tree.append(frontier, header.digest)
            rows += [(_history(level, index), found) for level, index, found in nodes]
            self._put(rows)
        return frontier

    def _put(self, rows: list[tuple[bytes, bytes]]) -> None:
        with self._database.write_batch() as batch:
            for key, value in rows:
                batch.put(key, value)


def _peaks(frontier: tree.Frontier) -> list[tuple[bytes, bytes]]:
    """The rows of the frontier's complete subtrees, of which later paths are made."""
    rows, start = [], 0
    for peak in frontier.peaks:
        level = (frontier.size - start).bit_length() - 1
        rows.append((_history(level, start >> level), peak))
        start += 1 << level
    return rows


def _history(level: int, index: int) -> bytes:
    return HISTORY + bytes((level,)) + at(index)
