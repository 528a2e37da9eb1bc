"""The journal of uses: what a hospital's software appends to, and what became of it on the chain.

A small SQLite file that only its owner may read. What `add` returned from is on disk, whatever is
killed after; a batch and its uses are bound in one step, and the signed transaction is kept before
it is sent, so that the same one is sent again after a crash. Several processes and threads may
append at once.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from node.usage.entry import Entry, make_entry
from vm import tree
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.transaction import TRANSACTION_BYTES_MAX, Transaction
from vm.usage import AGE_MS_MAX, ENTRIES_MAX, Action, Use, UseBatch, hours

FILE = "uses.sqlite"
LAYOUT = 1  # of the tables below
WAITING_MAX = 64 * ENTRIES_MAX  # 4 million uses in 1 GiB: whoever never sends hears of it
LIST_MAX = 4 * ENTRIES_MAX  # uses that are kept at once: 200 MiB of memory until they are
BUSY_S = 30.0  # another process writes for as long as LIST_MAX uses take to write
LATE_MS = 24 * 3_600_000  # before the chain takes a use no more: a batch may be a day under way
TABLES = """
CREATE TABLE batch (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never that of a batch which was given up
    body BLOB NOT NULL,      -- UseBatch, packed
    entries INTEGER NOT NULL,
    before INTEGER,          -- batches of ours on the chain when it was first signed
    signed BLOB,             -- the transaction, packed, from before it is sent
    number INTEGER,          -- the record's on the chain, once it is there
    code TEXT                -- why the chain refused it last
);
CREATE TABLE use (
    id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,   -- of a batch: model, version, purpose, action
    time_ms INTEGER NOT NULL,
    leaf BLOB NOT NULL,      -- Use, packed
    note TEXT,
    note_salt BLOB,
    batch INTEGER REFERENCES batch
);
CREATE INDEX by_batch ON use (batch, subject);
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Uses that go, or went, to the chain together; `id` is this journal's, from 1."""

    id: int
    body: UseBatch
    before: int | None
    signed: Transaction | None
    number: int | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What the uses of one batch have in common, and how many of them wait."""

    model: str
    version: int
    waiting: int
    name: str


class Journal:
    """The journal in `folder`, made there if there is none; close it after use."""

    def __init__(self, folder: Path) -> None:
        """Raise `Refused("usage_journal.unreadable" | "usage_journal.layout")`."""
        path = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._base = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns
            self._lay_out(path)
        except (OSError, sqlite3.Error) as error:
            raise Refused(
                "usage_journal.unreadable", f"{path}: expected a journal of uses, found: {error}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def _lay_out(self, path: Path) -> None:
        with self._writing():
            (layout,) = self._base.execute("PRAGMA user_version").fetchone()
            if layout == 0:
                for statement in TABLES.split(";"):
                    self._base.execute(statement)
                self._base.execute(f"PRAGMA user_version = {LAYOUT}")
            elif layout != LAYOUT:
                raise Refused(
                    "usage_journal.layout", f"{path}: expected layout {LAYOUT}, found {layout}"
                )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All that is written inside, or nothing of it; one thread at a time."""
        with self._lock:
            try:
                self._base.execute("BEGIN IMMEDIATE")
                yield
                self._base.execute("COMMIT")
            except sqlite3.Error as error:  # a full disk, or another process for too long
                raise Refused(
                    "usage_journal.unwritable", f"expected to write to the journal, found: {error}"
                ) from error
            finally:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")

    # Uses

    def record(
        self,
        model: str,
        version: int,
        purpose: str,
        count: int = 1,
        *,
        action: str = Action.INFERENCE.value,
        note: str | None = None,
    ) -> None:
        """Keep one use, of now; on return it is on disk. Raises `Refused("use.*")`."""
        entry = make_entry(
            model=model,
            version=version,
            purpose=purpose,
            action=action,
            count=count,
            note=note,
            time_ms=time.time_ns() // 1_000_000,
        )
        self.add([entry])

    def add(self, entries: Iterable[Entry]) -> int:
        """Keep all these uses or, if one is refused, none; how many they were.

        Raises `Refused("use.*" | "usage_journal.unwritable")`.
        """
        rows = [_row(entry) for entry in islice(entries, LIST_MAX + 1)]  # before others wait for us
        if len(rows) > LIST_MAX:
            raise Refused("use.list", f"expected at most {LIST_MAX} uses at once, found more")
        with self._writing():
            (taken,) = self._base.execute("SELECT coalesce(sum(entries), 0) FROM batch").fetchone()
            self._base.executemany(
                "INSERT INTO use (subject, time_ms, leaf, note, note_salt) VALUES (?, ?, ?, ?, ?)",
                rows,
            )
            (kept,) = self._base.execute("SELECT coalesce(max(id), 0) FROM use").fetchone()
            if kept - taken > WAITING_MAX:
                self._check_waiting()
        return len(rows)

    def _check_waiting(self) -> None:
        """Refuse more than may wait; what is too old to be sent waits for nothing."""
        now_ms = time.time_ns() // 1_000_000
        waiting = sum(subject.waiting for subject in self.waiting(now_ms))
        if waiting > WAITING_MAX:
            raise Refused(
                "use.waiting",
                f"expected at most {WAITING_MAX} uses that wait, found {waiting}: "
                "concilium usage send",
            )

    def uses(self, batch: int) -> list[tuple[Use, str | None, bytes | None]]:
        """The uses of a batch in order of its leaves, with notes and their salts."""
        rows = self._base.execute(
            "SELECT leaf, note, note_salt FROM use WHERE batch = ? ORDER BY id", (batch,)
        )
        return [(unpack(Use, leaf), note, salt) for leaf, note, salt in rows]

    def leaves(self, batch: int) -> list[bytes]:
        """The leaves of a batch, in order."""
        rows = self._base.execute("SELECT leaf FROM use WHERE batch = ? ORDER BY id", (batch,))
        return [leaf for (leaf,) in rows]

    # Batches

    def waiting(self, now_ms: int) -> list[Subject]:
        """What waits to be bound into batches, without uses that are too old for the chain."""
        return self._subjects(now_ms, late=False)

    def late(self, now_ms: int) -> list[Subject]:
        """What waited until it was too old for the chain."""
        return self._subjects(now_ms, late=True)

    def _subjects(self, now_ms: int, *, late: bool) -> list[Subject]:
        rows = self._base.execute(
            "SELECT subject, count(*) FROM use WHERE batch IS NULL AND (time_ms < ?) = ? "
            "GROUP BY subject ORDER BY subject",
            (_oldest(now_ms), late),
        )
        return [
            Subject(model, int(version), count, name)
            for name, count in rows
            for model, version, *_ in [name.split(" ")]
        ]

    def bind(self, subject: Subject, now_ms: int) -> None:
        """Bind what waits of a subject into batches of at most `ENTRIES_MAX` uses."""
        while self._bind(subject, now_ms) == ENTRIES_MAX:
            pass

    def _bind(self, subject: Subject, now_ms: int) -> int:
        with self._writing():
            rows = self._base.execute(
                "SELECT id, leaf FROM use WHERE batch IS NULL AND subject = ? AND time_ms >= ? "
                "ORDER BY id LIMIT ?",
                (subject.name, _oldest(now_ms), ENTRIES_MAX),
            ).fetchall()
            if not rows:
                return 0
            body = batch_of([leaf for _, leaf in rows])
            made = self._base.execute(
                "INSERT INTO batch (body, entries) VALUES (?, ?)", (pack(body), body.entries)
            )
            self._base.executemany(
                "UPDATE use SET batch = ? WHERE id = ?", ((made.lastrowid, id) for id, _ in rows)
            )
        return len(rows)

    def batches(self) -> list[Batch]:
        """All batches, in order."""
        with closing(self._base.execute(f"{_BATCHES} ORDER BY id")) as rows:
            return [_batch(row) for row in rows]

    def unrecorded(self) -> list[Batch]:
        """The batches that are not known to be on the chain, in order."""
        with closing(self._base.execute(f"{_BATCHES} WHERE number IS NULL ORDER BY id")) as rows:
            return [_batch(row) for row in rows]

    def batch(self, id: int) -> Batch:
        """One batch; raises `Refused("use.batch_missing")`."""
        row = self._base.execute(f"{_BATCHES} WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise Refused(
                "use.batch_missing", f"expected a batch of concilium usage list, found {id}"
            )
        return _batch(row)

    def sign(self, batch: Batch, signed: Transaction, before: int) -> Batch:
        """Keep what is about to be sent, unless another process did so first; the batch as kept."""
        with self._writing():
            self._base.execute(
                "UPDATE batch SET signed = ?, before = coalesce(before, ?) "
                "WHERE id = ? AND signed IS ?",
                (pack(signed), before, batch.id, _packed(batch.signed)),
            )
        return self.batch(batch.id)

    def refused(self, batch: Batch, code: str) -> None:
        """Note that the chain refused the signed transaction: another may be signed."""
        with self._writing():
            self._base.execute(
                "UPDATE batch SET signed = NULL, code = ? WHERE id = ? AND signed IS ?",
                (code, batch.id, _packed(batch.signed)),
            )

    def unbind(self, batch: Batch) -> None:
        """Give up a batch that the chain will never hold: its uses wait again, or are too old."""
        with self._writing():
            gone = self._base.execute(
                "DELETE FROM batch WHERE id = ? AND signed IS ? AND number IS NULL",
                (batch.id, _packed(batch.signed)),
            )
            if gone.rowcount:
                self._base.execute("UPDATE use SET batch = NULL WHERE batch = ?", (batch.id,))

    def recorded(self, batch: Batch, number: int) -> None:
        """Note that the batch is on the chain, under this number."""
        with self._writing():
            self._base.execute(
                "UPDATE batch SET number = ?, code = NULL WHERE id = ?", (number, batch.id)
            )


