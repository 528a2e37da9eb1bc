"""The aggregate by every rule: exact, in any order, and with Byzantine rows among the updates."""

from dataclasses import replace
from fractions import Fraction
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.aggregate import SUM_MAX, TOTAL_MAX, aggregate, weighted_mean
from fl.fixed import INT32_MAX, INT32_MIN, Ints
from fl.rules.mixing import buckets
from fl.rules.rows import CHUNK
from tests.fl.rules.rows import arrays, cluster, rows, squared_distance, weighted_sum
from tests.fl.terms import by
from vm.digest import BEACON, digest
from vm.record import PARTICIPANTS_MAX
from vm.refusal import Refused
from vm.terms import MICRO, WEIGHT_MAX, Aggregation, Mixing, Rule

SEED = digest(BEACON, b"a seed")
WEIGHTS = st.integers(1, WEIGHT_MAX)
MIXINGS = {Mixing.NONE: 1, Mixing.NEIGHBOURS: 1, Mixing.BUCKETS: 2}  # with the size of buckets
ROBUST = [rule for rule in Rule if rule is not Rule.WEIGHTED_MEAN]


def task_rule(rule: Rule, mixing: Mixing = Mixing.NONE, f: int = 1) -> Aggregation:
    """The rule after the pre-step, with no smallest n but its own."""
    radius = MICRO if rule is Rule.CENTERED_CLIPPING else 0
    return replace(by(rule, f, 1), mixing=mixing, bucket=MIXINGS[mixing], radius_factor=radius)


ALL = [by(Rule.WEIGHTED_MEAN, 0, 1)] + [task_rule(r, mixing) for r in ROBUST for mixing in MIXINGS]


def combined(rule: Aggregation, updates: list[Ints]) -> Ints:
    """The aggregate of updates of equal weight."""
    ids = [f"hospital-{number:02}" for number in range(len(updates))]
    return aggregate(rule, updates, [1] * len(updates), ids, SEED)


def lost(rule: Aggregation, units: int) -> int:
    """What floors of centered clipping's weights may take from so many grid units."""
    return abs(units) >> 22 if rule.rule is Rule.CENTERED_CLIPPING else 0


@given(rows(), st.data())
def test_weighted_mean_is_exact(values: list[list[int]], data: st.DataObject) -> None:
    """Every coordinate is the weighted mean rounded half to even."""
    n = len(values)
    weights = data.draw(st.lists(WEIGHTS, min_size=n, max_size=n))

    found = weighted_mean(arrays(values), weights, sum(weights))

    expected = [round(Fraction(value, sum(weights))) for value in weighted_sum(weights, values)]
    assert found.tolist() == expected


