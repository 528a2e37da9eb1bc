"""A disk of memory that forgets what was not synced, as a real one may at a power cut.

Two files matter: the database under the store, and the journal. Either may keep more of its
unsynced part than the other, because the system writes them back when it likes.
"""

import errno
import os
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from consensus.journal import Entry, read_frames
from node.validator.journal import IDENTITY_BYTES
from node.validator.recover import check_entries
from node.validator.store import Store
from vm.refusal import Refused

RANGE = frozenset({"prefix", "start", "stop", "include_start", "include_stop"})
NEAR_SHARE = 0.5  # of power cuts: some bytes before or after the end of a record
Undo = list[tuple[bytes, bytes | None]]  # keys of one batch with their values before it


def full() -> OSError:
    """What a write finds when there is no room."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class MemoryDatabase:
    """The part of `plyvel.DB` that the store uses.

    A batch is made as a whole or not at all, and batches survive a crash in the order in which they
    were written: a log, as LevelDB's is. A synced batch makes everything before it durable.
    """

    def __init__(self) -> None:
        self.full = False
        self.room: int | None = None  # batches until one finds no room, if that is near
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []  # sorted
        self._unsynced: list[Undo] = []

    @property
    def unsynced(self) -> int:
        """How many batches a crash may lose."""
        return len(self._unsynced)

    def get(self, key: bytes, *, verify_checksums: bool = False) -> bytes | None:
        """The value of `key`, if it is there."""
        return self._rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write one row, unsynced."""
        self._write([(key, value)])

    def delete(self, key: bytes) -> None:
        """Remove one row, unsynced."""
        self._write([(key, None)])

    @contextmanager
    def write_batch(self, *, sync: bool = False) -> Iterator["Batch"]:
        """Rows to put and delete, written all together when the block ends."""
        batch = Batch()
        yield batch
        self._write(batch.changes)
        if sync:
            self._unsynced.clear()

    @contextmanager
    def iterator(self, **options: Any) -> Iterator[Iterator[Any]]:
        """Rows in order of key, as they were when the iteration began; plyvel's options."""
        keys = self._range(**{name: options[name] for name in options if name in RANGE})
        rows = [(key, self._rows[key]) for key in keys]
        if options.get("reverse", False):
            rows.reverse()
        if not options.get("include_value", True):
            yield iter([key for key, _ in rows])
        elif not options.get("include_key", True):
            yield iter([value for _, value in rows])
        else:
            yield iter(rows)

    def open(self) -> None:
        """Make durable what a process has left that was killed.

        LevelDB writes what it finds in its log into a table, and syncs that.
        """
        self._unsynced.clear()

    def close(self) -> None:
        """Nothing is held."""

    def crash(self, kept: int) -> None:
        """Lose all unsynced batches but the oldest `kept`."""
        while len(self._unsynced) > kept:
            for key, before in reversed(self._unsynced.pop()):
                self._set(key, before)
        self._unsynced.clear()

    def _write(self, changes: list[tuple[bytes, bytes | None]]) -> None:
        if self.full or self.room == 0:
            self.room = None
            raise full()
        if self.room is not None:
            self.room -= 1
        undo: Undo = []
        for key, value in changes:
            undo.append((key, self._rows.get(key)))
            self._set(key, value)
        self._unsynced.append(undo)

    def _set(self, key: bytes, value: bytes | None) -> None:
        known = key in self._rows
        if value is not None:
            self._rows[key] = value
            if not known:
                insort(self._keys, key)
        elif known:
            del self._rows[key]
            del self._keys[bisect_left(self._keys, key)]

    def _range(
        self,
        *,
        prefix: bytes | None = None,
        start: bytes | None = None,
        stop: bytes | None = None,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> list[bytes]:
        if prefix is not None:
            start, stop = prefix, _after(prefix)
        first, last = 0, len(self._keys)
        if start is not None:
            first = (bisect_left if include_start else bisect_right)(self._keys, start)
        if stop is not None:
            last = (bisect_right if include_stop else bisect_left)(self._keys, stop)
        return self._keys[first:last]


class Batch:
    """The changes of one `write_batch`."""

    def __init__(self) -> None:
        self.changes: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self.changes.append((key, value))

    def delete(self, key: bytes) -> None:
        """Remove a row."""
        self.changes.append((key, None))


class JournalFile:
    """The bytes of a journal: what is synced, and what the system has yet to write."""

    def __init__(self) -> None:
        self.full = False
        self.synced = bytearray()
        self.unsynced = bytearray()
        self.dirty = False  # whether the process at hand has written since its last sync
        self._ends: list[int] = []  # of the unsynced records

    def read(self) -> tuple[Sequence[Entry], int]:
        """What a process finds, and up to which byte it is good; raises `Refused`."""
        return read_frames(bytes(self.synced + self.unsynced))

    def open(self) -> Sequence[Entry]:
        """Cut off a torn tail, and sync the rest: whoever wrote it may have been killed before."""
        entries, good = self.read()
        self.truncate(good)
        self.sync()
        return entries

    def append(self, data: bytes) -> None:
        """Write; a full disk takes a part of it."""
        self.dirty = True
        if self.full:
            self.unsynced += data[: len(data) // 2]
            raise full()
        self.unsynced += data
        self._ends.append(len(self.unsynced))

    def torn(self, rng: Random) -> int:
        """How many unsynced bytes a power cut leaves: any number, or nearly a whole record."""
        if self._ends and rng.random() < NEAR_SHARE:
            return min(len(self.unsynced), max(0, rng.choice(self._ends) + rng.randint(-2, 1)))
        return rng.randint(0, len(self.unsynced))

    def truncate(self, length: int) -> None:
        """Cut off what lies beyond a length."""
        del self.unsynced[max(0, length - len(self.synced)) :]
        del self.synced[length:]

    def damage(self, rng: Random) -> bytes:
        """The synced bytes with one bit turned."""
        data = bytearray(self.synced)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    def sync(self) -> None:
        """On return everything is on disk."""
        self.synced += self.unsynced
        self._forget()

    def crash(self, kept: int, zeros: int) -> None:
        """Lose the unsynced bytes but the first `kept`; `zeros` follow where a page was due."""
        self.synced += self.unsynced[:kept] + bytes(zeros)
        self._forget()

    def replace(self, data: bytes) -> None:
        """Another content, synced, in one step: a new file took the name."""
        if self.full:
            raise full()
        self.synced = bytearray(data)
        self._forget()

    def _forget(self) -> None:
        self.dirty = False
        self.unsynced.clear()
        self._ends.clear()


@dataclass(slots=True)
class Disk:
    """What outlives a process."""

    database: MemoryDatabase = field(default_factory=MemoryDatabase)
    journal: JournalFile = field(default_factory=JournalFile)
    identity: bytes = bytes(IDENTITY_BYTES)  # of the journal

    def is_whole(self) -> bool:
        """Whether a real validator would take the journal for the one that goes with the store."""
        entries, _ = self.journal.read()
        try:
            check_entries(self.identity, entries, Store(self.database))
        except Refused:
            return False
        return True


def _after(prefix: bytes) -> bytes | None:
    """The first key after all that start with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else None
