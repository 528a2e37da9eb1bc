"""Reading a hospital's table: exact numbers, and a report that tells no cell."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import preprocess
from fl.preprocess import CELL_CHARS_MAX, EXAMPLES_MAX, Problem, Report, Table, read
from vm.refusal import Refused
from vm.terms import (
    MICRO,
    Column,
    Level,
    Preprocessing,
)

AGE = Column("age", "year", (), 10 * MICRO, 60 * MICRO, 26 * MICRO, 26 * MICRO, 6 * MICRO)
YES_NO = (Level("No", 0), Level("Yes", MICRO))
SMOKES = Column("smokes", "1", YES_NO, 0, MICRO, 0, 0, MICRO)
EARLY = Column("early", "1", YES_NO, 0, MICRO, 0, 0, MICRO)
PREPROCESSING = Preprocessing((AGE, SMOKES), EARLY)


def report_of(*rows: str, header: str = "age,smokes,early") -> Report:
    """The report on a table of these lines."""
    return read([header + "\n", *(row + "\n" for row in rows)], PREPROCESSING)


def codes(report: Report) -> list[tuple[str, str, int]]:
    """The problems, without row numbers."""
    return [(problem.code, problem.column, problem.count) for problem in report.problems]


def test_cells_become_millionths_and_labels() -> None:
    """Padded codes are read, missing cells imputed, rows without an outcome left out."""
    report = report_of("31.5,Yes ,No ", " NA ,   ,Yes", "20,No,   ")

    assert report.require() == Table(((31_500_000, MICRO), (26 * MICRO, 0)), (0, 1))
    assert (report.rows, report.without_outcome) == (3, 1)


def test_columns_are_found_by_name() -> None:
    """Order does not matter, and a column that the task does not name is never looked at."""
    report = report_of("Yes,x1,No,30", header="early,name,smokes,age")

    assert report.require() == Table(((30 * MICRO, 0),), (1,))


@given(st.integers(10 * MICRO, 60 * MICRO))
def test_decimals_are_read_exactly(value: int) -> None:
    """Any number of millionths survives being written as a decimal."""
    report = report_of(f"{value // MICRO}.{value % MICRO:06d},No,No")

    assert report.require().rows[0][0] == value


def test_digits_past_millionths_round_half_to_even() -> None:
    """Ties go to the even millionth, so that long tables do not drift."""
    report = report_of("20.0000005,No,No", "20.0000015,No,No", "2e1,No,No")

    assert [row[0] for row in report.require().rows] == [20_000_000, 20_000_002, 20_000_000]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("20,Maybe,No", ("value.level", "smokes", 1)),
        ("20,yes,No", ("value.level", "smokes", 1)),
        ("abc,No,No", ("value.number", "age", 1)),
        ("nan,No,No", ("value.number", "age", 1)),
        ("inf,No,No", ("value.number", "age", 1)),
        ("1_0,No,No", ("value.number", "age", 1)),
        ("٢٠,No,No", ("value.number", "age", 1)),
        ("1e999,No,No", ("value.number", "age", 1)),
        ("0" * (CELL_CHARS_MAX + 1) + ",No,No", ("value.number", "age", 1)),
        ("9.999999,No,No", ("value.range", "age", 1)),
        ("60.000001,No,No", ("value.range", "age", 1)),
        ("20,No", ("row.width", "", 1)),
        ("20,No,No,No", ("row.width", "", 1)),
        ('20,"No,No', ("table.malformed", "", 1)),
    ],
)
def test_what_does_not_fit_is_reported(row: str, problem: tuple[str, str, int]) -> None:
    """Each has a code and a column, beside rows that fit."""
    report = report_of("30,No,Yes", row)

    assert codes(report) == [problem]
    with pytest.raises(Refused, match=r"dataset\.problems"):
        report.require()


def test_a_missing_and_a_doubled_column_are_reported_at_once() -> None:
    """All columns are looked for before any row is read."""
    report = report_of("1,2", header="smokes,smokes")

    assert codes(report) == [
        ("column.missing", "age", 1),
        ("column.twice", "smokes", 1),
        ("column.missing", "early", 1),
    ]
    assert report.rows == 0


def test_an_outcome_missing_in_most_rows_is_reported() -> None:
    """Such a table is not the one that the task means."""
    report = report_of("20,No,", "20,No,NA", "20,No,Yes")

    assert codes(report) == [("outcome.missing", "early", 2)]


def test_a_column_empty_in_most_rows_is_only_noted() -> None:
    """Cigarettes a day of hospitals without smokers are empty by nature: worth a look, no fault."""
    report = report_of(",No,No", ",No,Yes", "20,No,No")

    assert report.notes == (Problem("value.missing", "age", 2, ()),)
    assert not report.problems


@pytest.mark.parametrize("lines", [[], ["age,smokes,early\n"], ["age,smokes,early\n", "20,No,\n"]])
def test_a_table_without_rows_is_refused(lines: list[str]) -> None:
    """There is nothing to train on."""
    with pytest.raises(Refused, match=r"dataset\.problems"):
        read(lines, PREPROCESSING).require()


def test_an_outcome_between_two_classes_is_reported() -> None:
    """An outcome without levels must be a whole number."""
    counted = replace(PREPROCESSING, outcome=replace(EARLY, levels=()))

    report = read(["age,smokes,early\n", "20,No,0.5\n", "20,No,1\n"], counted)

    assert codes(report) == [("outcome.whole", "early", 1)]


def test_a_report_holds_no_cell() -> None:
    """A name in a wrong column must not reach a terminal or a log through the report."""
    rows = ["Jane Roe,Jane Roe,Jane Roe"] * (EXAMPLES_MAX + 3)
    report = report_of("30,No,Yes", *rows)

    assert "Jane" not in repr(replace(report, table=Table((), ())))
    with pytest.raises(Refused) as refused:
        report.require()
    assert "Jane" not in str(refused.value)
    assert len(report.problems[0].rows) == EXAMPLES_MAX
    assert report.problems[0].count == EXAMPLES_MAX + 3


def test_a_table_too_long_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops at the bound."""
    monkeypatch.setattr(preprocess, "ROWS_MAX", 2)

    report = report_of("20,No,No", "20,No,No", "20,No,No", "20,No,No")

    assert codes(report) == [("table.too_long", "", 1)]
    assert report.rows == 2
