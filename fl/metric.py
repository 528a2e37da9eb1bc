"""How well probabilities tell yes from no: AUC, log-loss, calibration. Shapes: [rows] each."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]  # 0 or 1
Numbers = NDArray[np.float64]


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
    probabilities = 1.0 / (1.0 + np.exp(-logits))
    return float(probabilities.mean() - labels.mean())
