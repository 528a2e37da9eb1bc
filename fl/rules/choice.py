"""Rules by geometry: weights of rows from their inner products alone.

Whatever these rules return lies in the span of the rows, so that they work on coefficients: the
cost is one pass for the inner products and one for the weighted sum, however many steps they take,
and every distance is exact. A rule returns the rows' weights and the total by which their weighted
sum is divided. Rows that tie stand in order of organisation, and the first wins.
"""

from collections.abc import Sequence
from math import isqrt

from fl.rules.distance import Matrix, distances_from, norms_squared, squared_distances
from fl.settle import lower_median
from vm.terms import MICRO

Weights = tuple[list[int], int]  # of the rows, and what to divide by

MEDIAN_STEPS = 64  # Weiszfeld steps; on updates of hospitals 20 leave less than a grid unit
MEDIAN_SMOOTHING = 1_024  # a distance counts at least as this part of the typical one
CLIPPING_STEPS = 16
INVERSE_BITS = 64  # of a reciprocal distance


def krum(products: Matrix, f: int) -> Weights:
    """The row nearest to its n - f - 2 nearest others (Blanchard et al. 2017). Needs n >= 2f + 3.

    flwr counts as many neighbours as the paper; byzfl counts n - f - 1 and chooses others.
    """
    return _best(products, f, 1)


def multi_krum(products: Matrix, f: int) -> Weights:
    """The mean of the n - f rows of best Krum score (Blanchard et al. 2017). Needs n >= 2f + 3.

    The paper leaves the number open and uses n - f in its experiments, as byzfl does: with f = 0 no
    hospital's update is dropped.
    """
    return _best(products, f, len(products) - f)


def _best(products: Matrix, f: int, count: int) -> Weights:
    scores = krum_scores(products, f)
    best = sorted(range(len(scores)), key=lambda place: (scores[place], place))[:count]
    return [int(place in best) for place in range(len(scores))], count


def krum_scores(products: Matrix, f: int) -> list[int]:
    """The sums of squared distances [n] from each row to its n - f - 2 nearest others."""
    n = len(products)
    assert n >= 2 * f + 3, f"{n} rows, f = {f}"
    return [
        sum(sorted(square for other, square in enumerate(row) if other != place)[: n - f - 2])
        for place, row in enumerate(squared_distances(products))
    ]


def geometric_median(products: Matrix, scale: int) -> Weights:
    """About the point of least sum of distances, by MEDIAN_STEPS steps of Weiszfeld's iteration.

    It begins at the row of least sum, not at the mean: two colluding rows can put the mean on one
    of themselves, however far away, and the iteration hardly leaves a row that it meets. A step
    never raises the smoothed sum, so the outcome is no worse than any row. Distances are smoothed
    from below (Pillutla et al. 2022). Reciprocals are floors of 2^-INVERSE_BITS, weights floors of
    1 / `scale`: a row so far away that its weight rounds to nothing loses its pull, and none gains.
    Needs n >= 2f + 1.
    """
    n = len(products)
    roots = [[isqrt(square) for square in row] for row in squared_distances(products)]
    sums = [sum(row) for row in roots]
    first = min(range(n), key=lambda place: (sums[place], place))
    smooth = max(_middle(roots[first]) // MEDIAN_SMOOTHING, 1)
    weights, total = [int(place == first) for place in range(n)], 1
    for _ in range(MEDIAN_STEPS):
        distances = [
            max(found, smooth * total) for found in distances_from(products, weights, total)
        ]
        shortest = min(distances)
        inverses = [(shortest << INVERSE_BITS) // distance for distance in distances]
        whole = sum(inverses)
        weights = [scale * inverse // whole for inverse in inverses]
        total = sum(weights)
    return weights, total


def centered_clipping(products: Matrix, scale: int, radius_factor: int) -> Weights:
    """Mean of the rows, each clipped to a ball around the last result (Karimireddy et al. 2021).

    The radius is `radius_factor` millionths of the lower median norm of the rows. CLIPPING_STEPS
    steps begin at zero: the aggregate of a round then follows from its accepted updates alone, and
    a last round that went wrong casts no shadow on this one; what the previous aggregate would be
    good for, a near start, the steps make up for. Weights are floors of 1 / `scale`, and what they
    lack, below a millionth in all, counts as zero vector. Needs n >= 10f.
    """
    n = len(products)
    median = _middle([isqrt(square) for square in norms_squared(products)])
    radius = radius_factor * median * scale // MICRO
    weights = [0] * n
    for _ in range(CLIPPING_STEPS):
        kept = [
            scale if found <= radius else scale * radius // found
            for found in distances_from(products, weights, scale)
        ]
        rest = n * scale - sum(kept)
        weights = [
            (weight * rest + part * scale) // (n * scale)
            for weight, part in zip(weights, kept, strict=True)
        ]
    assert sum(weights) <= scale, "a convex combination with zero"
    return weights, scale


def _middle(values: Sequence[int]) -> int:
    found = lower_median(values)
    assert found is not None, "there are rows"
    return found
