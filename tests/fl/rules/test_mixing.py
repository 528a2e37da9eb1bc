"""Pre-steps: shares that add up, neighbours by exact distance, buckets that nobody chooses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.fixed import INT32_MIN
from fl.rules.distance import EXACT_MAX, gram, squared_distances
from fl.rules.mixing import WHOLE_MAX, Mixture, alone, buckets, neighbours
from tests.fl.rules.rows import arrays, product, rows, squared_distance, weighted_sum
from vm.digest import BEACON, digest
from vm.record import PARTICIPANTS_MAX

SEED = digest(BEACON, b"a seed")


@given(rows(n_min=2), st.data())
def test_neighbours_are_the_nearest(values: list[list[int]], data: st.DataObject) -> None:
    """Each row is itself and its n - f - 1 nearest others, the first of equally distant ones."""
    n = len(values)
    f = data.draw(st.integers(0, n - 1))

    mixture = neighbours(squared_distances(gram(arrays(values))), f)

    assert mixture.whole == n - f
    for x, shares in zip(values, mixture.shares, strict=True):
        order = sorted((squared_distance(x, y), place) for place, y in enumerate(values))
        nearest = sorted(place for _, place in order[: n - f])
        assert [place for place in range(n) if shares[place]] == nearest


@given(st.integers(1, PARTICIPANTS_MAX), st.integers(1, PARTICIPANTS_MAX))
def test_buckets_hold_every_update_once(n: int, size: int) -> None:
    """Full buckets and one of what is left; in each the shares are equal and add up to whole."""
    mixture = buckets(n, size, SEED)

    found = [[place for place, share in enumerate(row) if share] for row in mixture.shares]
    assert sorted(place for group in found for place in group) == list(range(n))
    assert [len(group) for group in found[:-1]] == [size] * (len(found) - 1)
    assert 1 <= len(found[-1]) <= size
    for row, group in zip(mixture.shares, found, strict=True):
        assert {row[place] * len(group) for place in group} == {mixture.whole}


def test_buckets_follow_from_the_seed() -> None:
    """Another seed puts updates together otherwise; the same seed never does."""
    other = digest(BEACON, b"another seed")

    assert buckets(10, 3, SEED) == buckets(10, 3, SEED)
    assert buckets(10, 3, SEED) != buckets(10, 3, other)


@given(rows(n_min=2), st.integers(0, 2), st.data())
def test_mixed_rows_products_and_weights_agree(
    values: list[list[int]], kind: int, data: st.DataObject
) -> None:
    """Mixing rows, mixing inner products and mixing back weights are the same linear map."""
    n = len(values)
    products = gram(arrays(values))
    near = neighbours(squared_distances(products), n // 2)
    mixture = (alone(n), near, buckets(n, 2, SEED))[kind]
    m = len(mixture.shares)
    weights = data.draw(st.lists(st.integers(0, 100), min_size=m, max_size=m))

    mixed = mixture.rows(np.array(values, np.int32)).tolist()

    assert mixed == [weighted_sum(list(shares), values) for shares in mixture.shares]
    assert mixture.products(products) == tuple(tuple(product(x, y) for y in mixed) for x in mixed)
    assert weighted_sum(weights, mixed) == weighted_sum(mixture.weights(weights), values)


def test_largest_mixed_rows_are_exact() -> None:
    """Two buckets of 33 and 31 of 64 updates: shares have a large common whole."""
    mixture = buckets(PARTICIPANTS_MAX, 33, SEED)
    lowest = np.full((PARTICIPANTS_MAX, 2), INT32_MIN, np.int32)

    mixed = mixture.rows(lowest)

    assert mixture.whole == 33 * 31
    assert mixed.tolist() == [[INT32_MIN * mixture.whole] * 2] * 2


def test_no_buckets_need_a_larger_whole_than_the_bound() -> None:
    """All numbers of updates and all sizes."""
    sizes = range(1, PARTICIPANTS_MAX + 1)

    largest = max(buckets(n, size, SEED).whole for n in sizes for size in sizes)

    assert largest <= WHOLE_MAX
    assert WHOLE_MAX * -INT32_MIN <= EXACT_MAX


def test_shares_that_do_not_add_up_are_our_own_bug() -> None:
    """A mixture checks itself."""
    with pytest.raises(AssertionError, match="whole"):
        Mixture(((1, 1), (1, 0)), 2)
