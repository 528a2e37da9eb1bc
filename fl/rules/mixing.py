"""Pre-steps: each row that a rule sees is a mean of several updates.

A mixture is kept as whole shares, so that nothing is rounded before the rule's own division: row b
is the sum of shares[b][i] x_i over all updates i, divided by `whole`.
"""

from dataclasses import dataclass
from math import lcm

import numpy as np

from fl.fixed import INT32_MIN, Floats, Int32s, Ints
from fl.rules.distance import EXACT_MAX, Matrix
from fl.sampling import Stream, permutation
from vm.record import PARTICIPANTS_MAX
from vm.shape import Digest

# Of n - f equal shares, or of full buckets beside one that is not: lcm(s, r) with r < s <= 64.
WHOLE_MAX = PARTICIPANTS_MAX * (PARTICIPANTS_MAX - 1)
assert WHOLE_MAX * -INT32_MIN <= EXACT_MAX, "a mixed row is exact in float64"


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares [m, n] of n updates in m rows; each row's shares add up to `whole`."""

    shares: Matrix
    whole: int

    def __post_init__(self) -> None:
        assert 1 <= self.whole <= WHOLE_MAX, f"whole {self.whole}"
        assert all(sum(row) == self.whole and min(row) >= 0 for row in self.shares), "whole shares"

    def rows(self, rows: Int32s) -> Ints:
        """`whole` times the mixed rows, [m, c] of [n, c], exact and at most 2^31 WHOLE_MAX.

        The product is one of float64, which holds all partial sums as they are (`EXACT_MAX`).
        """
        shares: Floats = np.array(self.shares, np.float64)
        return (shares @ rows.astype(np.float64)).astype(np.int64)

    def products(self, products: Matrix) -> Matrix:
        """`whole`^2 times the inner products of the mixed rows, [m, m], exact."""
        half = [_times(self.shares, column) for column in products]  # [n, m]; symmetric
        return tuple(tuple(_times(self.shares, column)) for column in zip(*half, strict=True))

    def weights(self, weights: list[int]) -> list[int]:
        """Weights [n] of the updates that come to `weights` [m] of the mixed rows."""
        return [
            sum(w * share for w, share in zip(weights, column, strict=True))
            for column in zip(*self.shares, strict=True)
        ]


def _times(shares: Matrix, column: tuple[int, ...] | list[int]) -> list[int]:
    return [sum(s * value for s, value in zip(row, column, strict=True) if s) for row in shares]


def alone(n: int) -> Mixture:
    """Every update by itself."""
    return Mixture(tuple(tuple(int(i == j) for j in range(n)) for i in range(n)), 1)


def neighbours(distances: Matrix, f: int) -> Mixture:
    """Nearest-neighbour mixing (Allouah et al. 2023): every update with its n - f nearest.

    It is its own nearest. Of equally distant updates the first is nearer. Needs n > f.
    """
    n = len(distances)
    size = n - f
    assert size >= 1, f"{n} updates, f = {f}"
    return Mixture(
        tuple(_marks(n, sorted(range(n), key=lambda j: (row[j], j))[:size]) for row in distances),
        size,
    )


def buckets(n: int, size: int, seed: Digest) -> Mixture:
    """Bucketing (Karimireddy et al. 2022): means of `size` updates in an order drawn from `seed`.

    The last bucket holds what is left. One Byzantine update spoils one bucket.
    """
    order = permutation(n, Stream("buckets", seed))
    groups = [order[start : start + size] for start in range(0, n, size)]
    whole = lcm(*(len(group) for group in groups))
    return Mixture(
        tuple(tuple(whole // len(group) * mark for mark in _marks(n, group)) for group in groups),
        whole,
    )


def _marks(n: int, places: list[int]) -> tuple[int, ...]:
    chosen = set(places)
    return tuple(int(place in chosen) for place in range(n))
