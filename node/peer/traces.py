"""Training as it went, on the disk of the hospital: to go on after a crash, and to answer auditors.

    traces/<task>/<round>/head           whose training this is, and until when it is kept
    traces/<task>/<round>/segments       one entry for each segment done, appended
    traces/<task>/<round>/snapshot-7     weights and optimizer state after 7 segments, int32

Nothing here is trusted when it is read: entries are chained by digests, and a snapshot must be the
one that its segment's entry names. So nothing has to be synced while training runs: what a power
loss tears is trained again. Every `Head.every`-th snapshot stays, so that room is bounded, and the
newest does, to go on from; what lies between is made again bit by bit from the one before it.
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import ClassVar

import numpy as np

from fl.trace import Segment
from fl.train import Snapshot
from fl.weights import digest_ints
from node.wire.disk import replace_file, sync_file, sync_folder
from vm.digest import DIGEST_BYTES, OPTIMIZER, WEIGHTS
from vm.refusal import Refused
from vm.shape import Count, Digest, Name, TimeMs, pack, unpack

FOLDER = "traces"  # in the peer's store
HEAD, SEGMENTS, SNAPSHOT = "head", "segments", "snapshot-"
SHARE_OF_ROUND = 4  # of all room a round takes up to a quarter, so that three earlier ones stay
MOVE_BYTES = 8
INT_BYTES = 4
LOSS_BYTES = 8


@dataclass(frozen=True, slots=True)
class Head:
    """Whose training a trace is; heads equal but for `every` are one, which goes on as it began.

    `base` commits to the weights that the round starts from, `data` to the training rows, `recipe`
    to all else on the chain that decides the outcome; of a site's own training loop `script` and
    `environment` name what ran. Each snapshot has `weights` and `state` numbers; every
    `every`-th is kept, at least until `until_ms` of the chain's time.
    """

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    trainer: Name
    dataset: Name
    beacon: Digest
    base: Digest
    data: Digest
    recipe: Digest
    snapshot_steps: Count
    segments: Count
    weights: Count
    state: Count
    script: Digest | None
    environment: Digest | None
    until_ms: TimeMs
    every: Count

    def is_of(self, training: "Head") -> bool:
        """Whether the trace is one of this training, whatever room there was for it."""
        return self == replace(training, every=self.every)

    @property
    def snapshot_bytes(self) -> int:
        """Of one snapshot on disk."""
        return INT_BYTES * (self.weights + self.state)


class Trace:
    """One round's training on disk; its methods block, and one thread at a time uses it."""

    def __init__(self, folder: Path, head: Head) -> None:
        self._folder = folder
        self.head = head
        self._tail: tuple[int, bytes] | None = None  # entries on disk, and the last one's link

    # Writing

    def keep(self, count: int, snapshot: Snapshot) -> None:
        """Keep the snapshot after `count` segments, and drop the one before if it may go."""
        head = self.head
        with self._path(count).open("wb") as file:
            for array in (snapshot.weights, snapshot.state):
                file.write(np.ascontiguousarray(array, np.dtype("<i4")).data)  # not copied
        losses = snapshot.losses[(count - 1) * head.snapshot_steps :]
        body = _pack_entry(snapshot.segments[count - 1], losses)
        link = _link(self._link_after(count - 1), body)
        with (self._folder / SEGMENTS).open("r+b") as file:
            file.truncate((count - 1) * self._entry_bytes)
            file.seek(0, 2)
            file.write(body + link)
        self._tail = (count, link)
        if count > 1 and (count - 1) % head.every:
            self._path(count - 1).unlink(missing_ok=True)

    def sync(self) -> None:
        """On return all of it is on disk: the training is done, and an auditor may ask."""
        for path in self._folder.iterdir():
            sync_file(path)
        sync_folder(self._folder)

    def drop_snapshots(self) -> None:
        """Make room: all can be made again from the base, at the cost of training again."""
        for path in self._folder.glob(f"{SNAPSHOT}*"):
            path.unlink()

    def _link_after(self, count: int) -> bytes:
        """What the entry that follows `count` others is chained to."""
        if self._tail is None or self._tail[0] != count:
            entries = self._entries()
            assert len(entries) >= count, f"expected {count} segments before, found {len(entries)}"
            return entries[count - 1][-DIGEST_BYTES:] if count else _start(self.head)
        return self._tail[1]

    # Reading

    def segments(self) -> tuple[Segment, ...]:
        """The segments done so far."""
        return tuple(_unpack_entry(entry)[0] for entry in self._entries())

    def nearest(self, count: int) -> Snapshot | None:
        """The newest snapshot after at most `count` segments; None if the base is nearer."""
        entries = self._entries()[:count]
        for number in sorted(self._numbers(), reverse=True):
            if 0 < number <= len(entries):
                found = self._read(number, entries[:number])
                if found is not None:
                    return found
        return None

    def newest(self) -> Snapshot | None:
        """Where training goes on; None if it starts anew."""
        return self.nearest(self.head.segments)

    def begun_ns(self) -> int:
        """When it was begun, by the disk's clock: its head is written once."""
        return (self._folder / HEAD).stat().st_mtime_ns

    def snapshot_bytes(self) -> int:
        """What its snapshots take now; entries, a few hundred bytes each, are not counted."""
        return sum(path.stat().st_size for path in self._folder.glob(f"{SNAPSHOT}*"))

    def _read(self, number: int, entries: list[bytes]) -> Snapshot | None:
        head, data = self.head, b""
        path = self._path(number)
        try:
            if path.stat().st_size == head.snapshot_bytes:
                data = path.read_bytes()
        except FileNotFoundError:  # another process needs the room: it has gone since it was listed
            return None
        if len(data) != head.snapshot_bytes:
            return None
        numbers = np.frombuffer(data, np.dtype("<i4"))
        weights, state = numbers[: head.weights], numbers[head.weights :]
        found = [_unpack_entry(entry) for entry in entries]
        last = found[-1][0]
        if (digest_ints(WEIGHTS, weights), digest_ints(OPTIMIZER, state)) != (
            last.weights,
            last.optimizer,
        ):
            return None
        losses = tuple(loss for _, item in found for loss in item)
        return Snapshot(weights, state, tuple(segment for segment, _ in found), losses)

    def _entries(self) -> list[bytes]:
        """Entries whose chain holds, from the first on: a torn or damaged end is left out."""
        data = (self._folder / SEGMENTS).read_bytes()
        size, entries = self._entry_bytes, list[bytes]()
        link = _start(self.head)
        for start in range(0, len(data) - size + 1, size):
            entry = data[start : start + size]
            link = _link(link, entry[:-DIGEST_BYTES])
            if entry[-DIGEST_BYTES:] != link:
                break
            entries.append(entry)
        return entries

    @property
    def _entry_bytes(self) -> int:
        return 4 * DIGEST_BYTES + MOVE_BYTES + LOSS_BYTES * self.head.snapshot_steps

    def _numbers(self) -> Iterator[int]:
        for path in self._folder.glob(f"{SNAPSHOT}*"):
            number = path.name.removeprefix(SNAPSHOT)
            if number.isdecimal():
                yield int(number)

    def _path(self, number: int) -> Path:
        return self._folder / f"{SNAPSHOT}{number}"


