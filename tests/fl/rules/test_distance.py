"""Inner products against Python's integers, also where every sum is as large as it can be."""

from math import isqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.fixed import INT32_MAX, INT32_MIN
from fl.rules import distance
from fl.rules.distance import cosine_below, distances_from, gram, squared_distances
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


@given(rows(n_min=2, n_max=2), st.integers(-10, 10), st.integers(1, 2**16))
def test_a_cosine_is_compared_exactly_and_knows_no_length(
    values: list[list[int]], tenths: int, factor: int
) -> None:
    """It is below what the angle is below, and a positive factor does not change the answer."""
    first, second = values
    scaled = [[factor * u for u in first], second]
    inner, lengths = product(first, second), product(first, first) * product(second, second)

    found = cosine_below(gram(arrays(values)), tenths, 10)

    # inner / root(lengths) < tenths / 10, by the signs and then by the squares
    left, right = 100 * inner**2, tenths**2 * lengths
    assert found == (
        (inner < 0 <= tenths and lengths > 0)
        or (inner == 0 and tenths > 0 and lengths > 0)
        or (inner > 0 and tenths > 0 and left < right)
        or (inner < 0 and tenths < 0 and left > right)
    )
    products = tuple(tuple(product(x, y) for y in scaled) for x in scaled)
    assert cosine_below(products, tenths, 10) == found


@pytest.mark.parametrize("values", [[[0, 0], [3, 4]], [[3, 4], [0, 0]], [[0, 0], [0, 0]]])
def test_a_vector_of_length_zero_has_no_direction(values: list[list[int]]) -> None:
    """So its cosine is below nothing, not even below 1."""
    assert not any(cosine_below(gram(arrays(values)), least, 10) for least in (-10, 0, 10))


def test_no_cosine_is_below_minus_one() -> None:
    """Opposite vectors as large as there are: the least number switches a check off."""
    values = [[INT32_MAX] * 1_000, [-INT32_MAX] * 1_000]

    assert not cosine_below(gram(arrays(values)), -10, 10)
    assert cosine_below(gram(arrays(values)), -9, 10)


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
