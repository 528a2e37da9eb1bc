"""The synced journal: what a replica has signed, on disk before anybody hears of it.

Its format and the rule for torn tails are `consensus.journal`'s; here are the files. One process
holds the journal at a time, by a lock that the operating system drops with the process.
"""

import fcntl
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from consensus.journal import Entry, frame, read_frames
from node.wire.disk import sync_folder
from vm.refusal import Refused

SEGMENT_BYTES_MAX = 16 * 1024 * 1024  # before the journal is made anew; a restart reads it whole
LOCK = "lock"
SEGMENT = "journal"
FRESH = "journal.new"
IDENTITY = "identity"
IDENTITY_BYTES = 16  # drawn at random: no two journals have the same


class Journal:
    """One append-only file, replaced whole when old entries need not be remembered."""

    def __init__(self, folder: Path) -> None:
        """Open and lock; raises `Refused("journal.locked" | "journal.damaged")`."""
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        self._folder = folder
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Refused(
                "journal.locked",
                f"expected no other process on {folder}, found one: stop it first",
            ) from error
        path = folder / SEGMENT
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.identity = _identity(folder)
            sync_folder(folder)
            self.entries, self.bytes = self._load(path)
        except BaseException:
            self.close()
            raise
        self._kept = 0  # bytes after the last replacement
        self._dirty = False

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

    def _load(self, path: Path) -> tuple[list[Entry], int]:
        data = path.read_bytes()
        entries, good = read_frames(data)
        if good < len(data):  # a tail that was never synced: nothing that relied on it left
            os.truncate(self._file, good)
            os.fsync(self._file)
        return list(entries), good


def _identity(folder: Path) -> bytes:
    """What tells this journal from any other: drawn when the folder is new."""
    path = folder / IDENTITY
    if not path.exists():
        fresh = folder / f"{IDENTITY}.new"
        with fresh.open("wb") as file:
            file.write(secrets.token_bytes(IDENTITY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    return path.read_bytes()


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
