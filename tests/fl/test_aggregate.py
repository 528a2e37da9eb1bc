"""Aggregation rules against exact arithmetic, in any order, and with a Byzantine row among them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.aggregate import CHUNK, SUM_MAX, aggregate, trimmed_mean, weighted_mean
from fl.fixed import INT32_MAX, INT32_MIN, Ints
from tests.fl.terms import by
from vm.record import PARTICIPANTS_MAX
from vm.refusal import Refused
from vm.terms import WEIGHT_MAX, Aggregation, Rule

MEAN = by(Rule.WEIGHTED_MEAN, 0, 1)
WEIGHTS = st.integers(1, WEIGHT_MAX)


@st.composite
def rows(draw: st.DrawFn, n_min: int = 1) -> list[list[int]]:
    """N updates of p coordinates, small and large ones, so that ties occur."""
    n, p = draw(st.integers(n_min, 9)), draw(st.integers(1, 5))
    unit = st.integers(-3, 3) | st.integers(INT32_MIN, INT32_MAX)
    return draw(st.lists(st.lists(unit, min_size=p, max_size=p), min_size=n, max_size=n))


def arrays(values: list[list[int]]) -> list[Ints]:
    """The rows as updates."""
    return [np.array(row, np.int64) for row in values]


@given(rows(), st.data())
def test_weighted_mean_is_exact(values: list[list[int]], data: st.DataObject) -> None:
    """Every coordinate is the weighted mean rounded half to even."""
    n = len(values)
    weights = data.draw(st.lists(WEIGHTS, min_size=n, max_size=n))

    found = weighted_mean(arrays(values), weights)

    expected = [
        round(Fraction(sum(w * u for w, u in zip(weights, column, strict=True)), sum(weights)))
        for column in zip(*values, strict=True)
    ]
    assert found.tolist() == expected


@given(rows(n_min=3), st.integers(0, 4))
def test_trimmed_mean_is_exact(values: list[list[int]], f: int) -> None:
    """Every coordinate is the mean of what is left, rounded half to even."""
    n = len(values)
    f = min(f, (n - 1) // 2)

    found = trimmed_mean(arrays(values), f)

    expected = [
        round(Fraction(sum(sorted(column)[f : n - f]), n - 2 * f))
        for column in zip(*values, strict=True)
    ]
    assert found.tolist() == expected


@given(rows(n_min=3), st.sampled_from((MEAN, by(Rule.TRIMMED_MEAN, 1, 3))), st.data())
def test_order_of_updates_does_not_matter(
    values: list[list[int]], rule: Aggregation, data: st.DataObject
) -> None:
    """The same updates in another order give the same aggregate."""
    n = len(values)
    weights = data.draw(st.lists(WEIGHTS, min_size=n, max_size=n))
    ids = [f"hospital-{number}" for number in range(n)]
    order = data.draw(st.permutations(range(n)))
    updates = arrays(values)

    straight = aggregate(rule, updates, weights, ids)
    shuffled = aggregate(
        rule, [updates[i] for i in order], [weights[i] for i in order], [ids[i] for i in order]
    )

    assert straight.tolist() == shuffled.tolist()


@given(rows(n_min=3), st.data())
def test_byzantine_row_cannot_leave_the_honest_range(
    values: list[list[int]], data: st.DataObject
) -> None:
    """With f = 1, whatever one row says, each coordinate stays between honest values."""
    p = len(values[0])
    byzantine = data.draw(
        st.lists(st.integers(INT32_MIN, INT32_MAX), min_size=p, max_size=p)
        | st.sampled_from(([INT32_MAX] * p, [INT32_MIN] * p))
    )

    found = trimmed_mean(arrays([*values, byzantine]), 1)

    for coordinate, honest in zip(found.tolist(), zip(*values, strict=True), strict=True):
        assert min(honest) <= coordinate <= max(honest)


def test_one_row_drags_the_plain_mean_away() -> None:
    """The attack that the trimmed mean stands moves the weighted mean as far as it likes."""
    honest = [[10], [11], [12]]
    attack = [INT32_MAX]

    assert weighted_mean(arrays([*honest, attack]), [1] * 4)[0] > 500_000_000
    assert trimmed_mean(arrays([*honest, attack]), 1).tolist() == [12]  # of 11 and 12, to even


def test_agrees_with_floating_point_means() -> None:
    """On ordinary updates the integer mean is numpy's float mean to within half a unit."""
    random = np.random.default_rng(7)
    updates = [random.integers(-(2**24), 2**24, 1_000) for _ in range(5)]
    weights = [3, 1, 4, 1, 5]

    found = weighted_mean(updates, weights)

    expected = np.average(np.array(updates, np.float64), axis=0, weights=weights)
    assert np.max(np.abs(found - expected)) <= 0.5 + 1e-6


def test_largest_sums_do_not_overflow() -> None:
    """As many updates as there may be, at the end of the range, with the largest weight."""
    lowest = [np.full(3, INT32_MIN, np.int64)] * PARTICIPANTS_MAX

    mean = weighted_mean(lowest, [WEIGHT_MAX] * PARTICIPANTS_MAX)

    assert mean.tolist() == [INT32_MIN] * 3
    assert SUM_MAX < 2**63
    assert trimmed_mean(lowest, 31).tolist() == [INT32_MIN] * 3


def test_chunks_join_without_a_seam() -> None:
    """Coordinates around the end of a chunk are aggregated like any other."""
    p = 2 * CHUNK + 3
    updates = [np.arange(p, dtype=np.int64) * sign for sign in (1, 1, 4)]

    assert np.array_equal(weighted_mean(updates, [1, 1, 1]), 2 * np.arange(p))
    assert np.array_equal(trimmed_mean(updates, 1), np.arange(p))


def test_too_few_updates_are_refused() -> None:
    """Below the task's smallest n, and below the rule's own, there is no aggregate."""
    updates = arrays([[1], [2]])

    with pytest.raises(Refused, match=r"aggregate\.too_few"):
        aggregate(by(Rule.WEIGHTED_MEAN, 0, 3), updates, [1, 1], ["a", "b"])
    with pytest.raises(Refused, match=r"aggregate\.too_few"):
        trimmed_mean(updates, 1)


def test_update_beyond_int32_is_refused() -> None:
    """The bounds of the sums rest on int32, so that is checked here and not assumed."""
    with pytest.raises(Refused, match=r"update\.range"):
        weighted_mean([np.array([2**31], np.int64)], [1])
