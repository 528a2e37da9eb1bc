"""The journal's files: one owner, torn tails cut off, damage refused, replaced whole or not."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.journal import Entry, Held, frame
from node.validator import journal as module
from node.validator.journal import FRESH, IDENTITY, SEGMENT, Journal, create_journal
from vm.refusal import Refused


def entry(number: int, size: int = 40) -> Entry:
    """One of many entries."""
    return Held(number, bytes((number,)) * size)


def written(folder: Path, count: int) -> list[Entry]:
    """Have a replica write so many entries and stop."""
    entries = [entry(number) for number in range(count)]
    if not (folder / IDENTITY).exists():
        create_journal(folder)
    with Journal(folder) as journal:
        for item in entries:
            journal.append(item)
        journal.sync()
    return entries


def read(folder: Path) -> list[Entry]:
    """What a restart finds."""
    with Journal(folder) as journal:
        return list(journal.entries)


def code_of(folder: Path) -> str:
    """The code with which a journal is refused."""
    with pytest.raises(Refused) as refused:
        Journal(folder)
    return refused.value.code


def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    """The folder is made with it."""
    create_journal(tmp_path / "a" / "b")

    assert read(tmp_path / "a" / "b") == []


def test_opening_never_makes_a_journal(tmp_path: Path) -> None:
    """In the place of a lost one it would let the key vote again (tendermint#3418)."""
    (tmp_path / "empty").mkdir()

    for folder in (tmp_path / "none", tmp_path / "empty"):
        assert code_of(folder) == "journal.lost"

    assert not (tmp_path / "none").exists()
    assert {path.name for path in (tmp_path / "empty").iterdir()} <= {"lock"}


@pytest.mark.parametrize("name", [IDENTITY, SEGMENT])
def test_half_a_journal_is_a_lost_one(tmp_path: Path, name: str) -> None:
    """Neither the promises nor the name alone are enough, and no new one is made over the rest."""
    written(tmp_path, 2)
    (tmp_path / name).unlink()

    assert code_of(tmp_path) == "journal.lost"
    with pytest.raises(Refused) as refused:
        create_journal(tmp_path)
    assert refused.value.code == "journal.exists"


def test_a_journal_is_never_made_twice(tmp_path: Path) -> None:
    """The first one stays as it is."""
    entries = written(tmp_path, 2)

    with pytest.raises(Refused) as refused:
        create_journal(tmp_path)

    assert refused.value.code == "journal.exists"
    assert read(tmp_path) == entries


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    """Over several runs, oldest first."""
    first = written(tmp_path, 3)
    second = written(tmp_path, 2)

    assert read(tmp_path) == first + second


def test_it_is_dirty_until_it_is_synced(tmp_path: Path) -> None:
    """The runtime lets no message out while it is."""
    create_journal(tmp_path)
    with Journal(tmp_path) as journal:
        before = journal.dirty
        journal.append(entry(1))
        appended = journal.dirty
        journal.sync()

        assert (before, appended, journal.dirty) == (False, True, False)
        assert journal.bytes == len(frame(entry(1)))


def test_sync_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks the system to, and a system that cannot is not taken for one that did."""
    create_journal(tmp_path)
    with Journal(tmp_path) as journal:
        journal.append(entry(1))

        def fail(file: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            journal.sync()

        assert journal.dirty


def test_what_a_killed_process_wrote_is_on_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in review: read from memory and said again, it was lost by a power cut that followed.

    So is a segment's new name: the old segment would come back.
    """
    create_journal(tmp_path)
    with Journal(tmp_path) as journal:
        journal.append(Held(1, b"said"))  # and killed before the sync
    synced = set[int]()
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.fstat(file).st_ino))

    found = read(tmp_path)

    assert found == [Held(1, b"said")]
    assert synced == {(tmp_path / SEGMENT).stat().st_ino, tmp_path.stat().st_ino}


