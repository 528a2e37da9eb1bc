"""What a validator keeps in LevelDB: blocks, headers, receipts, certificates, state, history.

One write batch per block, so a crash leaves the chain at one height or the next, never between.
Every row's key starts with one of the prefixes below; heights are 8 bytes big-endian, so that rows
are in order of height.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import plyvel

from consensus.message import Block
from node.wire.disk import is_full, say, sync_file, sync_folder
from vm import sparse, tree
from vm.block import TRANSACTIONS_MAX, Header, Receipt
from vm.certificate import CheckpointCertificate
from vm.encoding import encode
from vm.evidence import Evidence
from vm.refusal import Refused
from vm.shape import Bytes, Count, Digest, Height, Many, Note, TimeMs, pack, unpack

FOLDER = "chain"  # of a validator's store
BLOCK = b"b"  # height -> Block: payload and commit certificate
HEADER = b"h"  # height -> Header; never pruned
ROW = b"r"  # height -> BlockRow
CERTIFICATE = b"c"  # height -> CheckpointCertificate
TRANSACTION = b"t"  # transaction id -> Place
NODE = b"n"  # sparse node key -> node
STALE = b"s"  # height since which nodes are unreachable, part -> their keys, joined
DIGEST = b"d"  # header digest -> height; never pruned, as headers are not
HISTORY = b"y"  # level, index -> digest of a complete history node
KEY = b"k"  # state key -> height that last wrote it; lists records by kind
HEAD = b"m"  # -> Head
EVIDENCE = b"e"  # validator -> Evidence of two contents that it signed for one slot
BASE = b"mb"  # -> height of the snapshot with which this store began
KEPT = b"mp"  # -> Kept
SYNCED = b"ms"  # -> height of the head; written to sync what came before
DIGESTS = b"md"  # -> nothing; every header that is here has its DIGEST row
JOURNAL = b"mj"  # -> Binding to the journal that goes with this store

DAMAGE = (plyvel.CorruptionError, sparse.DamagedNode)  # the disk gave back something else

SNAPSHOTS_MAX = 2  # the last ones, which are exempt from pruning
STALE_KEYS_MAX = 1_000  # in one row: pruning looks at all of them in one step
WRITES_MAX = 100_000  # state keys that one block writes
CACHE_BYTES = 64 * 1024 * 1024  # LevelDB's block cache; the rest is the page cache's
WRITE_BUFFER_BYTES = 96 * 1024 * 1024  # before a table is written: fewer of them are merged again
KEY_BYTES_MAX = sparse.KEY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Head:
    """The newest executed block, and what the next one builds on."""

    VERSION: ClassVar[int] = 1

    chain: Digest
    height: Height
    header: Digest
    time_ms: TimeMs
    root: sparse.Root
    frontier: tree.Frontier  # of header digests up to and including this block's


@dataclass(frozen=True, slots=True)
class BlockRow:
    """What execution left of one block beside the state.

    `positions` are the payload's transactions that were executed (repeats are skipped), in step
    with `receipts` and with `messages`, this node's own words for them; `writes` are the state
    keys written.
    """

    VERSION: ClassVar[int] = 1

    header: Header
    root: sparse.Root
    positions: Annotated[tuple[Count, ...], Many(TRANSACTIONS_MAX)]
    receipts: Annotated[tuple[Receipt, ...], Many(TRANSACTIONS_MAX)]
    messages: Annotated[tuple[Note, ...], Many(TRANSACTIONS_MAX)]
    writes: Annotated[tuple[Annotated[bytes, Bytes(1, KEY_BYTES_MAX)], ...], Many(WRITES_MAX)]

    @property
    def wrote(self) -> bool:
        """Whether execution left a receipt, or changed the state."""
        return bool(self.receipts or self.writes)


@dataclass(frozen=True, slots=True)
class Binding:
    """The journal that a store is used with: it need not know certificates up to `since`.

    Those were there when the two met, or came with a snapshot.
    """

    VERSION: ClassVar[int] = 1

    identity: Annotated[bytes, Bytes(16, 16)]
    since: Height


@dataclass(frozen=True, slots=True)
class Place:
    """Where a transaction was executed: its block and its leaf in the block's trees."""

    VERSION: ClassVar[int] = 1

    height: Height
    index: Count


