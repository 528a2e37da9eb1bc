"""The aggregate of a round's accepted updates, by the rule that its task names.

An update is a vector of grid integers that fit int32; n updates of p coordinates make one vector
of p. First the updates may be mixed, then a rule combines the rows, and one division, half to even,
brings the outcome back to the grid.
"""

from collections.abc import Sequence

import numpy as np

from fl.fixed import INT32_MIN, Int32s, Ints, divide
from fl.resilience import updates_needed
from fl.rules import choice, coordinate, mixing
from fl.rules.distance import Matrix, gram, squared_distances
from fl.rules.mixing import Mixture
from fl.rules.rows import Deltas, by_chunk
from vm.record import PARTICIPANTS_MAX
from vm.refusal import Refused
from vm.shape import Digest
from vm.terms import WEIGHT_MAX, Aggregation, Mixing, Rule

# Weights of a weighted sum add up to at most this, so that the sum itself fits int64.
TOTAL_MAX = 2**31
SUM_MAX = TOTAL_MAX * -INT32_MIN
assert PARTICIPANTS_MAX * WEIGHT_MAX <= TOTAL_MAX, "sites' weights are among them"
assert SUM_MAX <= 2**62, "sums of weighted updates fit int64, and twice a remainder does"


def aggregate(
    aggregation: Aggregation,
    updates: Sequence[Deltas],
    weights: Sequence[int],
    ids: Sequence[str],
    seed: Digest,
) -> Ints:
    """The aggregate [p] of n updates [p], whatever their order; `ids` are the organisations.

    Only the weighted mean looks at `weights`; buckets are drawn from `seed`, the round's, which
    nobody knew when updates came. Raises `Refused("aggregate.too_few")` below the smallest n of
    the task or the rule, and `Refused("update.range")` for what int32 does not hold.
    """
    assert len(updates) == len(weights) == len(ids) == len(set(ids)), "one of each per id"
    needed = max(aggregation.updates_min, updates_needed(aggregation))
    if len(updates) < needed:
        raise Refused(
            "aggregate.too_few", f"expected at least {needed} updates, found {len(updates)}"
        )
    order = sorted(range(len(ids)), key=lambda place: ids[place])
    rows = [updates[place] for place in order]
    if aggregation.rule is Rule.WEIGHTED_MEAN:
        shares = [weights[place] for place in order]
        return weighted_mean(rows, shares, sum(shares))
    return _combine(aggregation, rows, seed)


def _combine(aggregation: Aggregation, updates: list[Deltas], seed: Digest) -> Ints:
    """Mix, then choose weights by geometry or go through the coordinates."""
    rule, f = aggregation.rule, aggregation.f
    by_coordinate = rule in (Rule.MEDIAN, Rule.TRIMMED_MEAN)
    if by_coordinate and aggregation.mixing is not Mixing.NEIGHBOURS:
        products: Matrix = ()  # nobody asks for a distance
    else:
        products = gram(updates)
    mixture = _mixture(aggregation, len(updates), products, seed)
    if by_coordinate:
        return _by_coordinate(rule, f, updates, mixture)
    chosen, total = _choose(aggregation, mixture.products(products), TOTAL_MAX // mixture.whole)
    return weighted_mean(updates, mixture.weights(chosen), total * mixture.whole)


def _mixture(aggregation: Aggregation, n: int, products: Matrix, seed: Digest) -> Mixture:
    match aggregation.mixing:
        case Mixing.NONE:
            return mixing.alone(n)
        case Mixing.NEIGHBOURS:
            return mixing.neighbours(squared_distances(products), aggregation.f)
        case Mixing.BUCKETS:
            return mixing.buckets(n, aggregation.bucket, seed)


def _choose(aggregation: Aggregation, products: Matrix, scale: int) -> choice.Weights:
    match aggregation.rule:
        case Rule.KRUM:
            return choice.krum(products, aggregation.f)
        case Rule.MULTI_KRUM:
            return choice.multi_krum(products, aggregation.f)
        case Rule.GEOMETRIC_MEDIAN:
            return choice.geometric_median(products, scale)
        case Rule.CENTERED_CLIPPING:
            return choice.centered_clipping(products, scale, aggregation.radius_factor)
        case Rule.WEIGHTED_MEAN | Rule.MEDIAN | Rule.TRIMMED_MEAN:
            raise AssertionError(f"{aggregation.rule} does not go by geometry")


def _by_coordinate(rule: Rule, f: int, updates: Sequence[Deltas], mixture: Mixture) -> Ints:
    drop = coordinate.median_drop(len(mixture.shares)) if rule is Rule.MEDIAN else f
    if mixture.whole == 1:  # every row is an update
        return by_chunk(updates, lambda rows: coordinate.trimmed_mean(rows, 1, drop))
    return by_chunk(
        updates, lambda rows: coordinate.trimmed_mean(mixture.rows(rows), mixture.whole, drop)
    )


def weighted_mean(updates: Sequence[Deltas], weights: Sequence[int], total: int) -> Ints:
    """sum(w u) / total by coordinate, half to even (McMahan et al. 2017, FedAvg): [p].

    The weights add up to at most `total`, and that is at most TOTAL_MAX: every partial sum stays
    within SUM_MAX.
    """
    assert len(updates) == len(weights), "one weight per update"
    assert all(weight >= 0 for weight in weights), f"weights {weights}"
    assert max(1, sum(weights)) <= total <= TOTAL_MAX, f"weights {weights} of {total}"
    counted = [(place, weight) for place, weight in enumerate(weights) if weight]

    def mean(rows: Int32s) -> Ints:
        numerators = np.zeros(rows.shape[1], np.int64)
        for place, weight in counted:
            numerators += np.multiply(rows[place], weight, dtype=np.int64)
        return divide(numerators, total)

    return by_chunk(updates, mean)