def test_one_process_owns_it(tmp_path: Path) -> None:
    """Two replicas with one key would vote twice: neither this process nor another opens it."""
    program = (
        "import sys, pathlib\nfrom node.validator.journal import Journal\n"
        "from vm.refusal import Refused\n"
        "try:\n    Journal(pathlib.Path(sys.argv[1]))\n"
        "except Refused as refused:\n    print(refused.code)\n"
    )
    create_journal(tmp_path)

    with Journal(tmp_path):
        other = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert code_of(tmp_path) == "journal.locked"

    assert other.stdout.strip() == "journal.locked", other.stderr
    assert read(tmp_path) == []


def test_a_torn_tail_is_cut_off_and_written_over(tmp_path: Path) -> None:
    """Whatever part of the last frame a crash leaves, the earlier entries stay and new ones fit."""
    for cut in range(1, len(frame(entry(2)))):
        folder = tmp_path / str(cut)
        entries = written(folder, 3)
        segment = folder / SEGMENT
        segment.write_bytes(segment.read_bytes()[:-cut])

        with Journal(folder) as journal:
            assert journal.entries == entries[:2]
            journal.append(entry(9))
            journal.sync()

        assert read(folder) == [*entries[:2], entry(9)]


def test_a_tail_of_zeros_is_cut_off(tmp_path: Path) -> None:
    """A file system may give room to a file before it has the bytes."""
    entries = written(tmp_path, 2)
    with (tmp_path / SEGMENT).open("ab") as file:
        file.write(frame(entry(2))[:20] + bytes(5_000))

    assert read(tmp_path) == entries
    assert (tmp_path / SEGMENT).stat().st_size == sum(len(frame(item)) for item in entries)


def test_damage_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """A lost promise may be broken: the node stops, and the file is kept for a person to see.

    The journal can be tried again in the same process, for it is not held on to.
    """
    entries = written(tmp_path, 3)
    segment = tmp_path / SEGMENT
    sound = segment.read_bytes()

    for place in (0, 5, 9, 30, len(sound) // 2):
        damaged = bytearray(sound)
        damaged[place] ^= 1
        segment.write_bytes(damaged)
        assert code_of(tmp_path) == "journal.damaged", place
        assert segment.read_bytes() == damaged

    segment.write_bytes(sound)
    assert read(tmp_path) == entries


def test_replacing_leaves_the_new_entries_alone(tmp_path: Path) -> None:
    """What need not be remembered is gone, and appending goes on behind the rest."""
    entries = written(tmp_path, 5)

    with Journal(tmp_path) as journal:
        journal.replace(entries[3:])
        assert journal.bytes == sum(len(frame(item)) for item in entries[3:])
        journal.append(entry(9))
        journal.sync()

    assert read(tmp_path) == [*entries[3:], entry(9)]
    assert not (tmp_path / FRESH).exists()


class Crash(BaseException):
    """The power goes out."""


STEPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before the first byte": lambda patch: patch.setattr(module, "_write_all", crash),
    "in the middle of the bytes": lambda patch: patch.setattr(module, "_write_all", write_half),
    "before they are synced": lambda patch: patch.setattr(os, "fsync", crash),
    "before the rename": lambda patch: patch.setattr(Path, "rename", crash),
    "before the folder is synced": lambda patch: patch.setattr(module, "sync_folder", crash),
}


def crash(*arguments: object) -> None:
    """Stop here."""
    raise Crash


def write_half(file: int, data: bytes) -> None:
    """Write half and stop."""
    os.write(file, data[: len(data) // 2])
    raise Crash


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_while_replacing_leaves_the_old_entries_or_the_new(
    tmp_path: Path, step: str
) -> None:
    """Never a part of them; and the next replacement is not hindered by what lies about."""
    old, new = written(tmp_path, 5), [entry(7), entry(8)]
    patch = pytest.MonkeyPatch()
    journal = Journal(tmp_path)
    with patch.context() as context:
        STEPS[step](context)
        with pytest.raises(Crash):
            journal.replace(new)
    journal.close()

    found = read(tmp_path)

    assert found == (new if step == "before the folder is synced" else old)
    with Journal(tmp_path) as journal:
        journal.replace([entry(1)])
    assert read(tmp_path) == [entry(1)]


@pytest.mark.parametrize("written_bytes", [0, 10])
def test_a_full_disk_stops_appending_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_bytes: int
) -> None:
    """The system's error comes through, whether a part of the frame was written or nothing."""
    entries = written(tmp_path, 2)
    write = os.write

    def fill(file: int, data: bytes) -> int:
        if len(data) <= len(frame(entry(2))) - written_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, bytes(data)[:written_bytes])

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(OSError, match="No space left"):
        journal.append(entry(2))
    monkeypatch.undo()
    journal.close()

    assert read(tmp_path) == entries


