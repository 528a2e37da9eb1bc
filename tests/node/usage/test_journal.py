"""The journal of uses: what it has taken it keeps, each use is bound once, its order stays."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.usage import journal as journal_module
from node.usage.entry import Entry, make_entry
from node.usage.journal import FILE, LATE_MS, Journal
from tests.harness import key_of
from tests.vm.uses import BATCH
from vm import tree
from vm.refusal import Refused
from vm.transaction import Transaction, sign
from vm.usage import AGE_MS_MAX, ENTRIES_MAX, Action, Purpose, hours

NOW_MS = 1_700_000_000_000
WRITER = """
import sys
from pathlib import Path
from node.usage.journal import Journal

with Journal(Path(sys.argv[1])) as uses:
    for number in range(1_000_000):
        uses.record("risk", 3, "care", note=str(number))
        print(number, flush=True)
"""


def entry(
    purpose: str = "care", version: int = 3, count: int = 1, time_ms: int = NOW_MS, note: str = ""
) -> Entry:
    """A use of model risk."""
    return make_entry(
        model="risk",
        version=version,
        purpose=purpose,
        action=Action.INFERENCE.value,
        count=count,
        note=note or None,
        time_ms=time_ms,
    )


def bound(uses: Journal) -> list[int]:
    """Bind all that waits; how many uses each batch has."""
    for subject in uses.waiting(NOW_MS):
        uses.bind(subject, NOW_MS)
    return [batch.body.entries for batch in uses.batches()]


def transaction(nonce: int = 0) -> Transaction:
    """Some transaction to keep."""
    return sign(
        key_of("ada"),
        chain=bytes(32),
        kind="model.use",
        sender="ada",
        body=BATCH,
        valid_until_height=9,
        nonce=nonce.to_bytes(16, "big"),
    )


def test_a_batch_holds_what_belongs_together(tmp_path: Path) -> None:
    """One version and one purpose; the order is the journal's, the times and counts are summed."""
    with Journal(tmp_path) as uses:
        uses.add([entry(count=2), entry("research"), entry(version=4)])
        uses.add([entry(count=5, time_ms=NOW_MS - 9)])

        assert bound(uses) == [2, 1, 1]
        body = uses.batch(1).body
        assert (body.model, body.version, body.purpose) == ("risk", 3, Purpose.CARE)
        assert (body.count, body.first_ms, body.last_ms) == (
            7,
            *hours((NOW_MS - 9, NOW_MS)),
        )
        assert body.root == tree.root(uses.leaves(1))
        assert [use.count for use, _, _ in uses.uses(1)] == [2, 5]
        assert uses.waiting(NOW_MS) == []


def test_a_batch_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than one batch holds goes into the next."""
    monkeypatch.setattr(journal_module, "ENTRIES_MAX", 3)
    with Journal(tmp_path) as uses:
        uses.add(entry() for _ in range(7))

        assert bound(uses) == [3, 3, 1]
        assert bound(uses) == [3, 3, 1]
    assert ENTRIES_MAX > 3


def test_who_never_sends_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not filled without end; what was bound makes room."""
    monkeypatch.setattr(journal_module, "WAITING_MAX", 2)
    with Journal(tmp_path) as uses:
        uses.record("risk", 3, "care")
        uses.record("risk", 3, "care")
        with pytest.raises(Refused, match=r"use\.waiting"):
            uses.record("risk", 3, "care")
        assert bound(uses) == [2]

        uses.record("risk", 3, "care")


def test_what_is_too_old_to_be_sent_hinders_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending would not help: it waits for nothing any more."""
    monkeypatch.setattr(journal_module, "WAITING_MAX", 1)
    with Journal(tmp_path) as uses:
        uses.add([entry(time_ms=1), entry(time_ms=2), entry(time_ms=3)])

        uses.record("risk", 3, "care")


def test_a_batch_that_is_given_up_frees_its_uses(tmp_path: Path) -> None:
    """In one step, unless another process has signed it meanwhile; its number is used no more."""
    with Journal(tmp_path) as uses:
        uses.add([entry(), entry()])
        assert bound(uses) == [2]
        before = uses.batch(1)
        uses.sign(before, transaction(), 0)

        uses.unbind(before)
        assert uses.waiting(NOW_MS) == []
        uses.unbind(uses.batch(1))

        assert [subject.waiting for subject in uses.waiting(NOW_MS)] == [2]
        assert bound(uses) == [2]
        assert [batch.id for batch in uses.batches()] == [2]


def test_a_list_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held in memory until it is kept, so that nobody else waits while it is read."""
    monkeypatch.setattr(journal_module, "LIST_MAX", 2)
    with Journal(tmp_path) as uses:
        with pytest.raises(Refused, match=r"use\.list"):
            uses.add(entry() for _ in range(3))

        assert uses.add(entry() for _ in range(2)) == 2


