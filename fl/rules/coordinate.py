"""Rules by coordinate: each coordinate of the aggregate comes from that coordinate of the rows.

Rows may be mixtures, given as `whole` times their value: at most 64 numerators of size
2^31 WHOLE_MAX < 2^43 are summed, and the sum is divided once, half to even.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.fixed import INT32_MIN, Ints, divide
from fl.rules.mixing import WHOLE_MAX
from fl.rules.rows import Deltas, by_chunk
from vm.record import PARTICIPANTS_MAX

assert PARTICIPANTS_MAX * -INT32_MIN * WHOLE_MAX < 2**62, "sums of mixed rows fit int64"


def trimmed_mean(rows: NDArray[Any], whole: int, f: int) -> Ints:
    """The mean [c] of rows [n, c] without the f lowest and f highest (Yin et al. 2018).

    Unweighted: a Byzantine site could otherwise claim its way past the trimming. Of equal values
    it does not matter which are dropped. Needs n >= 2f + 1.
    """
    n = len(rows)
    assert n >= 2 * f + 1, f"{n} rows, f = {f}"
    kept = _ascending(rows)[:, f : n - f]
    return divide(kept.sum(axis=1, dtype=np.int64), whole * (n - 2 * f))


def median(updates: Sequence[Deltas]) -> Ints:
    """The middle value [p] by coordinate of n updates [p], or the mean of the middle two."""
    drop = median_drop(len(updates))
    return by_chunk(updates, lambda rows: trimmed_mean(rows, 1, drop))


def median_drop(n: int) -> int:
    """The f with which the trimmed mean of n rows is their median: it leaves one row or two."""
    return (n - 1) // 2


def _ascending(rows: NDArray[Any]) -> NDArray[Any]:
    """[c, n] of [n, c]: numpy sorts neighbours in memory several times faster than columns."""
    return np.sort(np.ascontiguousarray(rows.T), axis=1)