def test_a_full_disk_while_replacing_leaves_the_old_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old journal is there until the new one is whole on disk."""
    entries = written(tmp_path, 2)

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path) as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            journal.replace([entry(9)])
        monkeypatch.undo()

    assert read(tmp_path) == entries


def test_a_system_that_writes_little_at_a_time_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short write is no error and no end."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:7]))

    entries = written(tmp_path, 3)

    monkeypatch.undo()
    assert read(tmp_path) == entries


def test_what_must_be_kept_does_not_make_it_oversized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that is large because of what it must remember is not written anew at every turn.

    It was: five undecided payloads kept a validator rewriting until it missed its own deadlines.
    """
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 1_000)
    create_journal(tmp_path)
    with Journal(tmp_path) as journal:
        for number in range(10):
            journal.append(entry(number, 200))
        before = journal.oversized

        journal.replace([entry(number, 200) for number in range(8)])
        after = journal.oversized
        for number in range(12):
            journal.append(entry(number, 200))

        assert (before, after, journal.oversized) == (True, False, True)


def test_a_journal_keeps_its_identity_and_no_two_have_the_same(tmp_path: Path) -> None:
    """By it a store and a key know that they are used with their own journal."""
    made = create_journal(tmp_path / "a"), create_journal(tmp_path / "b")
    with Journal(tmp_path / "a") as journal:
        first = journal.identity
    with Journal(tmp_path / "a") as journal:
        again = journal.identity
    with Journal(tmp_path / "b") as journal:
        other = journal.identity

    assert first == again != other
    assert made == (first, other)


WRITER = """
import sys, pathlib
from consensus.journal import Held
from node.validator.journal import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
number = 0
while True:
    number += 1
    journal.append(Held(number, number.to_bytes(4, "big") * 50))
    if number % 7 == 0:
        journal.sync()
        print(number, flush=True)
"""


def test_what_was_synced_survives_kill_9(tmp_path: Path) -> None:
    """Whenever the process dies, each entry that it had synced is there, and none out of order."""
    create_journal(tmp_path)
    for _ in range(5):
        before = len(read(tmp_path))
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        synced = [int(writer.stdout.readline()) for _ in range(20)][-1]
        writer.kill()
        writer.communicate()

        found = read(tmp_path)[before:]

        assert len(found) >= synced
        assert found == [
            Held(number, number.to_bytes(4, "big") * 50) for number in range(1, len(found) + 1)
        ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_costs_a_promise_silently(
    tmp_path: Path, place: float, bit: int
) -> None:
    """Wherever it is, the journal is refused and left as it is; mended, it is whole again."""
    folder = tmp_path / "flip"
    if not folder.exists():
        written(folder, 4)
    segment = folder / SEGMENT
    sound = segment.read_bytes()
    damaged = bytearray(sound)
    damaged[int(place * len(sound))] ^= 1 << bit

    segment.write_bytes(damaged)
    code = code_of(folder)
    kept = segment.read_bytes()
    segment.write_bytes(sound)

    assert code == "journal.damaged"
    assert kept == damaged
    assert read(folder) == [entry(number) for number in range(4)]


def test_an_identity_that_is_cut_short_is_damage(tmp_path: Path) -> None:
    """It names no journal, and no key was made for it."""
    written(tmp_path, 1)
    (tmp_path / IDENTITY).write_bytes(b"short")

    assert code_of(tmp_path) == "journal.damaged"