class TraceStore:
    """All traces of a peer, of at most `bytes_max` bytes in snapshots."""

    def __init__(self, store: Path, bytes_max: int) -> None:
        self._folder = store / FOLDER
        self._bytes_max = bytes_max
        self._lock = RLock()

    def begin(self, head: Head) -> Trace:
        """The trace of this training: the kept one if it is the same, else an empty one.

        Of earlier trainings snapshots make way, of the first begun first: the rounds of the newest
        may go on. What is left still answers an auditor, slower.
        Raises `Refused("peer.trace_room")` if that is not enough.
        """
        with self._lock:
            folder = self._path(head.task, head.round)
            found = self.find(head.task, head.round)
            if found is not None and found.head.is_of(head):
                return found  # its update may be on the chain: no other room makes it another trace
            head = self._spread(head)
            shutil.rmtree(folder, ignore_errors=True)
            self._make_room(self._need(head))
            # Two snapshots reveal the rows between them: nobody else looks in here.
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            folder.mkdir(parents=True)
            (folder / SEGMENTS).touch(0o600)
            replace_file(folder / HEAD, pack(head))
            return Trace(folder, head)

    def find(self, task: str, number: int) -> Trace | None:
        """The trace of a round, if it is kept."""
        folder = self._path(task, number)
        try:
            head = unpack(Head, (folder / HEAD).read_bytes())
        except (OSError, Refused):
            return None
        if (head.task, head.round) != (task, number) or not (folder / SEGMENTS).is_file():
            return None
        return Trace(folder, head)

    def drop(self, task: str, number: int) -> None:
        """Forget a training of which nothing was submitted."""
        with self._lock:
            shutil.rmtree(self._path(task, number), ignore_errors=True)

    def heads(self) -> list[Head]:
        """Of all traces; what is none goes now."""
        found = []
        with self._lock:
            for folder in self._folders():
                trace = self._at(folder)
                if trace is None:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    found.append(trace.head)
        return found

    def _spread(self, head: Head) -> Head:
        """As many snapshots as the room of a round holds, evenly spread."""
        budget = self._bytes_max // SHARE_OF_ROUND
        every = max(1, -(-head.segments * head.snapshot_bytes // max(budget, 1)))
        return replace(head, every=min(every, head.segments))

    def _need(self, head: Head) -> int:
        kept = head.segments // head.every
        return head.snapshot_bytes * (kept + 1 + (head.every > 1))  # the newest, as it is replaced

    def _make_room(self, need: int) -> None:
        traces = [trace for trace in map(self._at, self._folders()) if trace is not None]
        traces.sort(key=lambda trace: (trace.begun_ns(), trace.head.task, trace.head.round))
        used = sum(trace.snapshot_bytes() for trace in traces)
        for trace in traces:
            if used + need <= self._bytes_max:
                return
            used -= trace.snapshot_bytes()
            trace.drop_snapshots()
        if used + need > self._bytes_max:
            raise Refused(
                "peer.trace_room",
                f"expected room for {need} bytes of snapshots, found {self._bytes_max - used} of "
                f"{self._bytes_max}: raise [store] traces_mib",
            )

    def _folders(self) -> list[Path]:
        return sorted(self._folder.glob("*/*"))

    def _at(self, folder: Path) -> Trace | None:
        number = folder.name
        return self.find(folder.parent.name, int(number)) if number.isdecimal() else None

    def _path(self, task: str, number: int) -> Path:
        return self._folder / task / str(number)


def _pack_entry(segment: Segment, losses: tuple[float, ...]) -> bytes:
    parts = (
        segment.weights,
        segment.optimizer,
        segment.batches,
        segment.move.to_bytes(MOVE_BYTES, "little"),
        np.array(losses, np.dtype("<f8")).tobytes(),
    )
    return b"".join(parts)


def _unpack_entry(entry: bytes) -> tuple[Segment, tuple[float, ...]]:
    ends = [DIGEST_BYTES, 2 * DIGEST_BYTES, 3 * DIGEST_BYTES, 3 * DIGEST_BYTES + MOVE_BYTES]
    weights, optimizer, batches = (entry[end - DIGEST_BYTES : end] for end in ends[:3])
    move = int.from_bytes(entry[ends[2] : ends[3]], "little")
    losses = np.frombuffer(entry[ends[3] : -DIGEST_BYTES], np.dtype("<f8"))
    return Segment(weights, optimizer, batches, move), tuple(losses.tolist())


def _start(head: Head) -> bytes:
    return hashlib.sha256(pack(head)).digest()


def _link(before: bytes, body: bytes) -> bytes:
    """Of what came before and of this: no entry is read without all that led to it."""
    return hashlib.sha256(before + body).digest()