_BATCHES = "SELECT id, body, before, signed, number, code FROM batch"


def batch_of(leaves: Sequence[bytes]) -> UseBatch:
    """What the chain is told of these leaves, which are of one subject."""
    uses = [unpack(Use, leaf) for leaf in leaves]
    first_ms, last_ms = hours([use.time_ms for use in uses])
    return UseBatch(
        model=uses[0].model,
        version=uses[0].version,
        purpose=uses[0].purpose,
        action=uses[0].action,
        count=sum(use.count for use in uses),
        entries=len(uses),
        root=tree.root(leaves),
        first_ms=first_ms,
        last_ms=last_ms,
    )


def _row(entry: Entry) -> tuple[str, int, bytes, str | None, bytes | None]:
    use = entry.use
    subject = f"{use.model} {use.version} {use.purpose.value} {use.action.value}"
    return subject, use.time_ms, entry.leaf, entry.note, entry.note_salt


def _batch(row: tuple[int, bytes, int | None, bytes | None, int | None, str | None]) -> Batch:
    id, body, before, signed, number, code = row
    transaction = None if signed is None else unpack(Transaction, signed, TRANSACTION_BYTES_MAX)
    return Batch(id, unpack(UseBatch, body), before, transaction, number, code)


def _packed(signed: Transaction | None) -> bytes | None:
    return None if signed is None else pack(signed)


def _oldest(now_ms: int) -> int:
    return now_ms - AGE_MS_MAX + LATE_MS
