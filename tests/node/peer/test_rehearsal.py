"""A dry run: one round on this hospital's rows, of which nothing leaves it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl.metric import Figures
from fl.spec import logistic_regression
from node.peer.rehearsal import Script, rehearse
from node.peer.site import LocalData, load_data
from tests.fl.dialogue import TERMS
from tests.node.hospital import SECRET, Town
from vm.record import Dataset
from vm.refusal import Refused

SPEC = logistic_regression(2)


@pytest.fixture
def data(tmp_path: Path) -> LocalData:
    """Hospital 1's rows."""
    return load_data(Town(tmp_path).path(1), TERMS.preprocessing, SECRET)


def script(dataset: Dataset | None = None) -> Script:
    """The test task, from zero weights."""
    return Script(TERMS, SPEC, 24, np.zeros(3, np.int64), dataset)


def test_losses_and_figures_of_one_round_are_shown(data: LocalData) -> None:
    """Every step's loss, and the model before and after on the test rows alone."""
    steps: list[int] = []

    found = rehearse(script(), data, lambda step, n, loss: steps.append(step))

    assert len(found.losses) == TERMS.training.steps == len(steps)
    assert found.train_rows + found.scoring_rows + found.test_rows == len(data.table.rows)
    assert isinstance(found.base, Figures)
    assert isinstance(found.own, Figures)
    assert found.base.rows == found.own.rows == found.test_rows
    assert found.own.log_loss < found.base.log_loss
    assert found.norm > 0


def test_rows_other_than_the_registered_ones_are_refused(tmp_path: Path, data: LocalData) -> None:
    """A dry run says beforehand what a round would be refused for."""
    dataset = Town(tmp_path / "town").chain.get(Dataset, "opt-1")
    rehearse(script(dataset), data)

    with pytest.raises(Refused, match=r"peer\.dataset_root"):
        rehearse(script(replace(dataset, root=bytes(32))), data)


def test_no_test_rows_give_no_figures(data: LocalData) -> None:
    """Three rows of a label leave none to test on."""
    table = replace(data.table, rows=data.table.rows[:3], labels=(0, 0, 0))

    found = rehearse(script(), replace(data, table=table))

    assert (found.test_rows, found.base, found.own) == (0, None, None)
