"""How well probabilities tell yes from no: AUC, log-loss, calibration. Shapes: [rows] each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]  # 0 or 1
Numbers = NDArray[np.float64]

NEWTON_STEPS = 50  # a logistic regression on one input needs about six
HALVINGS = 64  # of an interval of logits: to the last bit
SETTLED = 1e-9  # change of both coefficients in a step, after which they are found
SLOPE_MAX = 1e3  # beyond, the labels are parted perfectly and no slope is the best


@dataclass(frozen=True, slots=True)
class Figures:
    """A model on some rows; None where the rows do not say, such as an AUC without both labels.

    `brier` is the mean squared error of the probabilities (Brier 1950), summed over classes.
    `intercept` and `slope` are the calibration of Cox 1958, as Van Calster et al. 2019 ask for:
    0 and 1 where predictions are right; a slope below 1 says that they are too extreme, an
    intercept below 0 that they are too high on the whole.
    """

    rows: int
    auc: float | None
    log_loss: float
    brier: float
    intercept: float | None
    slope: float | None


def binary_figures(labels: Labels, logits: Numbers) -> Figures:
    """All figures of a model with two outcomes; labels and logits [rows], one row or more."""
    return Figures(
        rows=len(labels),
        auc=auc(labels, logits),
        log_loss=float(log_loss(labels, logits).mean()),
        brier=float(2 * np.square(_probabilities(logits) - labels).mean()),
        intercept=calibration_intercept(labels, logits),
        slope=calibration_slope(labels, logits),
    )


def class_figures(labels: Labels, logits: Numbers) -> Figures:
    """Figures of a model with several classes; labels [rows], logits [rows, classes]."""
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    truth = np.eye(logits.shape[1])[labels]
    return Figures(
        rows=len(labels),
        auc=None,
        log_loss=float(-(logs * truth).sum(axis=1).mean()),
        brier=float(np.square(np.exp(logs) - truth).sum(axis=1).mean()),
        intercept=None,
        slope=None,
    )


def auc(labels: Labels, scores: Numbers) -> float | None:
    """Area under the ROC curve: how often a yes scores above a no, a tie counting half.

    Mann and Whitney 1947, from average ranks. None unless both labels are there.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of each distinct score, from 1
    rank_sum = float(ranks[place][labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(labels: Labels, logits: Numbers) -> Numbers:
    """Log-loss of each row in nat, from logits, so that no probability rounds to 0 or 1: [rows]."""
    losses: Numbers = np.logaddexp(0.0, logits) - labels * logits
    return losses


def calibration(labels: Labels, logits: Numbers) -> float:
    """Mean predicted probability less the observed share: calibration in the large."""
    return float(_probabilities(logits).mean() - labels.mean())


def calibration_intercept(labels: Labels, logits: Numbers) -> float | None:
    """What to add to every logit so that as many are expected as observed; None without both.

    By halving an interval: the expected number rises with what is added.
    """
    observed = int(labels.sum())
    if observed in (0, len(labels)):
        return None
    reach = float(np.abs(logits).max()) + float(np.log(len(labels))) + 1.0
    low, high = -reach, reach
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float(_probabilities(logits + middle).sum()) < observed:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def calibration_slope(labels: Labels, logits: Numbers) -> float | None:
    """The slope of a logistic regression of the labels on the logits; None where it has none.

    Newton's method from the mean. There is none without both labels, for equal logits, and where
    logits part the labels perfectly.
    """
    if len(set(labels.tolist())) < 2 or np.ptp(logits) == 0:
        return None
    design = np.stack([np.ones_like(logits), logits], axis=1)
    found = np.array([0.0, 0.0])
    for _ in range(NEWTON_STEPS):
        expected = _probabilities(design @ found)
        gradient = design.T @ (labels - expected)
        curvature = (design * (expected * (1.0 - expected))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            return None
        found = found + step
        if not np.isfinite(found).all() or abs(found[1]) > SLOPE_MAX:
            return None
        if np.abs(step).max() < SETTLED:
            return float(found[1])
    return None


def _probabilities(logits: Numbers) -> Numbers:
    found: Numbers = np.exp(-np.logaddexp(0.0, -logits))  # never overflows
    return found
