"""The access log: a synced file that only grows, and the Merkle tree over its lines.

An answer that shows what is restricted leaves after its lines are on disk; one sync serves all that
wait for it. Lines have one length, so that any of them is found without an index: 256 bytes each,
which is a gigabyte for four million. Nothing is ever deleted here. Of the tree, the nodes over
whole chunks of lines are kept in memory, a thousandth of the file; those below are made of the
lines when they are asked for.
"""

import asyncio
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from zlib import crc32

import structlog

from node.wire.disk import DISK_FREE_BYTES_MIN, replace_file, sync_folder, write_at
from vm import tree
from vm.accesslog import LOG_ID_BYTES, AccessLine
from vm.refusal import Refused
from vm.shape import Digest, pack

FOLDER = "access"  # of a validator's store
FILE = "lines"
IDENTITY = "identity"  # drawn when the log was begun: one that is lost does not go on as another
FRAME_BYTES = 256  # of one line: length, packed line, zeros, where its group begins, checksum
LENGTH_BYTES = 2
GROUP_BYTES = 8
CHECK_BYTES = 4
LINE_BYTES_MAX = FRAME_BYTES - LENGTH_BYTES - GROUP_BYTES - CHECK_BYTES  # the longest takes 218
CHUNK_LEVEL = 8  # nodes from here up are kept: one for 256 lines
CHUNK_LINES = 1 << CHUNK_LEVEL
GROUP_MAX = 1_024  # lines that one sync writes, and so the most that a crash may tear
# Readers cannot take from the validator what it needs to go on, nor as much again.
FREE_BYTES_MIN = 2 * DISK_FREE_BYTES_MIN
WAITING_MAX = 4_096  # lines that wait to be written

log = structlog.get_logger()

_Wait: TypeAlias = tuple[Sequence[AccessLine], asyncio.Future[None]]  # done once they are on disk


@dataclass(frozen=True, slots=True)
class Page:
    """Lines from a place on, each with its path under the root over the first `size` lines.

    `consistency` shows that the lines before the page's first are the beginning of those.
    """

    size: int
    root: Digest
    lines: tuple[bytes, ...]
    paths: tuple[tuple[Digest, ...], ...]
    consistency: tuple[Digest, ...]


