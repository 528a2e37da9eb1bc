"""The dishonest trainer poisons one round, and only that."""

import numpy as np
import pytest

from fl.experiment import POISON_SCALE
from fl.fixed import norm
from fl.model import Rows, initial
from fl.train import Job, train
from fl.trial import GRID_BITS, SPEC, TRAINING
from node.demo.attacker import poisoning
from tests.fl.trial import experiment_of


@pytest.fixture(scope="module")
def rows() -> Rows:
    """One hospital's training rows."""
    return experiment_of(bytes(32)).hospitals[0].train


def test_one_round_is_poisoned_however_often_it_is_trained(rows: Rows) -> None:
    """Also by a peer that was killed and starts anew in that round: nothing is counted."""
    base = initial(SPEC, GRID_BITS, seed=1)
    jobs = [Job(SPEC, GRID_BITS, TRAINING, bytes((n,)) * 32, "dataset") for n in range(3)]
    places = (0, 1, 1, 2)

    found = [
        poisoning(lambda beacon: beacon == jobs[1].beacon)(jobs[place], base, rows, None)
        for place in places
    ]
    honest = [train(jobs[place], base, rows) for place in places]

    for place in (0, 3):
        assert np.array_equal(found[place].delta, honest[place].delta)
    for place in (1, 2):
        assert np.array_equal(found[place].delta, -POISON_SCALE * honest[place].delta)
        assert found[place].norm == norm(found[place].delta)
