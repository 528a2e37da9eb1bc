"""From a hospital's table to the task's inputs, in integers.

The task fixes a `Preprocessing`; each hospital reads its own CSV by it, so that all train on
the same numbers. What does not fit is counted in a report that never holds a cell's value.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from vm.refusal import Refused
from vm.terms import MICRO, Column, Preprocessing

ROWS_MAX = 1_000_000  # of one hospital's table: read whole into memory
CELL_CHARS_MAX = 256  # a number or a code; longer cells are not what the column says
EXAMPLES_MAX = 5  # row numbers named for one problem
BLANKS = " \t"  # stripped from cells; what else Unicode calls a blank differs between versions
MISSING = frozenset({"", "NA"})
MISSING_NOTE_PERCENT = 50  # a column emptier than this is worth a look, yet may be so by nature
DECIMAL = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Table:
    """Preprocessed rows: inputs in millionths of the source's unit, and whole labels from 0."""

    rows: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What does not fit: how often, and in which first rows (1 is the row after the header).

    `column` is "" where the problem is the whole table's.
    """

    code: str
    column: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What reading a table found. Exact counts: for the hospital's own eyes only.

    `problems` must be empty before training; `notes` are columns emptier than
    `MISSING_NOTE_PERCENT`. Rows without an outcome are left out of `table`.
    """

    rows: int
    without_outcome: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    table: Table

    def require(self) -> Table:
        """The table; raises `Refused("dataset.problems")` if anything does not fit."""
        if self.problems:
            worst = self.problems[0]
            raise Refused(
                "dataset.problems",
                f"expected data by the task's preprocessing, found {len(self.problems)} problems; "
                f"first: {worst.code} in column '{worst.column}', {worst.count} times",
            )
        return self.table


def read(lines: Iterable[str], preprocessing: Preprocessing) -> Report:
    """Read CSV (RFC 4180, with a header) by the task's preprocessing; never raises on content.

    `lines` come from a text file opened with newline="". Columns that the task does not name are
    ignored. Cells are stripped of blanks; an empty cell or NA is missing and takes the column's
    `impute`.
    """
    findings = _Findings()
    inputs: list[tuple[int, ...]] = []
    labels: list[int] = []
    number = without_outcome = 0
    for number, cells in enumerate(_rows(lines, preprocessing, findings), start=1):
        *values, label = (
            _value(column, cell, number, findings)
            for column, cell in zip(_columns(preprocessing), cells, strict=True)
        )
        if label is None or label % MICRO:
            without_outcome += label is None
            if label is not None:
                findings.add("outcome.whole", preprocessing.outcome.name, number)
            continue
        filled = zip(preprocessing.columns, values, strict=True)
        inputs.append(tuple(column.impute if value is None else value for column, value in filled))
        labels.append(label // MICRO)
    if number and 2 * without_outcome > number:
        findings.add("outcome.missing", preprocessing.outcome.name, 1, without_outcome)
    if not inputs and not findings.problems:
        findings.add("table.empty", "", 0)
    notes = (
        Problem("value.missing", column.name, findings.missing[column.name], ())
        for column in preprocessing.columns
        if 100 * findings.missing[column.name] > MISSING_NOTE_PERCENT * number
    )
    return Report(
        rows=number,
        without_outcome=without_outcome,
        problems=tuple(findings.problems.values()),
        notes=tuple(notes),
        table=Table(tuple(inputs), tuple(labels)),
    )


class _Findings:
    """Problems by code and column in order of appearance, and missing cells by column."""

    def __init__(self) -> None:
        self.problems: dict[tuple[str, str], Problem] = {}
        self.missing: Counter[str] = Counter()

    def add(self, code: str, column: str, row: int, count: int = 1) -> None:
        before = self.problems.get((code, column), Problem(code, column, 0, ()))
        rows = (*before.rows, row)[:EXAMPLES_MAX]
        self.problems[code, column] = Problem(code, column, before.count + count, rows)


def _columns(preprocessing: Preprocessing) -> tuple[Column, ...]:
    return (*preprocessing.columns, preprocessing.outcome)


def _rows(
    lines: Iterable[str], preprocessing: Preprocessing, findings: _Findings
) -> Iterator[list[str]]:
    """The named columns' cells of each row, the outcome last; stops at what cannot be read."""
    reader = csv.reader(lines, strict=True)
    number = 0
    try:
        header = [name.strip(BLANKS) for name in next(reader, [])]
        places = _places(header, preprocessing, findings)
        if places is None:
            return
        for number, cells in enumerate(reader, start=1):
            if number > ROWS_MAX:
                findings.add("table.too_long", "", number)
                return
            if len(cells) != len(header):
                findings.add("row.width", "", number)
                continue
            yield [cells[place].strip(BLANKS) for place in places]
    except csv.Error:
        findings.add("table.malformed", "", number + 1)


def _places(
    header: list[str], preprocessing: Preprocessing, findings: _Findings
) -> list[int] | None:
    """Where the named columns are in the table, unless one is missing or there twice."""
    for column in _columns(preprocessing):
        match header.count(column.name):
            case 0:
                findings.add("column.missing", column.name, 0)
            case 1:
                pass
            case _:
                findings.add("column.twice", column.name, 0)
    if findings.problems:
        return None
    return [header.index(column.name) for column in _columns(preprocessing)]


def _value(column: Column, cell: str, row: int, findings: _Findings) -> int | None:
    """The cell in millionths, or None if it is missing or does not fit."""
    if cell in MISSING:
        findings.missing[column.name] += 1
        return None
    if column.levels:
        for level in column.levels:
            if level.text == cell:
                return level.value
        findings.add("value.level", column.name, row)
        return None
    if len(cell) > CELL_CHARS_MAX or not DECIMAL.fullmatch(cell):
        findings.add("value.number", column.name, row)
        return None
    value = round(Fraction(cell) * MICRO)  # exact, then half to even
    if not column.low <= value <= column.high:
        findings.add("value.range", column.name, row)
        return None
    return value
