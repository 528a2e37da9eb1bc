"""Replay is bit-exact on machines that lack instruction sets: in processes that do without them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fl.calibrate import SETTINGS, Case, trace
from fl.replay import Replayed
from fl.spec import logistic_regression, mlp, small_cnn
from node.peer.calibration import Try, try_setting
from tests.fl.learning import RECIPES, base_of, job_of, rows_of
from vm.refusal import Refused

SPECS = {
    "logistic": logistic_regression(64),
    "mlp": mlp(64, (128, 64), 3),
    "cnn": small_cnn(1, 8, 3),
}
SEGMENTS = 3


@cache
def tries() -> list[Try]:
    """Every built-in spec with every optimizer, trained in this process as it is."""
    found: list[Try] = []
    for spec in SPECS.values():
        for training in RECIPES.values():
            longer = replace(training, batch_rows=64, snapshot_steps=4)
            case = Case(job_of(spec, longer), base_of(spec) // 8, rows_of(spec, 200))
            found.append((case, trace(case, SEGMENTS)))
    return found


@pytest.mark.parametrize("setting", SETTINGS)
def test_replay_is_bit_exact_on_every_machine(setting: str) -> None:
    """Logistic regression, MLP and CNN with GroupNorm, with SGD and Adam: not one grid step.

    In each process with 1 and 2 threads, with oneDNN and without.
    """
    found = try_setting(SETTINGS[setting], tries())

    assert len(found) == len(SPECS) * len(RECIPES)
    for findings in found:
        assert len({(one.threads, one.onednn) for one in findings}) == 4
        assert {one.replayed for one in findings} == {
            Replayed(segment, 0, 0) for segment in range(SEGMENTS)
        }


def test_a_difference_in_another_process_is_found() -> None:
    """A snapshot that this process did not train is not what the other one finds."""
    case, honest = tries()[0]
    weights = honest[1].weights.copy()
    weights[0] += 1

    (findings,) = try_setting({}, [(case, [honest[0], replace(honest[1], weights=weights)])])

    assert {one.replayed for one in findings} == {Replayed(0, 1, 1)}


def test_a_process_that_fails_is_said_to() -> None:
    """Here of weights that do not fit the model."""
    case, honest = tries()[0]
    short = [replace(one, weights=np.zeros(1, np.int32)) for one in honest[:2]]

    with pytest.raises(Refused, match=r"calibrate\.process"):
        try_setting({}, [(case, short)])
