"""The synced journal: what a replica has signed, on disk before anybody hears of it.

Its format and the rule for torn tails are `consensus.journal`'s; here are the files. A journal is
made together with the key whose promises it holds, and never by a node that finds none: a new one
in place of a lost one would let the key vote again (tendermint/tendermint#3418). One process holds
it at a time, by a lock that the operating system drops with the process.
"""

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from consensus.journal import Entry, Stable, frame, read_frames
from node.wire.disk import sync_file, sync_folder
from vm.refusal import Refused

SEGMENT_BYTES_MAX = 16 * 1024 * 1024  # before the journal is made anew; a restart reads it whole
FOLDER = "journal"  # of a validator's store
LOCK = "lock"
SEGMENT = "journal"
FRESH = "journal.new"
IDENTITY = "identity"
IDENTITY_BYTES = 16  # drawn at random: no two journals have the same


def create_journal(folder: Path) -> bytes:
    """Make an empty journal; returns its identity.

    Raises `Refused("journal.exists")`. On return it is on disk. A crash before leaves no identity,
    and so no journal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / IDENTITY).exists() or (folder / SEGMENT).exists():
        raise Refused("journal.exists", f"{folder}: expected no journal there, found one")
    identity = secrets.token_bytes(IDENTITY_BYTES)
    for name, data in ((SEGMENT, b""), (IDENTITY, identity)):
        fresh = folder / f"{name}.new"
        fresh.write_bytes(data)
        sync_file(fresh)
        fresh.rename(folder / name)
        sync_folder(folder)
    sync_folder(folder.parent)
    return identity


def read_journal(folder: Path) -> tuple[bytes, Sequence[Entry], int]:
    """Identity, entries oldest first, and the length up to which the segment is good.

    Raises `Refused("journal.lost" | "journal.damaged")`.
    """
    try:
        identity = (folder / IDENTITY).read_bytes()
        data = (folder / SEGMENT).read_bytes()
    except FileNotFoundError as error:
        raise Refused(
            "journal.lost", f"expected a journal in {folder}, found no {error.filename}"
        ) from error
    if len(identity) != IDENTITY_BYTES:
        raise Refused(
            "journal.damaged",
            f"{folder / IDENTITY}: expected {IDENTITY_BYTES} bytes, found {len(identity)}",
        )
    entries, good = read_frames(data)
    return identity, entries, good


def newest_stable(entries: Iterable[Entry]) -> int:
    """The height of the newest stable checkpoint that a journal holds; 0 if none."""
    return max((item.certificate.height for item in entries if isinstance(item, Stable)), default=0)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep every other process off the journal; raises `Refused("journal.locked")`."""
    lock = _lock(folder)
    try:
        yield
    finally:
        os.close(lock)


class Journal:
    """One append-only file, replaced whole when old entries need not be remembered."""

    def __init__(self, folder: Path) -> None:
        """Open and lock; raises `Refused("journal.locked" | "journal.lost" | "journal.damaged")`.

        A torn tail is cut off: nothing that relied on it has left. The rest is synced now: a
        process that was killed may not have come to it, and what is read here is said again.
        """
        self._folder = folder
        self._lock = _lock(folder)
        try:
            self.identity, entries, self.bytes = read_journal(folder)
            self._file = os.open(folder / SEGMENT, os.O_RDWR | os.O_APPEND)
        except BaseException:
            os.close(self._lock)
            raise
        self.entries = list(entries)
        self._kept = 0  # bytes after the last replacement
        self._dirty = False
        try:
            if os.fstat(self._file).st_size > self.bytes:
                os.truncate(self._file, self.bytes)
            os.fsync(self._file)
            sync_folder(folder)
        except BaseException:
            self.close()
            raise

    @property
    def oversized(self) -> bool:
        """Whether it has grown enough to be made anew.

        What must be remembered may itself be large, so twice of it is not oversized: else every
        turn would write it again.
        """
        return self.bytes > max(SEGMENT_BYTES_MAX, 2 * self._kept)

    def append(self, entry: Entry) -> None:
        """Write an entry; it counts only after `sync`."""
        data = frame(entry)
        _write_all(self._file, data)
        self.bytes += len(data)
        self._dirty = True

    @property
    def dirty(self) -> bool:
        """Whether something was appended since the last `sync`."""
        return self._dirty

    def sync(self) -> None:
        """On return every appended entry is on disk."""
        os.fdatasync(self._file)
        self._dirty = False

    def replace(self, entries: Iterable[Entry]) -> None:
        """Start anew with `entries`: all that must still be remembered."""
        fresh = self._folder / FRESH
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        data = b"".join(frame(entry) for entry in entries)
        _write_all(file, data)
        os.fsync(file)
        fresh.rename(self._folder / SEGMENT)
        sync_folder(self._folder)
        os.close(self._file)
        self._file = file
        self.bytes = self._kept = len(data)
        self._dirty = False

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _lock(folder: Path) -> int:
    """A file that this process alone holds; where there is no folder, there is no journal."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError as error:
        raise Refused("journal.lost", f"expected a journal in {folder}, found no folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Refused(
            "journal.locked", f"expected no other process on {folder}, found one: stop it first"
        ) from error
    return lock


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
