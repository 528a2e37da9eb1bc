"""Traces on disk: training goes on from what is sound in them, and they take bounded room."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.fixed import Int32s
from fl.trace import Segment
from fl.train import Snapshot
from fl.weights import digest_ints
from node.peer.traces import Head, Trace, TraceStore
from vm.digest import OPTIMIZER, WEIGHTS
from vm.refusal import Refused

STEPS = 2
WEIGHTS_COUNT, STATE_COUNT = 3, 6
SNAPSHOT = 4 * (WEIGHTS_COUNT + STATE_COUNT)
ROOM = 1_000_000


def head(number: int = 1, *, segments: int = 8, until_ms: int = 100, task: str = "task") -> Head:
    """Of a small round's training."""
    digest = bytes(32)
    return Head(
        task=task,
        round=number,
        trainer="trainer",
        dataset="dataset",
        beacon=digest,
        base=digest,
        data=digest,
        recipe=digest,
        snapshot_steps=STEPS,
        segments=segments,
        weights=WEIGHTS_COUNT,
        state=STATE_COUNT,
        script=None,
        environment=None,
        until_ms=until_ms,
        every=1,
    )


def snapshots(count: int) -> list[Snapshot]:
    """Made-up snapshots after 1 to `count` segments."""
    found: list[Snapshot] = []
    segments: tuple[Segment, ...] = ()
    losses: tuple[float, ...] = ()
    for number in range(1, count + 1):
        weights: Int32s = np.array([number, -number, 2**31 - 1], np.int32)
        state: Int32s = np.full(STATE_COUNT, number * 7, np.int32)
        segment = Segment(
            digest_ints(WEIGHTS, weights),
            digest_ints(OPTIMIZER, state),
            bytes([number]) * 32,
            number * 1_000,
        )
        segments, losses = (*segments, segment), (*losses, 1 / number, 0.5 / number)
        found.append(Snapshot(weights, state, segments, losses))
    return found


def kept(folder: Path, count: int) -> Trace:
    """A trace with so many segments done, as after a restart."""
    trace = TraceStore(folder, ROOM).begin(head())
    for number, snapshot in enumerate(snapshots(count), start=1):
        trace.keep(number, snapshot)
    found = TraceStore(folder, ROOM).find("task", trace.head.round)
    assert found is not None
    return found


def equal(found: Snapshot | None, expected: Snapshot) -> bool:
    """Whether all of it is the same, to the bit."""
    return (
        found is not None
        and bool((found.weights == expected.weights).all())
        and bool((found.state == expected.state).all())
        and (found.segments, found.losses) == (expected.segments, expected.losses)
    )


def test_training_goes_on_from_the_newest_snapshot(tmp_path: Path) -> None:
    """Weights, state, segments and losses are what they were; further snapshots follow."""
    trace = kept(tmp_path, 3)
    assert equal(trace.newest(), snapshots(3)[-1])
    assert trace.segments() == snapshots(3)[-1].segments

    trace.keep(4, snapshots(4)[-1])
    trace.sync()
    assert stat.S_IMODE((tmp_path / "traces").stat().st_mode) == 0o700

    assert equal(kept_again(tmp_path).newest(), snapshots(4)[-1])


def kept_again(folder: Path) -> Trace:
    """The trace as it is found after a restart, without beginning it."""
    found = TraceStore(folder, ROOM).find("task", 1)
    assert found is not None
    return found


def test_the_same_training_is_taken_up_and_another_starts_anew(tmp_path: Path) -> None:
    """Another beacon, base, data or recipe is another training: nothing of the old one is used."""
    kept(tmp_path, 3)
    assert TraceStore(tmp_path, ROOM).begin(head()).newest() is not None

    for name in ("beacon", "base", "data", "recipe", "script"):
        kept(tmp_path, 3)
        changes: dict[str, Any] = {name: bytes([1]) * 32}
        other = replace(head(), **changes)
        assert TraceStore(tmp_path, ROOM).begin(other).newest() is None, name


def tear_snapshot(folder: Path) -> None:
    """The newest snapshot lacks its end."""
    path = folder / "snapshot-3"
    path.write_bytes(path.read_bytes()[:-1])


def damage_snapshot(folder: Path) -> None:
    """One bit of the newest snapshot is another."""
    path = folder / "snapshot-3"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)


def tear_entries(folder: Path) -> None:
    """The newest entry lacks its end."""
    path = folder / "segments"
    path.write_bytes(path.read_bytes()[:-1])


def damage_entry(folder: Path) -> None:
    """One bit of the newest entry is another."""
    path = folder / "segments"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1  # a loss of the last entry
    path.write_bytes(data)


def lose_snapshot(folder: Path) -> None:
    """The newest entry has no snapshot."""
    (folder / "snapshot-3").unlink()


