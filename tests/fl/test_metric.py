"""AUC, log-loss and calibration by their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.metric import auc, calibration, log_loss

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