@dataclass(frozen=True, slots=True)
class Kept:
    """What pruning has left, once it has come to its end.

    Blocks, their rows and their states from height `below` on; of each of `snapshots`, wherever
    they are, the state and the rows that its replay window needs. No state is older than `base`,
    with which this store began: 0, or a snapshot of others.
    """

    VERSION: ClassVar[int] = 1

    below: Height
    snapshots: Annotated[tuple[Height, ...], Many(SNAPSHOTS_MAX)]
    base: Height

    def has_state(self, first: int, last: int) -> bool:
        """Whether the state of any of the heights `first` to `last` is kept."""
        return last >= self.below or any(first <= height <= last for height in self.snapshots)

    def has_row(self, height: int, window: int) -> bool:
        """Whether the row at `height` is kept: also those of a snapshot's last `window` blocks."""
        near = any(snapshot - window < height <= snapshot for snapshot in self.snapshots)
        return height >= self.below or near


class Database(Protocol):
    """What the store uses of `plyvel.DB`, with its names; the simulator brings one of memory."""

    def get(self, key: bytes, *, verify_checksums: bool = False) -> bytes | None:
        """The value of `key`, if it is there."""

    def put(self, key: bytes, value: bytes) -> None:
        """Write one row, unsynced."""

    def write_batch(self, *, sync: bool = False) -> AbstractContextManager[Any]:
        """Rows to put and delete, written all together when the block ends."""

    def iterator(self, **options: Any) -> AbstractContextManager[Iterator[Any]]:
        """Rows in order of key."""

    def close(self) -> None:
        """Give back what it holds."""


def at(height: int) -> bytes:
    """A height as rows have it."""
    return height.to_bytes(8, "big")