@pytest.mark.parametrize(
    "harm", [tear_snapshot, damage_snapshot, tear_entries, damage_entry, lose_snapshot]
)
def test_what_a_crash_tore_is_not_trusted(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Training goes on from the snapshot before, and writes over what is unsound."""
    trace = kept(tmp_path, 3)
    harm(tmp_path / "traces" / "task" / "1")

    again = kept_again(tmp_path)
    assert equal(again.newest(), snapshots(3)[1])
    again.keep(3, snapshots(3)[2])
    again.keep(4, snapshots(4)[3])

    assert equal(kept_again(tmp_path).newest(), snapshots(4)[3])
    assert trace.head == again.head


def test_an_entry_damaged_in_the_middle_ends_what_is_believed(tmp_path: Path) -> None:
    """Entries are chained: none is read without all that led to it."""
    kept(tmp_path, 4)
    path = tmp_path / "traces" / "task" / "1" / "segments"
    data = bytearray(path.read_bytes())
    data[len(data) // 4 + 1] ^= 1  # of the second entry
    path.write_bytes(data)

    assert equal(kept_again(tmp_path).newest(), snapshots(1)[0])


def test_a_head_that_is_damaged_is_no_trace(tmp_path: Path) -> None:
    """It is begun anew, and swept."""
    kept(tmp_path, 3)
    path = tmp_path / "traces" / "task" / "1" / "head"
    path.write_bytes(path.read_bytes()[:-1])
    store = TraceStore(tmp_path, ROOM)

    assert store.find("task", 1) is None
    assert store.heads() == []
    assert not path.parent.exists()
    assert store.begin(head()).newest() is None


def test_short_of_room_every_so_many_snapshots_stay_and_the_newest(tmp_path: Path) -> None:
    """A round takes a quarter of all room; what is between is nearest to one before it."""
    trace = TraceStore(tmp_path, 4 * 3 * SNAPSHOT).begin(head(segments=8))

    for number, snapshot in enumerate(snapshots(8), start=1):
        trace.keep(number, snapshot)
        newest = trace.newest()
        assert equal(newest, snapshot)
        assert len(list((tmp_path / "traces/task/1").glob("snapshot-*"))) <= 8 // 3 + 1

    assert trace.head.every == 3
    assert equal(trace.nearest(3), snapshots(3)[2])
    assert equal(trace.nearest(5), snapshots(3)[2])
    assert trace.nearest(2) is None
    assert len(trace.segments()) == 8


def test_all_traces_together_are_bounded(tmp_path: Path) -> None:
    """Twenty rounds in room for a few: older rounds lose snapshots, and no round its segments."""
    room = 4 * 8 * SNAPSHOT
    store = TraceStore(tmp_path, room)

    for number in range(1, 21):
        trace = store.begin(head(number, until_ms=number))
        for count, snapshot in enumerate(snapshots(8), start=1):
            trace.keep(count, snapshot)

    found = [store.find("task", number) for number in range(1, 21)]
    sizes = [path.stat().st_size for path in tmp_path.rglob("snapshot-*")]
    assert 2 * 8 * SNAPSHOT < sum(sizes) <= room
    assert all(trace is not None and len(trace.segments()) == 8 for trace in found)
    assert found[0] is not None
    assert found[0].newest() is None
    assert found[-1] is not None
    assert found[-1].newest() is not None


def test_room_is_made_by_the_trainings_that_began_first(tmp_path: Path) -> None:
    """A task whose traces may go sooner is no older: its newest update may still be on its way."""
    store = TraceStore(tmp_path, 4 * 8 * SNAPSHOT)
    rounds = [
        head(7, task="brief", until_ms=50),
        *(head(number, until_ms=1_000 + number) for number in (1, 2, 3)),
        head(8, task="brief", until_ms=60),
        *(head(number, until_ms=1_000 + number) for number in (4, 5)),
    ]
    for minute, rnd in enumerate(rounds):
        trace = store.begin(rnd)
        os.utime(tmp_path / "traces" / rnd.task / str(rnd.round) / "head", (60 * minute,) * 2)
        for count, snapshot in enumerate(snapshots(8), start=1):
            trace.keep(count, snapshot)

    found = [store.find(rnd.task, rnd.round) for rnd in rounds]
    whole = [trace is not None and trace.newest() is not None for trace in found]
    assert whole == [False, False, False, False, True, True, True]


def test_a_model_too_large_for_the_room_is_refused(tmp_path: Path) -> None:
    """With what to do, before anything is trained."""
    with pytest.raises(Refused, match=r"peer\.trace_room: .*raise \[store\] traces_mib"):
        TraceStore(tmp_path, SNAPSHOT).begin(head())


def test_a_trace_that_is_dropped_leaves_the_others(tmp_path: Path) -> None:
    """Each round's is its own."""
    store = TraceStore(tmp_path, ROOM)
    for number in (1, 2):
        store.begin(head(number))

    store.drop("task", 1)

    assert store.find("task", 1) is None
    assert store.heads() == [head(2)]
