"""The disk of memory does what the real ones do, and forgets what they may forget."""

from pathlib import Path

import plyvel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.journal import Section, frame
from tests.simulation.disk import JournalFile, MemoryDatabase

SECTION = Section(0)
KEYS = st.binary(min_size=1, max_size=2)


@given(
    rows=st.dictionaries(KEYS, st.binary(max_size=1), max_size=12),
    gone=st.lists(KEYS, max_size=4),
    prefix=KEYS,
    bounds=st.tuples(KEYS, KEYS),
    backwards=st.booleans(),
)
def test_rows_are_those_of_leveldb(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[bytes, bytes],
    gone: list[bytes],
    prefix: bytes,
    bounds: tuple[bytes, bytes],
    backwards: bool,
) -> None:
    """Whatever is written, both databases list the same rows in the same order."""
    folder: Path = tmp_path_factory.mktemp("leveldb")
    memory, level = MemoryDatabase(), plyvel.DB(str(folder), create_if_missing=True)

    for database in (memory, level):
        with database.write_batch(sync=True) as batch:
            for key, value in rows.items():
                batch.put(key, value)
            for key in gone:
                batch.delete(key)

    start, stop = min(bounds), max(bounds)
    for options in (
        {"prefix": prefix},
        {"prefix": prefix, "include_value": False, "reverse": backwards},
        {"start": start, "stop": stop, "include_key": False},
        {"start": start, "stop": stop, "include_start": False, "include_stop": True},
        {"start": start, "stop": stop, "include_stop": True, "reverse": backwards},
    ):
        with memory.iterator(**options) as ours, level.iterator(**options) as theirs:
            assert list(ours) == list(theirs)
    level.close()


def test_a_crash_loses_the_newest_unsynced_batches() -> None:
    """What was synced stays, and of the rest the oldest batches, each as a whole."""
    database = MemoryDatabase()
    with database.write_batch(sync=True) as batch:
        batch.put(b"a", b"synced")
    for value in (b"1", b"2", b"3"):
        with database.write_batch() as batch:
            batch.put(b"a", value)
            batch.put(b"b" + value, value)

    database.crash(kept=2)

    assert database.get(b"a") == b"2"
    assert database.get(b"b2") == b"2"
    assert database.get(b"b3") is None


def test_a_full_disk_takes_no_batch_and_a_torn_record() -> None:
    """Without room a batch is not begun, and a record of the journal may be cut short."""
    database, journal = MemoryDatabase(), JournalFile()
    database.full = journal.full = True

    with pytest.raises(OSError, match="space"), database.write_batch() as batch:
        batch.put(b"a", b"1")
    with pytest.raises(OSError, match="space"):
        journal.append(b"12345678")

    assert database.get(b"a") is None
    assert bytes(journal.unsynced) == b"1234"


def test_a_crash_tears_the_journal() -> None:
    """Of the unsynced bytes some first ones stay, and zeros may follow."""
    journal = JournalFile()
    journal.append(b"synced")
    journal.sync()
    journal.append(b"unsynced")

    journal.crash(kept=2, zeros=3)

    assert bytes(journal.synced) == b"syncedun\0\0\0"


def test_what_a_killed_process_wrote_is_there_until_power_fails() -> None:
    """The next process reads it; it outlives a power cut once that process has opened the file."""
    journal = JournalFile()
    journal.append(frame(SECTION))

    found, good = journal.read()
    journal.open()
    journal.crash(kept=0, zeros=0)

    assert list(found) == [SECTION]
    assert journal.read() == (found, good)


def test_a_journal_that_was_not_opened_loses_what_a_killed_process_wrote() -> None:
    """Nothing is on disk because it was read."""
    journal = JournalFile()
    journal.append(frame(SECTION))

    journal.read()
    journal.crash(kept=0, zeros=0)

    assert journal.read() == ([], 0)