@given(rows(n_min=3), st.integers(0, 4))
def test_trimmed_mean_is_exact(values: list[list[int]], f: int) -> None:
    """Every coordinate is the mean of what is left, rounded half to even."""
    n = len(values)
    f = min(f, (n - 1) // 2)

    found = combined(task_rule(Rule.TRIMMED_MEAN, f=f), arrays(values))

    expected = [
        round(Fraction(sum(sorted(column)[f : n - f]), n - 2 * f))
        for column in zip(*values, strict=True)
    ]
    assert found.tolist() == expected


@given(rows(n_min=3))
def test_median_is_exact(values: list[list[int]]) -> None:
    """Of an even number it is the mean of the middle two, rounded half to even."""
    found = combined(task_rule(Rule.MEDIAN), arrays(values))

    columns = zip(*values, strict=True)
    assert found.tolist() == [round(median(map(Fraction, column))) for column in columns]


@given(rows(n_min=5), st.sampled_from((Rule.KRUM, Rule.MULTI_KRUM)))
def test_krum_is_exact(values: list[list[int]], rule: Rule) -> None:
    """The first row of least sum of squares to n - f - 2 others, or the mean of n - f such rows."""
    n = len(values)

    found = combined(task_rule(rule), arrays(values))

    scores = [sum(sorted(squared_distance(x, y) for y in values)[: n - 2]) for x in values]
    count = 1 if rule is Rule.KRUM else n - 1
    best = sorted(range(n), key=lambda place: (scores[place], place))[:count]
    columns = zip(*(values[place] for place in best), strict=True)
    assert found.tolist() == [round(Fraction(sum(column), count)) for column in columns]


@given(rows(n_min=3))
def test_neighbours_then_trimmed_mean_is_exact(values: list[list[int]]) -> None:
    """One division at the end: means of neighbours are not rounded on the way."""
    n = len(values)

    found = combined(task_rule(Rule.TRIMMED_MEAN, Mixing.NEIGHBOURS), arrays(values))

    mixed = []
    for x in values:
        order = sorted((squared_distance(x, y), place) for place, y in enumerate(values))
        nearest = [values[place] for _, place in order[: n - 1]]
        mixed.append([Fraction(sum(column), n - 1) for column in zip(*nearest, strict=True)])
    expected = [
        round(sum(sorted(column)[1 : n - 1], Fraction()) / (n - 2))
        for column in zip(*mixed, strict=True)
    ]
    assert found.tolist() == expected


@given(rows(n_min=5))
def test_buckets_then_median_is_exact(values: list[list[int]]) -> None:
    """Also with a last bucket of another size."""
    found = combined(task_rule(Rule.MEDIAN, Mixing.BUCKETS), arrays(values))

    mixture = buckets(len(values), 2, SEED)
    means = [
        [Fraction(value, mixture.whole) for value in weighted_sum(list(shares), values)]
        for shares in mixture.shares
    ]
    assert found.tolist() == [round(median(column)) for column in zip(*means, strict=True)]


@given(rows(n_min=11, n_max=12), st.sampled_from(ALL), st.data())
def test_order_of_updates_does_not_matter(
    values: list[list[int]], rule: Aggregation, data: st.DataObject
) -> None:
    """The same updates in another order give the same aggregate, by every rule."""
    n = len(values)
    weights = data.draw(st.lists(WEIGHTS, min_size=n, max_size=n))
    ids = [f"hospital-{number:02}" for number in range(n)]
    order = data.draw(st.permutations(range(n)))
    if rule.rule is Rule.CENTERED_CLIPPING and rule.mixing is Mixing.BUCKETS:
        rule = replace(rule, f=0)  # 19 updates would be needed
    updates = arrays(values)

    straight = aggregate(rule, updates, weights, ids, SEED)
    shuffled = aggregate(
        rule,
        [updates[i] for i in order],
        [weights[i] for i in order],
        [ids[i] for i in order],
        SEED,
    )

    assert straight.tolist() == shuffled.tolist()


@given(rows(n_min=4), st.sampled_from((Rule.TRIMMED_MEAN, Rule.MEDIAN)), st.data())
def test_byzantine_row_cannot_leave_the_honest_range(
    values: list[list[int]], rule: Rule, data: st.DataObject
) -> None:
    """With f = 1, whatever one row says, each coordinate stays between honest values."""
    p = len(values[0])
    byzantine = data.draw(
        st.lists(st.integers(INT32_MIN, INT32_MAX), min_size=p, max_size=p)
        | st.sampled_from(([INT32_MAX] * p, [INT32_MIN] * p))
    )

    found = combined(task_rule(rule), arrays([*values, byzantine]))

    for coordinate, honest in zip(found.tolist(), zip(*values, strict=True), strict=True):
        assert min(honest) <= coordinate <= max(honest)


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("rule", ROBUST)
def test_far_rows_do_not_drag_a_robust_rule_away(rule: Rule, mixing: Mixing) -> None:
    """Two of 40 sites at the end of the range: every rule stays among the honest, the mean not."""
    honest = cluster(9, 38)
    attack = [np.full(200, end, np.int64) for end in (INT32_MAX, INT32_MIN + 2)]
    updates = [*honest, *attack]

    found = combined(task_rule(rule, mixing, f=2), updates)

    center = np.mean(honest, axis=0)
    allowed = max(float(np.linalg.norm(row - center)) for row in honest)
    assert np.linalg.norm(found - center) < allowed
    one = combined(by(Rule.WEIGHTED_MEAN, 0, 1), [*honest, attack[0]])
    assert np.linalg.norm(one - center) > 10 * allowed


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: f"{rule.rule}-{rule.mixing}")
@pytest.mark.parametrize("ends", [(INT32_MIN, INT32_MIN), (INT32_MIN, INT32_MAX)])
def test_largest_sums_do_not_overflow(rule: Aggregation, ends: tuple[int, int]) -> None:
    """As many updates as there may be, at the ends of the range, with the largest weight."""
    half = PARTICIPANTS_MAX // 2
    updates = [np.full(3, end, np.int32) for end in ends for _ in range(half)]
    ids = [f"hospital-{number:02}" for number in range(PARTICIPANTS_MAX)]

    found = aggregate(rule, updates, [WEIGHT_MAX] * PARTICIPANTS_MAX, ids, SEED)

    assert len(set(found.tolist())) == 1
    assert min(ends) <= found[0] <= max(ends) + lost(rule, INT32_MIN)


