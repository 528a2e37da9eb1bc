"""AUC, log-loss and calibration by their definitions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.metric import (
    auc,
    binary_figures,
    calibration,
    calibration_intercept,
    calibration_slope,
    class_figures,
    log_loss,
)

scored = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), max_size=40)


@given(scored)
def test_auc_counts_the_pairs_in_which_yes_scores_above_no(rows: list[tuple[int, int]]) -> None:
    """By definition over all pairs of a yes and a no, a tie counting half; undefined without."""
    yes = [score for label, score in rows if label]
    no = [score for label, score in rows if not label]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]

    found = auc(
        np.array([label for label, _ in rows], np.int64),
        np.array([score for _, score in rows], np.float64),
    )

    assert found == (pytest.approx(sum(wins) / len(wins)) if wins else None)


def test_log_loss_stays_finite_where_probabilities_round_to_zero() -> None:
    """A wrong answer at logit 800 costs 800 nat, not infinity."""
    found = log_loss(np.array([0, 1, 1]), np.array([800.0, 0.0, 800.0]))

    assert found.tolist() == pytest.approx([800.0, np.log(2.0), 0.0])


def test_calibration_is_predicted_less_observed() -> None:
    """Logit 0 for rows of which a quarter are yes predicts a quarter too much."""
    found = calibration(np.array([1, 0, 0, 0]), np.zeros(4))

    assert found == pytest.approx(0.25)


def sample(slope: float, intercept: float) -> tuple[Any, Any]:
    """Logits, and labels drawn with probabilities of which these are slope and intercept."""
    chance = np.random.default_rng(7)
    logits = chance.normal(0.0, 2.0, 200_000)
    chances = 1.0 / (1.0 + np.exp(-(intercept + slope * logits)))
    return (chance.random(len(logits)) < chances).astype(np.int64), logits


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_the_calibration_slope_says_how_much_too_extreme_logits_are(slope: float) -> None:
    """Labels drawn from logits times a slope give that slope back."""
    assert calibration_slope(*sample(slope, 0.3)) == pytest.approx(slope, abs=0.02)


@pytest.mark.parametrize("shift", [-1.5, 0.0, 0.7])
def test_the_calibration_intercept_says_how_much_too_high_logits_are(shift: float) -> None:
    """Labels drawn from shifted logits give the shift back; then as many are expected as seen."""
    labels, logits = sample(1.0, shift)

    found = calibration_intercept(labels, logits)

    assert found == pytest.approx(shift, abs=0.03)
    assert calibration(labels, logits + found) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "logits"),
    [
        ([0, 0], [1.0, 2.0]),
        ([1, 1], [1.0, 2.0]),
        ([0, 1], [3.0, 3.0]),
        ([0, 0, 1], [0.0, 1.0, 2.0]),
    ],
    ids=["no events", "events alone", "equal logits", "parted perfectly"],
)
def test_where_rows_say_nothing_there_is_no_slope(labels: list[int], logits: list[float]) -> None:
    """A number would be an accident of the method."""
    assert calibration_slope(np.array(labels), np.array(logits)) is None


def test_an_intercept_needs_both_labels() -> None:
    """Equal logits have one all the same; without both labels none is large enough."""
    assert calibration_intercept(np.array([0, 0]), np.array([1.0, 2.0])) is None
    assert calibration_intercept(np.array([1, 1]), np.array([1.0, 2.0])) is None
    assert calibration_intercept(np.array([0, 1]), np.array([3.0, 3.0])) == pytest.approx(-3.0)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=30))
def test_figures_are_finite_or_none(rows: list[tuple[int, float]]) -> None:
    """Whatever a poisoned or diverged model predicts."""
    labels = np.array([label for label, _ in rows], np.int64)
    logits = np.array([logit for _, logit in rows], np.float64)

    found = binary_figures(labels, logits)

    numbers = (found.auc, found.log_loss, found.brier, found.intercept, found.slope)
    assert all(number is None or np.isfinite(number) for number in numbers)


def test_two_classes_are_two_outcomes() -> None:
    """Log-loss and Brier score are the same by either way of writing the model."""
    labels, logits = np.array([0, 1, 1, 0]), np.array([-1.0, 2.0, -0.5, 0.0])

    by_class = class_figures(labels, np.stack([np.zeros(4), logits], axis=1))
    binary = binary_figures(labels, logits)

    assert by_class.log_loss == pytest.approx(binary.log_loss)
    assert by_class.brier == pytest.approx(binary.brier)
    assert binary_figures(np.array([1, 0]), np.zeros(2)).brier == pytest.approx(0.5)
