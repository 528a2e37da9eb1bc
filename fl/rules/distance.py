"""Exact inner products of updates, from which all distances and norms follow.

Distances as x^2 + y^2 - 2xy cancel in float32 and choose other neighbours on other machines
(field notes of byzfl and flwr). Here every number is an exact integer: a difference of sums of
2^25 squares of 32 bits needs 88 bits, so that sums are kept in words and meet as Python integers.

A word times a word is multiplied as float64, by the machine's matrix product. That is exact, and so
equal whatever the order of summation: an update is split as 2^16 high + low with |high| <= 2^15 and
0 <= low < 2^16; a product is below 2^32 and the sum of a chunk of 2^14 below 2^46, far within the
2^53 up to which float64 holds every integer (docs/adr/0017).
"""

from collections.abc import Sequence
from math import isqrt
from typing import TypeAlias

import numpy as np

from fl.fixed import Floats
from fl.rules.rows import CHUNK, Deltas, chunks
from fl.spec import PARAMETERS_MAX

Matrix: TypeAlias = tuple[tuple[int, ...], ...]  # of Python integers, row by row

WORD_BITS = 16
EXACT_MAX = 2**53  # float64 holds every integer up to here
assert CHUNK * 2 ** (2 * WORD_BITS) <= EXACT_MAX, "a chunk's products sum up exactly in float64"
assert PARAMETERS_MAX * 2 ** (2 * WORD_BITS) < 2**63, "sums over all chunks fit int64"


def gram(updates: Sequence[Deltas]) -> Matrix:
    """The inner products [n, n] of n updates, exact; raises `Refused("update.range")`."""
    n = len(updates)
    sums = np.zeros((2 * n, 2 * n), np.int64)
    words: Floats = np.empty((2 * n, CHUNK))
    for _, rows in chunks(updates):
        size = rows.shape[1]
        np.right_shift(rows, WORD_BITS, out=words[:n, :size], casting="unsafe")
        np.bitwise_and(rows, 2**WORD_BITS - 1, out=words[n:, :size], casting="unsafe")
        filled = words[:, :size]
        sums += (filled @ filled.T).astype(np.int64)
    found = sums.tolist()
    return tuple(
        tuple(
            (found[i][j] << 2 * WORD_BITS)
            + ((found[i][n + j] + found[n + i][j]) << WORD_BITS)
            + found[n + i][n + j]
            for j in range(n)
        )
        for i in range(n)
    )


def squared_distances(products: Matrix) -> Matrix:
    """|x_i - x_j|^2, [n, n], exact."""
    own = norms_squared(products)
    return tuple(
        tuple(own[i] + own[j] - 2 * product for j, product in enumerate(row))
        for i, row in enumerate(products)
    )


def cosine_below(products: Matrix, minimum: int, whole: int) -> bool:
    """Whether the cosine of two vectors is below minimum / whole; `products` are [2, 2], exact.

    Compared as squares that keep their signs: t |t| rises with t, and no root is taken. A vector
    of length 0 has no direction, and nothing is below anything.
    """
    inner, (first, second) = products[0][1], norms_squared(products)
    return inner * abs(inner) * whole**2 < minimum * abs(minimum) * first * second


def norms_squared(products: Matrix) -> list[int]:
    """|x_i|^2, [n]."""
    return [row[i] for i, row in enumerate(products)]


def distances_from(products: Matrix, weights: Sequence[int], total: int) -> list[int]:
    """Floors of |total x_i - sum_j w_j x_j|, [n]: distances from a weighted sum, times `total`."""
    towards = [sum(w * g for w, g in zip(weights, row, strict=True) if w) for row in products]
    center = sum(w * t for w, t in zip(weights, towards, strict=True))
    own = norms_squared(products)
    return [
        isqrt(total * (total * square - 2 * product) + center)
        for square, product in zip(own, towards, strict=True)
    ]
