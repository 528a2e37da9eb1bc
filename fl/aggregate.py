"""Aggregation rules in integers: equal updates give equal bytes on every machine.

An update is a vector of grid integers that fit int32; n updates of p coordinates make one vector
of p. Rules work on CHUNK coordinates at a time, so that memory beyond the updates is bounded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl.fixed import INT32_MAX, INT32_MIN, Ints, check_range, divide
from vm.record import PARTICIPANTS_MAX
from vm.refusal import Refused
from vm.terms import WEIGHT_MAX, Aggregation, Rule

Deltas: TypeAlias = NDArray[np.int32] | Ints  # of one update; int32 as it travels

CHUNK = 65_536  # coordinates at a time: 32 MiB for PARTICIPANTS_MAX updates in int64

# The largest sum that any rule forms: 2^6 updates x 2^31 x a weight below 2^20 is below 2^57.
SUM_MAX = PARTICIPANTS_MAX * -INT32_MIN * WEIGHT_MAX
assert SUM_MAX < 2**57, "sums of weighted updates fit int64"


def aggregate(
    aggregation: Aggregation,
    updates: Sequence[Deltas],
    weights: Sequence[int],
    ids: Sequence[str],
) -> Ints:
    """The aggregate [p] of n updates [p], whatever their order; `ids` are the organisations.

    Raises `Refused("aggregate.too_few")` below the task's smallest n.
    """
    assert len(updates) == len(weights) == len(ids) == len(set(ids)), "one of each per id"
    if len(updates) < aggregation.updates_min:
        raise Refused(
            "aggregate.too_few",
            f"expected at least {aggregation.updates_min} updates, found {len(updates)}",
        )
    order = sorted(range(len(ids)), key=lambda place: ids[place])
    rows = [updates[place] for place in order]
    match aggregation.rule:
        case Rule.WEIGHTED_MEAN:
            return weighted_mean(rows, [weights[place] for place in order])
        case Rule.TRIMMED_MEAN:
            return trimmed_mean(rows, aggregation.f)
        case _:
            raise AssertionError(f"`fl.task` opens no task with {aggregation.rule.value}")


def weighted_mean(updates: Sequence[Deltas], weights: Sequence[int]) -> Ints:
    """sum(w u) / sum(w) by coordinate, rounded half to even (McMahan et al. 2017, FedAvg).

    |w u| <= 2^31 WEIGHT_MAX and at most PARTICIPANTS_MAX terms: the sum stays within SUM_MAX.
    """
    assert len(updates) == len(weights), "one weight per update"
    assert all(1 <= weight <= WEIGHT_MAX for weight in weights), f"weights {weights}"
    scale = np.array(weights, np.int64)[:, np.newaxis]  # [n, 1]
    total = sum(weights)
    return _by_chunk(updates, lambda rows: divide((rows * scale).sum(axis=0), total))


def trimmed_mean(updates: Sequence[Deltas], f: int) -> Ints:
    """The mean by coordinate without the f lowest and f highest values (Yin et al. 2018).

    Unweighted: a Byzantine site could otherwise claim its way past the trimming. Of equal values
    it does not matter which are dropped. Needs n >= 2f + 1; raises `Refused("aggregate.too_few")`.
    At most PARTICIPANTS_MAX terms of size 2^31 are summed, far within SUM_MAX.
    """
    n = len(updates)
    if n < 2 * f + 1:
        raise Refused("aggregate.too_few", f"expected at least {2 * f + 1} updates, found {n}")
    return _by_chunk(
        updates, lambda rows: divide(np.sort(rows, axis=0)[f : n - f].sum(axis=0), n - 2 * f)
    )


def _by_chunk(updates: Sequence[Deltas], rule: Callable[[Ints], Ints]) -> Ints:
    """Apply `rule` ([n, c] -> [c]) to every chunk of c coordinates."""
    result = np.empty(len(updates[0]), np.int64)
    for part, rows in _chunks(updates):
        mean = rule(rows)
        assert not mean.size or INT32_MIN <= mean.min() <= mean.max() <= INT32_MAX, (
            "a mean is within"
        )
        result[part] = mean
    return result


def _chunks(updates: Sequence[Deltas]) -> Iterator[tuple[slice, Ints]]:
    """Slices of the coordinates and the updates there, [n, c]; refuses what int32 cannot hold."""
    assert 1 <= len(updates) <= PARTICIPANTS_MAX, f"{len(updates)} updates"
    assert len({update.shape for update in updates}) == 1, "updates of one model"
    for start in range(0, len(updates[0]), CHUNK):
        part = slice(start, start + CHUNK)
        yield part, check_range(np.stack([update[part] for update in updates]).astype(np.int64))
