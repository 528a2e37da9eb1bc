"""What a verifier publishes of the others' contributions, from its own scoring rows.

The worth of a coalition is the mean log-loss of base + the weighted mean of its updates, with the
sign turned. It is the weighted mean also where the task's rule is another: robust rules are not
defined for the few updates of small coalitions, and the weights are those of the rule, so that a
robust one weighs all alike. The verifier's own organisation takes part and gets no value by it.
"""

from collections.abc import Mapping

import numpy as np

from fl.aggregate import weighted_mean
from fl.contribution import Coalition, contributions, published
from fl.rules.rows import Deltas
from fl.verify import LOSS_MAX, Case, row_losses
from vm.shape import Digest

NANO = 1_000_000_000  # nano-nats of a nat


def contributions_bp(
    case: Case,
    updates: Mapping[str, Deltas],
    weights: Mapping[str, int],
    own: str,
    seed: Digest,
) -> dict[str, int]:
    """Basis points that each of the others' updates takes off the loss; {} where none are asked.

    `updates` are the deltas [parameters] by organisation that the verifier would pass, and that of
    its `own` if there is one; `weights` are those of aggregation.
    """

    def value(coalition: Coalition) -> int:
        names = sorted(coalition)
        moved = case.base
        if names:
            shares = [weights[name] for name in names]
            moved = moved + weighted_mean([updates[name] for name in names], shares, sum(shares))
        # a loss that is no number counts as the largest
        losses = np.nan_to_num(row_losses(case, moved), nan=LOSS_MAX, posinf=LOSS_MAX)
        return -round(float(np.minimum(losses, LOSS_MAX).mean()) * NANO)

    found = contributions(case.terms.contribution, sorted(updates), value, seed)
    return {name: published(nano) for name, nano in found.items() if name != own}
