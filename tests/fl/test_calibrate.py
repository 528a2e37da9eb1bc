"""Calibration finds what differs between two runs, and proposes an allowance that bears it."""

from dataclasses import replace

import pytest
import torch

from fl.calibrate import THREADS, Case, made_up, made_up_base, propose, trace, try_again
from fl.replay import Replayed
from fl.spec import logistic_regression, parameter_count
from tests.fl.learning import job_of
from tests.fl.proving import PREPROCESSING, SPEC
from vm.refusal import Refused
from vm.terms import OFF_BY_ONE_MAX, TOLERANCE_MAX, Replay

CASE = Case(job_of(SPEC), made_up_base(SPEC, 24), made_up(SPEC, PREPROCESSING, 40))


def test_made_up_rows_keep_to_the_columns() -> None:
    """Within the bounds, of every class, and the same whenever they are made."""
    rows = made_up(SPEC, PREPROCESSING, 40)

    assert rows.inputs.shape == (40, 8)
    assert rows.inputs.abs().max() <= 2
    assert set(rows.labels.tolist()) == {0, 1, 2}
    assert torch.equal(rows.inputs, CASE.rows.inputs)


def test_a_model_of_other_inputs_is_refused() -> None:
    """Before anything is trained."""
    with pytest.raises(Refused, match=r"task\.inputs"):
        made_up(logistic_regression(7), PREPROCESSING, 40)


def test_each_segment_is_tried_in_all_ways() -> None:
    """With 1 and 2 threads, with oneDNN and without; here none of it makes a difference."""
    before = torch.get_num_threads()

    found = try_again(CASE, trace(CASE, 2))

    assert len(CASE.base) == parameter_count(SPEC)
    assert {(one.threads, one.onednn) for one in found} == {
        (threads, onednn) for threads in THREADS for onednn in (True, False)
    }
    assert len(found) == 8
    assert {one.replayed for one in found} == {Replayed(0, 0, 0), Replayed(1, 0, 0)}
    assert torch.get_num_threads() == before


def test_a_difference_is_found() -> None:
    """Three coordinates of the weights and one of the state, by up to five steps."""
    honest = trace(CASE, 1)
    weights, state = honest[1].weights.copy(), honest[1].state.copy()
    weights[:3] += 2
    state[-1] -= 5

    found = try_again(CASE, [honest[0], replace(honest[1], weights=weights, state=state)])

    assert {one.replayed for one in found} == {Replayed(0, 4, 5)}


@pytest.mark.parametrize(
    ("differing", "worst", "proposed"),
    [
        (0, 0, Replay(2, 0, 0)),
        (3, 1, Replay(2, 6, 0)),
        (OFF_BY_ONE_MAX // 2, 1, Replay(2, OFF_BY_ONE_MAX, 0)),
        (OFF_BY_ONE_MAX, 1, Replay(2, 0, 2)),
        (1, 2, Replay(2, 0, 4)),
        (1, TOLERANCE_MAX // 2, Replay(2, 0, TOLERANCE_MAX)),
    ],
)
def test_twice_of_what_was_found_is_allowed(differing: int, worst: int, proposed: Replay) -> None:
    """Exact replay where nothing differed, a step for some coordinates, or a tolerance for all."""
    assert propose([Replayed(0, 0, 0), Replayed(1, differing, worst)], 2) == proposed


def test_what_no_task_allows_is_refused() -> None:
    """Such training is no evidence by replay."""
    with pytest.raises(Refused, match=r"calibrate\.beyond"):
        propose([Replayed(0, 1, TOLERANCE_MAX // 2 + 1)], 2)