class Store:
    """A LevelDB folder, which only one process can have open; or a database opened elsewhere.

    Pruning and state sync work on its `database` with the prefixes above.
    Every read checks LevelDB's checksums, which it does not do unless told to; damage that shows
    after opening raises `plyvel.CorruptionError` and must stop the node.
    """

    def __init__(self, place: Path | Database) -> None:
        self._folder = place if isinstance(place, Path) else None
        self.database = _open(place) if isinstance(place, Path) else place
        if self._folder is not None:
            self._check_whole()
        if self._get(DIGESTS) is None:
            self._index_digests()

    def close(self) -> None:
        """Give the folder back."""
        self.database.close()

    def _get(self, key: bytes) -> bytes | None:
        return self.database.get(key, verify_checksums=True)

    def _check_whole(self) -> None:
        """No block is missing below the head; raises `Refused("store.corrupt")`.

        At a power cut LevelDB may lose the end of a log that was never synced and still have the
        next log, in which a later block stands. Up to the height of the last sync all is there.
        """
        head = self.head()
        first = max(self.base(), int.from_bytes(self._get(SYNCED) or b"", "big"))
        for height in range(first, 0 if head is None else head.height):
            if self._get(HEADER + at(height)) is None:
                self.close()
                raise Refused(
                    "store.corrupt",
                    f"expected every block below the newest one, found that of height {height} "
                    "missing. Move the folder away: the node fetches the chain from its peers "
                    "again",
                )

    def _index_digests(self) -> None:
        """Find headers by digest also in a store of a release that could not: 10 s a million."""
        with self.database.iterator(prefix=HEADER, verify_checksums=True) as rows:
            for key, data in rows:
                self.database.put(DIGEST + unpack(Header, data).digest, key[len(HEADER) :])
        self.database.put(DIGESTS, b"")

    # What is there

    def head(self) -> Head | None:
        """The newest executed block; None before genesis is written."""
        data = self._get(HEAD)
        return None if data is None else unpack(Head, data)

    def block(self, height: int) -> Block | None:
        """The decided payload at `height`; genesis has none."""
        data = self._get(BLOCK + at(height))
        return None if data is None else unpack(Block, data)

    def blocks(self, first: int, last: int) -> Iterator[Block]:
        """The decided payloads of heights `first` to `last`, as far as there are any."""
        for height in range(first, last + 1):
            block = self.block(height)
            if block is None:
                return
            yield block

    def row(self, height: int) -> BlockRow | None:
        """What execution made of the block at `height`."""
        data = self._get(ROW + at(height))
        return None if data is None else unpack(BlockRow, data)

    def header(self, height: int) -> Header | None:
        """The header of `height`: also where the block is pruned."""
        data = self._get(HEADER + at(height))
        return None if data is None else unpack(Header, data)

    def base(self) -> int:
        """The first height whose state was ever here: 0, or that of the snapshot synced last."""
        return int.from_bytes(self._get(BASE) or b"", "big")

    def kept(self) -> Kept:
        """What pruning has left; everything where it never ran."""
        data = self._get(KEPT)
        return Kept(0, (), 0) if data is None else unpack(Kept, data)

    def certificate(self, height: int) -> CheckpointCertificate | None:
        """The checkpoint certificate of `height`."""
        data = self._get(CERTIFICATE + at(height))
        return None if data is None else unpack(CheckpointCertificate, data)

    def certified(self, at_most: int | None = None) -> CheckpointCertificate | None:
        """The newest checkpoint certificate, or the newest not above a height."""
        stop = CERTIFICATE + (at(at_most) if at_most is not None else b"\xff" * 9)
        with self.database.iterator(
            start=CERTIFICATE,
            stop=stop,
            include_stop=True,
            reverse=True,
            include_key=False,
            verify_checksums=True,
        ) as rows:
            data = next(rows, None)
        return None if data is None else unpack(CheckpointCertificate, data)

    def place(self, transaction: bytes) -> Place | None:
        """Where the transaction with this id was executed."""
        data = self._get(TRANSACTION + transaction)
        return None if data is None else unpack(Place, data)

    def places(self, digits: str) -> Iterator[tuple[Digest, Place]]:
        """Executed transactions whose id begins with these hexadecimal digits, in order."""
        for id, data in self._beginning(TRANSACTION, digits):
            yield id, unpack(Place, data)

    def heights(self, digits: str) -> Iterator[tuple[Digest, int]]:
        """Headers by digests that begin with these hexadecimal digits, in order."""
        for digest, data in self._beginning(DIGEST, digits):
            yield digest, int.from_bytes(data, "big")

    def _beginning(self, table: bytes, digits: str) -> Iterator[tuple[bytes, bytes]]:
        start = bytes.fromhex(digits + "0" * (len(digits) % 2))
        with self.database.iterator(
            start=table + start, stop=table + b"\xff" * 33, verify_checksums=True
        ) as rows:
            for row, data in rows:
                name = bytes(row[len(table) :])
                if not name.hex().startswith(digits):
                    return
                yield name, data

    def node(self, key: sparse.NodeKey) -> bytes:
        """A stored node of the state tree; its absence is a damaged store."""
        data = self._get(NODE + key)
        if data is None:
            raise sparse.DamagedNode(f"state node {key.hex()} is missing")
        return data

    def history_node(self, level: int, index: int) -> bytes:
        """A complete node of the history tree."""
        data = self._get(HISTORY + bytes((level,)) + at(index))
        assert data is not None, f"history node {level}/{index} is missing"
        return data

    def read(self, root: sparse.Root, key: bytes) -> bytes | None:
        """The bytes of a state key under `root`.

        Two rows tell what was last written at the root's height or before; the tree is asked for
        the rest: what was written anew later, or again as it was, which leaves no leaf.
        """
        height = self._get(KEY + key)
        if height is None:  # the state forgets nothing, so it was never there
            return None
        if int.from_bytes(height, "big") <= root.height:
            leaf = self._get(NODE + sparse.leaf_key(height, key))
            if leaf is not None:
                return sparse.split_leaf(leaf)[1]
        return sparse.get(self.node, root, key)

    def keys(
        self, kind: str, prefix: tuple[str | int, ...], arity: int, begins: bytes = b""
    ) -> Iterator[bytes]:
        """State keys of records of `kind` whose key of `arity` parts starts with `prefix`.

        `begins` are the first encoded bytes of the part after it. In order of their bytes,
        including keys written by blocks not certified yet.
        """
        start = KEY + state_key_prefix(kind, prefix, arity) + begins
        with self.database.iterator(
            prefix=start, include_value=False, verify_checksums=True
        ) as rows:
            for row in rows:
                yield bytes(row[1:])

    def evidence(self) -> list[Evidence]:
        """Proofs of faulty validators, one for each at most."""
        with self.database.iterator(prefix=EVIDENCE, include_key=False) as rows:
            return [unpack(Evidence, data) for data in rows]

    @property
    def journal(self) -> Binding | None:
        """The journal that this store is used with; None if it was never used."""
        data = self._get(JOURNAL)
        return None if data is None else unpack(Binding, data)

    # What is written

    def write_block(
        self,
        head: Head,
        row: BlockRow,
        block: Block | None,
        state: sparse.Update,
        history: list[tree.Node],
    ) -> None:
        """Everything that one block leaves, at once or not at all.

        Not synced: what consensus delivered since the last `sync` is in the journal, which
        re-executes it.
        """
        height = at(head.height)
        with self.database.write_batch() as batch:
            if block is not None:
                batch.put(BLOCK + height, pack(block))
            batch.put(HEADER + height, pack(row.header))
            batch.put(DIGEST + head.header, height)
            batch.put(ROW + height, pack(row))
            for index, receipt in enumerate(row.receipts):
                batch.put(TRANSACTION + receipt.transaction, pack(Place(head.height, index)))
            for key in row.writes:
                batch.put(KEY + key, height)
            for node_key, node in state.nodes.items():
                batch.put(NODE + node_key, node)
            for first in range(0, len(state.stale), STALE_KEYS_MAX):
                part = (first // STALE_KEYS_MAX).to_bytes(4, "big")
                keys = state.stale[first : first + STALE_KEYS_MAX]
                batch.put(STALE + height + part, b"".join(keys))
            for level, index, digest in history:
                batch.put(HISTORY + bytes((level,)) + at(index), digest)
            batch.put(HEAD, pack(head))

    def write_certificate(self, certificate: CheckpointCertificate) -> None:
        """Keep a checkpoint certificate; the journal must have it on disk already.

        Else a power loss could leave a store that seems to know more than its journal.
        """
        self.database.put(CERTIFICATE + at(certificate.height), pack(certificate))

    def write_evidence(self, evidence: Evidence) -> None:
        """Keep the proof that a validator is faulty: of each one, the first of the newest epoch.

        A later epoch may be that of another key, of which an earlier proof says nothing.
        """
        key = EVIDENCE + evidence.validator.encode()
        data = self._get(key)
        if data is None or unpack(Evidence, data).epoch < evidence.epoch:
            self.database.put(key, pack(evidence))

    def bind_journal(self, identity: bytes) -> None:
        """Tie this store to the journal of `identity`: with no other may it be used again."""
        bound = self.journal
        if bound is None or bound.identity != identity:
            certified = self.certified()
            since = 0 if certified is None else certified.height
            with self.database.write_batch(sync=True) as batch:
                batch.put(JOURNAL, pack(Binding(identity, since)))

    def compact(self) -> None:
        """Give the disk back what deleted rows took: all that is left is written anew.

        Twice, for LevelDB merges the tables that it had before it wrote its buffer to one more. Its
        Python binding merges none unless it is told from where to where.
        """
        assert isinstance(self.database, plyvel.DB), "only a folder has room to give back"
        for _ in range(2):
            self.database.compact_range(start=b"", stop=b"\xff")

    def sync(self) -> None:
        """On return everything written so far is on disk.

        LevelDB syncs the log that it writes now; one that it has just left, and whose content is
        not in a table yet, it does not.
        """
        head = self.head()
        if self._folder is not None:
            for log in self._folder.glob("*.log"):
                with suppress(FileNotFoundError):  # its content has reached a table meanwhile
                    sync_file(log)
            sync_folder(self._folder)
        # Last, for it vouches for what came before: else it could be there and an older log not.
        with self.database.write_batch(sync=True) as batch:
            batch.put(SYNCED, at(0 if head is None else head.height))


def _open(folder: Path) -> Database:
    """LevelDB in `folder`; raises `Refused("store.locked" | "store.corrupt")`."""
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(folder.parent)
    try:
        database: Database = plyvel.DB(
            str(folder),
            create_if_missing=True,
            lru_cache_size=CACHE_BYTES,
            write_buffer_size=WRITE_BUFFER_BYTES,
            compression=None,  # digests and signatures do not shrink: 6 % less for half of the work
            bloom_filter_bits=10,
            paranoid_checks=True,  # else a damaged log is read on past its gap
        )
    except plyvel.IOError as error:
        if is_full(error):
            raise
        raise Refused(
            "store.locked",
            f"expected {folder} readable and used by no other process, found: {say(error)}",
        ) from error
    except plyvel.CorruptionError as error:
        raise Refused(
            "store.corrupt",
            f"expected sound files in {folder}, found: {error}. Move the folder away: the "
            "node fetches the chain from its peers again",
        ) from error
    return database


def state_key_prefix(kind: str, prefix: tuple[str | int, ...], arity: int) -> bytes:
    """The first bytes of every state key of `kind` with `arity` parts that starts with `prefix`."""
    array = encode(("",) * (arity + 1))[:1]  # the header of an array of kind and parts
    return array + b"".join(encode(part) for part in (kind, *prefix))
