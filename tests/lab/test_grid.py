"""Many runs: each once, kept as they come, gone on with after a stop."""

import json
from pathlib import Path

import pytest

from tests.lab.federation import Found
from tests.lab.grid import Run, complete, read, runs, settings, written
from tests.lab.setting import Setting

CALM = Setting("weighted_mean", "none", iid=False, sites=4, dishonest=0, filtering=True)
DUE = runs("opt", 1, [CALM], 2)
FOUND = Found(
    right={"site-01": 7},
    rows={"site-01": 10},
    auc=None,
    backdoor=0.1,
    honest=4,
    honest_lost=0,
    dishonest=0,
    dishonest_lost=0,
    rounds_failed=0,
)


def test_every_attack_has_its_run_without_attack() -> None:
    """Costs are counted from it, so it comes first, and once for all shares of attackers."""
    chosen = settings(["krum"], ["none", "ipm"], [True], 10, [0, 1, 2], [False])

    calm = Setting("krum", "none", iid=True, sites=10, dishonest=0, filtering=False)
    assert chosen[0] == calm == chosen[-1].calm()
    assert [(one.attack, one.dishonest) for one in chosen[1:]] == [("ipm", 1), ("ipm", 2)]


def test_a_stopped_grid_has_fewer_seeds_not_fewer_settings() -> None:
    """All settings of a seed come before the next seed."""
    other = Setting("krum", "none", iid=False, sites=4, dishonest=0, filtering=True)

    assert [one.seed for one in runs("opt", 1, [CALM, other], 2)] == [0, 0, 1, 1]


def test_a_grid_goes_on_where_it_was(tmp_path: Path) -> None:
    """What the file holds is not run again, and what is run is kept at once."""
    file = tmp_path / "runs.jsonl"
    file.write_text(written(DUE[0], FOUND))
    kept: list[Run] = []

    found = read(file)
    complete(DUE, found, 1, lambda one, _: kept.append(one))

    assert kept == DUE[1:]
    assert found[DUE[0]] == FOUND
    assert set(found) == set(DUE)


def test_a_file_of_runs_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A line that was cut short is as if it had never been begun; no file holds no runs."""
    file = tmp_path / "runs.jsonl"
    assert read(file) == {}

    line = written(DUE[1], FOUND)
    file.write_text(written(DUE[0], FOUND) + line[: len(line) // 2])

    assert read(file) == {DUE[0]: FOUND}


def test_runs_of_other_code_do_not_count(tmp_path: Path) -> None:
    """The danger: a table of which one half was measured before a change, and one after."""
    file = tmp_path / "runs.jsonl"
    line = json.loads(written(DUE[0], FOUND))
    file.write_text(json.dumps({**line, "code": "another"}) + "\n")

    assert read(file) == {}


@pytest.mark.deep
def test_processes_find_what_one_finds() -> None:
    """A run hangs on its seed alone."""
    alone: dict[Run, Found] = {}
    beside: dict[Run, Found] = {}

    complete(DUE, alone, 1, lambda *_: None)
    complete(DUE, beside, 2, lambda *_: None)

    assert alone == beside