def test_the_largest_weights_fit_the_largest_sum() -> None:
    """What the docstring of `weighted_mean` rests on."""
    lowest = [np.full(3, INT32_MIN, np.int64)]

    assert weighted_mean(lowest, [TOTAL_MAX], TOTAL_MAX).tolist() == [INT32_MIN] * 3
    assert SUM_MAX <= 2**62
    with pytest.raises(AssertionError):
        weighted_mean(lowest, [TOTAL_MAX + 1], TOTAL_MAX + 1)


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: f"{rule.rule}-{rule.mixing}")
def test_equal_updates_are_their_own_aggregate(rule: Aggregation) -> None:
    """Nobody loses by agreeing; clipping to the common norm leaves the common update."""
    updates = [np.array([5, -7, 2**30, 0], np.int64)] * 19

    found = combined(rule, updates)

    assert np.max(np.abs(found - updates[0])) <= lost(rule, 2**30)


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: f"{rule.rule}-{rule.mixing}")
def test_chunks_join_without_a_seam(rule: Aggregation) -> None:
    """Coordinates around the end of a chunk are aggregated like any other."""
    p = 2 * CHUNK + 3
    random = np.random.default_rng(3)
    scales = random.integers(1, 9, 20).tolist()
    updates = [np.arange(p, dtype=np.int64) * scale for scale in scales]

    found = combined(rule, updates)

    steps = np.diff(found)
    assert len(found) == p
    assert steps.max() - steps.min() <= 1  # a straight line, but for rounding


def test_agrees_with_floating_point_means() -> None:
    """On ordinary updates the integer mean is numpy's float mean to within half a unit."""
    updates = cluster(7, 5)
    weights = [3, 1, 4, 1, 5]

    found = weighted_mean(updates, weights, sum(weights))

    expected = np.average(np.array(updates, np.float64), axis=0, weights=weights)
    assert np.max(np.abs(found - expected)) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "rule", [by(Rule.WEIGHTED_MEAN, 0, 3), by(Rule.TRIMMED_MEAN, 1, 1), by(Rule.KRUM, 0, 1)]
)
def test_too_few_updates_are_refused(rule: Aggregation) -> None:
    """Below the task's smallest n, and below the rule's own, there is no aggregate."""
    with pytest.raises(Refused, match=r"aggregate\.too_few"):
        combined(rule, arrays([[1], [2]]))


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: f"{rule.rule}-{rule.mixing}")
def test_update_beyond_int32_is_refused(rule: Aggregation) -> None:
    """The bounds of the sums rest on int32, so that is checked here and not assumed."""
    with pytest.raises(Refused, match=r"update\.range"):
        combined(rule, [*cluster(1, 18, p=1), np.array([2**31], np.int64)])
