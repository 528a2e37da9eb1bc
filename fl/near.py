"""Updates that nearly repeat another one of their round.

Updates are handed out only after the deadline, so whoever repeats another site's update had it from
that site, trained on its rows, or follows it on purpose (a mimic). Exact integers: every verifier
finds the same. It is shown and fails nobody, as the copied one looks just like the copy.
"""

from collections.abc import Mapping

from fl.rules.distance import Matrix, cosine_below, gram
from fl.rules.rows import Deltas
from vm.terms import MICRO

NEAR_COSINE = 999_500  # millionths: an angle under 1.9 degrees, whatever a copy is scaled by


def nearest(deltas: Mapping[str, Deltas]) -> dict[str, str]:
    """For each organisation whose update nearly repeats others', the first of them in order.

    `deltas` are the round's well-formed updates [parameters] by organisation, in order of sites.
    Raises `Refused("update.range")`.
    """
    if not deltas:
        return {}
    names, products = list(deltas), gram(list(deltas.values()))
    found = {}
    for place, name in enumerate(names):
        for other_place, other in enumerate(names):
            if other_place != place and _is_near(products, place, other_place):
                found[name] = other
                break
    return found


def _is_near(products: Matrix, i: int, j: int) -> bool:
    pair = ((products[i][i], products[i][j]), (products[j][i], products[j][j]))
    moves = products[i][i] > 0 and products[j][j] > 0  # what stands still repeats nothing
    return moves and not cosine_below(pair, NEAR_COSINE, MICRO)
