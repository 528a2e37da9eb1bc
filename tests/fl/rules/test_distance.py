"""Inner products against Python's integers, also where every sum is as large as it can be."""

from math import isqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.fixed import INT32_MAX, INT32_MIN
from fl.rules import distance
from fl.rules.distance import distances_from, gram, squared_distances
from fl.rules.rows import CHUNK
from fl.spec import PARAMETERS_MAX
from tests.fl.rules.rows import arrays, product, rows, squared_distance, weighted_sum
from vm.record import PARTICIPANTS_MAX
from vm.refusal import Refused


@given(rows())
def test_products_and_distances_are_exact(values: list[list[int]]) -> None:
    """Every number is that of Python's integers, whatever the sizes and signs."""
    products = gram(arrays(values))

    assert products == tuple(tuple(product(x, y) for y in values) for x in values)
    assert squared_distances(products) == tuple(
        tuple(squared_distance(x, y) for y in values) for x in values
    )


@given(rows(), st.data())
def test_distances_from_a_weighted_sum_are_exact(
    values: list[list[int]], data: st.DataObject
) -> None:
    """They are floors of total times the distance."""
    n = len(values)
    weights = data.draw(st.lists(st.integers(0, 2**31), min_size=n, max_size=n))
    total = data.draw(st.integers(1, 2**31))

    found = distances_from(gram(arrays(values)), weights, total)

    center = weighted_sum(weights, values)
    assert found == [isqrt(squared_distance([total * u for u in row], center)) for row in values]


def test_nearly_equal_large_updates_do_not_cancel() -> None:
    """One grid unit apart at 2^31: x^2 + y^2 - 2xy in float64 does not see it as it is."""
    first = np.full(1_000, INT32_MAX, np.int64)
    second = first.copy()
    second[7] -= 1
    x, y = first.astype(np.float64), second.astype(np.float64)

    found = squared_distances(gram([first, second]))

    assert found == ((0, 1), (1, 0))
    assert x @ x + y @ y - 2 * (x @ y) != 1.0


@pytest.mark.parametrize("ends", [(INT32_MIN, INT32_MIN), (INT32_MIN, INT32_MAX), (-1, -1)])
def test_extremes_do_not_overflow(ends: tuple[int, int]) -> None:
    """64 updates of corners, over a seam of chunks; -1 has the largest low word."""
    p = 2 * CHUNK + 3
    updates = [np.full(p, end, np.int32) for end in ends] * (PARTICIPANTS_MAX // 2)

    products = gram(updates)

    a, b = ends
    assert (products[0][0], products[0][1], products[1][1]) == (p * a * a, p * a * b, p * b * b)
    assert products[62][63] == p * a * b


def test_words_of_the_largest_model_fit_int64() -> None:
    """What the sums over a chunk and over all 2^25 coordinates come to at most."""
    low = 2**distance.WORD_BITS - 1
    high = 2 ** (31 - distance.WORD_BITS)

    assert PARAMETERS_MAX * max(low**2, high**2, low * high) < 2**63
    assert CHUNK * low**2 < distance.EXACT_MAX


def test_update_beyond_int32_is_refused() -> None:
    """The bounds rest on int32, so that is checked here and not assumed."""
    with pytest.raises(Refused, match=r"update\.range"):
        gram([np.array([2**31], np.int64)])
