"""The OPT trial's hospitals, as tests admit them: tables read once, split by a seed."""

from functools import cache

from fl.dataset import band, weight
from fl.experiment import Experiment, admit
from fl.preprocess import Report, read
from fl.trial import CLINICS, GRID_BITS, PREPROCESSING, SPEC, csv_of, terms
from vm.terms import Site

SECRET = bytes(range(32))


@cache
def report_of(clinic: str) -> Report:
    """What `concilium peer check` finds in one clinic's file."""
    return read(csv_of(clinic).splitlines(keepends=True), PREPROCESSING)


def experiment_of(seed: bytes) -> Experiment:
    """The demo's task on one split of all four clinics."""
    tables = [report_of(clinic).require() for clinic in CLINICS]
    sites = [
        Site(
            organisation=f"hospital-{number}",
            trainer=f"hospital-{number}.trainer",
            verifier=f"hospital-{number}.verifier",
            dataset=f"opt-{number}",
            weight=weight(band(len(table.rows))),
        )
        for number, table in enumerate(tables, start=1)
    ]
    task_terms = terms("preterm", sites)
    hospitals = [
        admit(SPEC, task_terms, site, table, SECRET, seed)
        for site, table in zip(sites, tables, strict=True)
    ]
    return Experiment("preterm", SPEC, GRID_BITS, task_terms, hospitals)