def test_threads_and_processes_append_at_once(tmp_path: Path) -> None:
    """A server that scores rows in several threads has one journal, and another may have it too."""
    with Journal(tmp_path) as uses, Journal(tmp_path) as other, ThreadPoolExecutor(8) as pool:
        for place in range(40):
            pool.submit((uses, other)[place % 2].record, "risk", 3, "care")
        pool.shutdown()

        assert [subject.waiting for subject in uses.waiting(0)] == [40]


def test_a_journal_that_another_holds_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scoring server hears one kind of error, and the journal goes on after it."""
    monkeypatch.setattr(journal_module, "BUSY_S", 0.01)
    with Journal(tmp_path) as uses, Journal(tmp_path) as other:
        with other._writing(), pytest.raises(Refused, match=r"usage_journal\.unwritable"):
            uses.record("risk", 3, "care")

        assert uses.add([entry()]) == 1


def test_a_refused_line_keeps_nothing_of_its_list(tmp_path: Path) -> None:
    """So that the list can be given again once it is mended."""
    made = (entry(count=count) for count in (1, 0))
    with Journal(tmp_path) as uses:
        with pytest.raises(Refused, match=r"use\.fields"):
            uses.add(made)

        assert uses.waiting(NOW_MS) == []


def test_uses_that_waited_too_long_poison_no_batch(tmp_path: Path) -> None:
    """The chain would refuse a batch that holds one of them, and with it all the others."""
    old = entry(time_ms=NOW_MS - AGE_MS_MAX + LATE_MS - 1)
    with Journal(tmp_path) as uses:
        uses.add([old, entry()])

        assert bound(uses) == [1]
        assert [subject.waiting for subject in uses.late(NOW_MS)] == [1]


def test_notes_stay_here_for_their_owner_alone(tmp_path: Path) -> None:
    """The file may name what the hospital's own records name."""
    with Journal(tmp_path / "usage") as uses:
        uses.add([entry(note="list 7")])
        bound(uses)

        (found,) = uses.uses(1)
        assert found[1] == "list 7"
        for path in (tmp_path / "usage").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_what_is_sent_is_kept_first_and_by_one_alone(tmp_path: Path) -> None:
    """Two processes that send at once sign one transaction between them."""
    with Journal(tmp_path) as uses, Journal(tmp_path) as other:
        uses.add([entry()])
        bound(uses)
        unsigned = uses.batch(1)

        kept = uses.sign(unsigned, transaction(1), before=4)
        second = other.sign(unsigned, transaction(2), before=5)

        assert kept == second
        assert (kept.signed, kept.before) == (transaction(1), 4)
        other.refused(unsigned, "use.old")  # of a transaction that was never kept
        assert uses.batch(1) == kept
        uses.refused(kept, "use.old")
        assert (uses.batch(1).signed, uses.batch(1).code) == (None, "use.old")
        again = uses.sign(uses.batch(1), transaction(3), before=7)
        assert again.before == 4  # a record may be any since the first was signed
        uses.recorded(again, 6)
        assert (uses.batch(1).number, uses.batch(1).code) == (6, None)


def test_whatever_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """A process is killed between two uses or within one: nothing of them is lost or torn."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(25)]
        writer.send_signal(signal.SIGKILL)
        told += [line for line in writer.stdout if line.endswith("\n")]

    with Journal(tmp_path) as uses:
        for subject in uses.waiting(0):
            uses.bind(subject, 0)
        notes = [note for _, note, _ in uses.uses(1)]

    assert notes[: len(told)] == [line.strip() for line in told]
    assert len(notes) <= len(told) + 1  # one may be kept that nobody was told of


def test_a_torn_tail_is_no_use(tmp_path: Path) -> None:
    """Power may go in the middle of a write: what was kept before is there, and it goes on."""
    with Journal(tmp_path) as uses:
        uses.add([entry(note="kept")])
        copy = tmp_path / "after"
        copy.mkdir()
        for name in (FILE, f"{FILE}-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    with (copy / f"{FILE}-wal").open("ab") as file:
        file.write(os.urandom(700))

    with Journal(copy) as uses:
        uses.add([entry(note="after")])
        bound(uses)
        assert [note for _, note, _ in uses.uses(1)] == ["kept", "after"]


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """Power may go: in this mode of SQLite what was acknowledged is synced, in others it is not."""
    full = 2

    with Journal(tmp_path) as uses:
        assert uses._base.execute("PRAGMA synchronous").fetchone() == (full,)


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    """Neither some file nor a journal of newer software is written over."""
    (tmp_path / FILE).write_bytes(b"something else, and long enough to look like a file" * 40)
    with pytest.raises(Refused, match=r"usage_journal\.unreadable"):
        Journal(tmp_path)

    newer = tmp_path / "newer"
    Journal(newer).__exit__()
    base = sqlite3.connect(newer / FILE)
    base.execute("PRAGMA user_version = 9")
    base.close()
    with pytest.raises(Refused, match=r"usage_journal\.layout"):
        Journal(newer)


def test_a_batch_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A mistyped number is no crash."""
    with Journal(tmp_path) as uses, pytest.raises(Refused, match=r"use\.batch_missing"):
        uses.batch(7)