class Logbook:
    """One validator's access log. One process has it at a time: it lies in the locked store."""

    def __init__(self, folder: Path) -> None:
        """Open it, or make it; what a crash has left of the last group of lines is cut off.

        Raises `Refused("access.damaged")` if its identity or a line of an earlier group is damaged,
        and OSError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self.identity = _identify(folder)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._nodes: dict[tuple[int, int], Digest] = {}
        self._frontier = tree.EMPTY
        self._waiting: list[_Wait] = []
        self._held = 0  # lines in `_waiting`
        self._writer: asyncio.Task[None] | None = None
        self._broken = ""  # why nothing is written any more, once nothing is
        self._bug: Exception | None = None
        self._stopped = asyncio.Event()
        try:
            self._recover()
            os.fsync(self._file)
            sync_folder(folder)
        except BaseException:
            os.close(self._file)
            raise

    @property
    def size(self) -> int:
        """How many lines are on disk."""
        return self._frontier.size

    @property
    def frontier(self) -> tree.Frontier:
        """Size and root of the lines that are on disk."""
        return self._frontier

    async def append(self, lines: Sequence[AccessLine]) -> None:
        """Return once the lines are on disk; raises `Refused("reader.unlogged")`.

        More than a group's worth is written as several: no crash may tear more than one.
        """
        for first in range(0, len(lines), GROUP_MAX):
            await self._append(lines[first : first + GROUP_MAX])

    async def _append(self, lines: Sequence[AccessLine]) -> None:
        if self._broken or self._held + len(lines) > WAITING_MAX:
            raise _unlogged(self._broken or f"more than {WAITING_MAX} lines wait")
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, written))
        self._held += len(lines)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(written)

    async def failed(self) -> None:
        """Wait for ever, or raise the bug of ours that has ended the writing."""
        await self._stopped.wait()
        assert self._bug is not None, "nothing else stops the writing"
        raise self._bug

    async def flush(self) -> None:
        """Return once nothing waits to be written."""
        if self._writer is not None:
            await asyncio.shield(self._writer)

    def close(self) -> None:
        """Give the file back; nothing may be under way."""
        os.close(self._file)

    def root(self, size: int) -> Digest:
        """The root over the first `size` lines; may read the disk."""
        return tree.frontier_at(self._reader(), size).root

    def consistency(self, old: int, new: int) -> tuple[Digest, ...]:
        """The path from the tree of the first `old` lines to that of `new`; may read the disk."""
        return tree.consistency_path_at(self._reader(), old, new)

    def page(self, first: int, limit: int, size: int) -> Page:
        """At most `limit` lines from `first` on, of the first `size`; reads the disk."""
        lines = tuple(self._lines(first, min(limit, size - first)))
        read = self._reader()
        return Page(
            size=size,
            root=tree.frontier_at(read, size).root,
            lines=lines,
            paths=tuple(
                tree.inclusion_path_at(read, first + place, size) for place in range(len(lines))
            ),
            consistency=tree.consistency_path_at(read, first, size),
        )

    # Writing

    async def _write(self) -> None:
        """Write what waits, group by group, until nothing does; nobody waits for what failed."""
        while self._waiting:
            group = self._take()
            try:
                await self._keep([line for lines, _ in group for line in lines])
            except OSError as error:
                _refuse(group, error.strerror or "its disk failed")
            except Exception as bug:  # noqa: BLE001 - of whatever kind: `failed` raises it
                self._broken, self._bug = "the writing of the log failed", bug
                _refuse([*group, *self._waiting], self._broken)
                self._waiting.clear()
                self._stopped.set()
            else:
                for _, written in group:
                    written.set_result(None)
        self._writer = None

    def _take(self) -> list[_Wait]:
        """What one sync writes of what waits."""
        group = [self._waiting.pop(0)]
        count = len(group[0][0])
        while self._waiting and count + len(self._waiting[0][0]) <= GROUP_MAX:
            group.append(self._waiting.pop(0))
            count += len(group[-1][0])
        self._held -= count
        return group

    async def _keep(self, lines: Sequence[AccessLine]) -> None:
        packed = [pack(line) for line in lines]
        await asyncio.to_thread(self._store, packed)
        for line in packed:
            self._add(line)

    def _store(self, packed: Sequence[bytes]) -> None:
        """Write and sync; on failure nothing of it stays, or nothing more is ever written."""
        if shutil.disk_usage(self._path.parent).free < FREE_BYTES_MIN:
            raise OSError(errno.ENOSPC, f"fewer than {FREE_BYTES_MIN} bytes are free")
        end = self.size * FRAME_BYTES
        try:
            write_at(self._file, b"".join(_frame(line, self.size) for line in packed), end)
            os.fsync(self._file)
        except OSError:
            try:
                os.ftruncate(self._file, end)
                os.fsync(self._file)
            except OSError:
                self._broken = "its disk failed"
            raise

    def _add(self, line: bytes) -> None:
        self._frontier, nodes = tree.append(self._frontier, line)
        self._nodes |= {(level, i): found for level, i, found in nodes if level >= CHUNK_LEVEL}

    # Reading

    def _recover(self) -> None:
        size = os.fstat(self._file).st_size
        whole = size // FRAME_BYTES
        for frame in self._stored(whole):
            line = _unframe(frame)
            if line is None:
                self._require_torn(whole)
                break
            self._add(line)
        if size > self.size * FRAME_BYTES:
            log.warning("access.cut", lines=self.size, bytes_cut=size - self.size * FRAME_BYTES)
            os.ftruncate(self._file, self.size * FRAME_BYTES)

    def _stored(self, count: int) -> Iterator[bytes]:
        """The first `count` frames, read chunk by chunk."""
        for first in range(0, count, CHUNK_LINES):
            yield from self._frames(first, min(CHUNK_LINES, count - first))

    def _require_torn(self, whole: int) -> None:
        """Refuse damage after the lines read so far that the last write cannot have left.

        A line further on that was written with a later group says that what is here was synced.
        """
        torn = whole - self.size <= GROUP_MAX
        later = self._frames(self.size + 1, whole - self.size - 1) if torn else ()
        if not torn or any(_unframe(frame) and _group(frame) > self.size for frame in later):
            raise Refused(
                "access.damaged",
                f"{self._path}: expected line {self.size} as it was written, found it damaged: put "
                "the file back from a backup, or move it away and tell the auditors",
            )

    def _frames(self, first: int, count: int) -> list[bytes]:
        data = os.pread(self._file, count * FRAME_BYTES, first * FRAME_BYTES)
        return [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)]

    def _lines(self, first: int, count: int) -> list[bytes]:
        lines = [_unframe(frame) for frame in self._frames(first, count)]
        found = [line for line in lines if line is not None]
        if len(found) != count:
            raise Refused("access.damaged", f"{self._path}: expected {count} lines from {first} on")
        return found

    def _reader(self) -> tree.ReadNode:
        """Nodes of the tree; those of a chunk are made of its lines at once, and held."""
        held: dict[tuple[int, int], Digest] = {}

        def read(level: int, index: int) -> Digest:
            if level >= CHUNK_LEVEL:
                return self._nodes[level, index]
            if (level, index) not in held:
                first = (index << level) & -CHUNK_LINES
                frontier = tree.EMPTY
                for line in self._lines(first, min(CHUNK_LINES, self.size - first)):
                    frontier, nodes = tree.append(frontier, line)
                    held.update({(at, (first >> at) + i): found for at, i, found in nodes})
            return held[level, index]

        return read


def _identify(folder: Path) -> bytes:
    """The identity of the log in `folder`; a new one where there is no log yet."""
    path = folder / IDENTITY
    if not path.exists() and not (folder / FILE).exists():
        replace_file(path, secrets.token_bytes(LOG_ID_BYTES))
    identity = path.read_bytes() if path.exists() else b""
    if len(identity) != LOG_ID_BYTES:
        raise Refused("access.damaged", f"{path}: expected the identity of {FILE} beside it")
    return identity


def _frame(line: bytes, group: int) -> bytes:
    """A line as it stands in the file, written with the group that begins at line `group`."""
    assert len(line) <= LINE_BYTES_MAX, f"a line takes {len(line)} bytes"
    text = (len(line).to_bytes(LENGTH_BYTES, "big") + line).ljust(
        LENGTH_BYTES + LINE_BYTES_MAX, b"\0"
    )
    body = text + group.to_bytes(GROUP_BYTES, "big")
    return body + crc32(body).to_bytes(CHECK_BYTES, "big")


def _group(frame: bytes) -> int:
    """Where the group begins that a line was written with."""
    return int.from_bytes(frame[-GROUP_BYTES - CHECK_BYTES : -CHECK_BYTES], "big")


def _unframe(frame: bytes) -> bytes | None:
    """The line, or None if these are not the bytes that were written."""
    body, check = frame[:-CHECK_BYTES], frame[-CHECK_BYTES:]
    length = int.from_bytes(body[:LENGTH_BYTES], "big")
    if len(frame) != FRAME_BYTES or crc32(body) != int.from_bytes(check, "big") or not length:
        return None
    return body[LENGTH_BYTES : LENGTH_BYTES + length]


def _refuse(group: Sequence[_Wait], reason: str) -> None:
    for _, written in group:
        written.set_exception(_unlogged(reason))


def _unlogged(reason: str) -> Refused:
    return Refused("reader.unlogged", f"expected the read to be noted first, found that {reason}")
