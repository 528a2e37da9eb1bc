"""Krum's scores and choices, and the two iterations against their floating-point definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.aggregate import TOTAL_MAX
from fl.fixed import INT32_MAX, INT32_MIN, Floats, Ints
from fl.rules.choice import (
    CLIPPING_STEPS,
    Weights,
    centered_clipping,
    geometric_median,
    krum,
    krum_scores,
    multi_krum,
)
from fl.rules.distance import gram
from tests.fl.rules.rows import arrays, cluster, rows, squared_distance
from vm.record import PARTICIPANTS_MAX
from vm.terms import MICRO


def point(updates: list[Ints], weights: Weights) -> Floats:
    """What weights of updates come to, in floats."""
    shares, total = weights
    found: Floats = np.array(shares, np.float64) @ np.array(updates, np.float64) / total
    return found


def sum_of_distances(updates: list[Ints], center: Floats) -> float:
    """What the geometric median makes least."""
    return float(np.linalg.norm(np.array(updates, np.float64) - center, axis=1).sum())


@given(rows(n_min=5), st.integers(0, 3))
def test_krum_scores_are_exact(values: list[list[int]], f: int) -> None:
    """Sums over the n - f - 2 nearest others, and the first of the least is chosen."""
    n = len(values)
    f = min(f, (n - 3) // 2)
    products = gram(arrays(values))

    scores = krum_scores(products, f)
    chosen, count = multi_krum(products, f)

    others = [[y for other, y in enumerate(values) if other != place] for place in range(n)]
    expected = [
        sum(sorted(squared_distance(x, y) for y in ys)[: n - f - 2])
        for x, ys in zip(values, others, strict=True)
    ]
    assert scores == expected
    assert krum(products, f)[0].index(1) == expected.index(min(expected))
    best = sorted(range(n), key=lambda place: (expected[place], place))[: n - f]
    assert ([place for place in range(n) if chosen[place]], count) == (sorted(best), n - f)


def test_multi_krum_without_byzantine_updates_is_the_mean() -> None:
    """With f = 0 no hospital's update is dropped."""
    assert multi_krum(gram(cluster(1, 5)), 0) == ([1] * 5, 5)


def test_krum_takes_none_of_the_far_rows() -> None:
    """Two of seven rows far away are neither chosen nor among the best."""
    updates = [*cluster(2, 5), *(INT32_MAX // 2 + far for far in cluster(3, 2))]
    products = gram(updates)

    assert krum(products, 2)[0][5:] == [0, 0]
    assert multi_krum(products, 2) == ([1] * 5 + [0] * 2, 5)


@pytest.mark.parametrize("seed", range(5))
def test_geometric_median_is_that_of_floats(seed: int) -> None:
    """On updates as of hospitals, one of them poisoned, it is where a long iteration ends."""
    updates = [*cluster(seed, 8), -5 * cluster(seed, 1)[0]]

    found = point(updates, geometric_median(gram(updates), TOTAL_MAX))

    values = np.array(updates, np.float64)
    best = values.mean(axis=0)
    for _ in range(2_000):
        inverse = 1 / np.linalg.norm(values - best, axis=1)
        best = inverse @ values / inverse.sum()
    assert np.linalg.norm(found - best) < 1e-3 * np.linalg.norm(updates[0] - best)
    assert sum_of_distances(updates, found) <= (1 + 1e-6) * sum_of_distances(updates, best)


def test_geometric_median_leaves_the_row_at_which_it_begins() -> None:
    """Also where rows are so far apart that a weight of the others rounds to nothing beside it."""
    updates = cluster(8, 9, p=4_000, spread=2**25)
    products = gram(updates)

    weights, total = geometric_median(products, TOTAL_MAX)

    assert max(weights) < 2 * min(weights)
    assert sum(weights) == total


@given(rows(n_min=3))
def test_geometric_median_is_no_worse_than_any_row(values: list[list[int]]) -> None:
    """Whatever the rows, also where iterations are known to stick."""
    updates = arrays(values)

    found = point(updates, geometric_median(gram(updates), TOTAL_MAX))

    best = min(sum_of_distances(updates, row.astype(np.float64)) for row in updates)
    assert sum_of_distances(updates, found) <= 1.001 * best + len(updates)


def test_two_colluders_cannot_hold_the_geometric_median() -> None:
    """A row that lies on the mean of all rows, far away, would hold an iteration begun there."""
    honest = cluster(4, 5, p=20)
    total = np.sum(honest, axis=0)
    far = np.full(20, 2**28)
    updates = [*honest, far, 6 * far - total]
    assert np.array_equal(np.sum(updates, axis=0), 7 * far)

    found = point(updates, geometric_median(gram(updates), TOTAL_MAX))

    center = np.mean(honest, axis=0)
    spread = max(float(np.linalg.norm(row - center)) for row in honest)
    assert np.linalg.norm(found - center) < 3 * spread


@pytest.mark.parametrize("factor", [MICRO // 10, MICRO, 3 * MICRO])
def test_centered_clipping_is_that_of_floats(factor: int) -> None:
    """The same steps in float64 come to the same point, to within a few grid units."""
    updates = [*cluster(5, 9), -8 * cluster(6, 1)[0]]

    found = point(updates, centered_clipping(gram(updates), TOTAL_MAX, factor))

    values = np.array(updates, np.float64)
    radius = factor / MICRO * sorted(np.linalg.norm(values, axis=1))[4]
    center = np.zeros(values.shape[1])
    for _ in range(CLIPPING_STEPS):
        clip = np.minimum(1, radius / np.linalg.norm(values - center, axis=1))
        center = center + (clip[:, np.newaxis] * (values - center)).mean(axis=0)
    assert np.max(np.abs(found - center)) < 4


def test_centered_clipping_bounds_what_one_row_can_do() -> None:
    """From 10 times to 100 times as far, a poisoned row moves the result no further."""
    honest = cluster(7, 9)
    poison = -cluster(7, 1)[0]
    sets = [[*honest, scale * poison] for scale in (10, 100)]

    near, far = (point(s, centered_clipping(gram(s), TOTAL_MAX, MICRO // 4)) for s in sets)

    center = np.mean(honest, axis=0)
    assert np.linalg.norm(far - near) < 0.05 * np.linalg.norm(center)
    assert np.linalg.norm(far - center) < 0.2 * np.linalg.norm(center)


def test_centered_clipping_of_nothing_is_nothing() -> None:
    """Rows of zeros have a radius of zero, which divides nothing."""
    updates = [np.zeros(3, np.int64)] * 10

    weights, total = centered_clipping(gram(updates), TOTAL_MAX, MICRO)

    assert sum(weights) <= total
    assert not point(updates, (weights, total)).any()


@pytest.mark.parametrize("end", [INT32_MIN, INT32_MAX])
def test_weights_stay_within_the_total_at_the_extremes(end: int) -> None:
    """64 updates of corners, half of them opposite: the bound of the weighted sum holds."""
    updates = [np.full(8, end, np.int64), np.full(8, -1 - end, np.int64)] * (PARTICIPANTS_MAX // 2)
    products = gram(updates)

    for weights, total in (
        krum(products, 30),
        multi_krum(products, 30),
        geometric_median(products, TOTAL_MAX),
        centered_clipping(products, TOTAL_MAX, 1_000 * MICRO),
    ):
        assert all(weight >= 0 for weight in weights)
        assert 0 < sum(weights) <= total <= TOTAL_MAX
