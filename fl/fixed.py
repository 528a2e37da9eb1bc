"""The grid: weights and updates as whole multiples of 2^-bits, equal on every machine.

A grid unit is 2^-bits of the real number. Grid integers are held as int64 and must fit int32,
the form in which they travel. All arithmetic on them is exact or rounds half to even.
"""

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from vm.refusal import Refused

Ints = NDArray[np.int64]  # grid integers
Int32s = NDArray[np.int32]  # the same as stored: to be widened first, a difference may not fit
Floats = NDArray[np.float64]

GRID_BITS_MIN = 20
GRID_BITS_MAX = 24
INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1
CHUNK = 2**20  # coordinates worked on at a time: 8 MiB
DIVISOR_MAX = 2**62  # twice a remainder must fit int64
SQUARE_MAX = 2**62  # of an int32; a root one too high still has a square in int64


def to_grid(values: Floats, bits: int) -> Ints:
    """Round to the nearest grid unit, half to even; raises `Refused("update.range")`.

    Scaling by a power of two is exact, so one rounding happens, and it is the same everywhere.
    """
    assert GRID_BITS_MIN <= bits <= GRID_BITS_MAX, f"grid bits {bits}"
    with np.errstate(over="ignore"):  # what overflows is refused below as infinite
        scaled = np.rint(np.asarray(values, np.float64) * float(2**bits))
    # NaN compares false, so it is refused like a number out of range
    if not np.all((scaled >= INT32_MIN) & (scaled <= INT32_MAX)):
        raise Refused(
            "update.range",
            f"expected finite numbers of size below 2^{31 - bits}, found one beyond",
        )
    return scaled.astype(np.int64)


def from_grid(units: Ints | Int32s, bits: int) -> Floats:
    """The real numbers, exact: an int32 times a power of two fits float64."""
    assert GRID_BITS_MIN <= bits <= GRID_BITS_MAX, f"grid bits {bits}"
    numbers = units.astype(np.float64)
    numbers *= 2.0**-bits
    return numbers


def check_range(units: Ints) -> Ints:
    """`units` if they all fit int32; raises `Refused("update.range")`."""
    if units.size and (int(units.min()) < INT32_MIN or int(units.max()) > INT32_MAX):
        raise Refused(
            "update.range",
            f"expected grid integers from {INT32_MIN} to {INT32_MAX}, found one beyond",
        )
    return units


def norm(units: Int32s | Ints) -> int:
    """Floor of the Euclidean norm in grid units, exact for any number of coordinates."""
    if units.dtype != np.int32:
        check_range(units.astype(np.int64, copy=False))
    return isqrt(sum(_square(units[at : at + CHUNK]) for at in range(0, units.size, CHUNK)))


def distance(first: Int32s | Ints, second: Int32s | Ints) -> int:
    """`norm` of the difference of two vectors of int32 numbers, which themselves stay narrow."""
    squares = 0
    for at in range(0, first.size, CHUNK):
        there = second[at : at + CHUNK].astype(np.int64)
        squares += _square(check_range(first[at : at + CHUNK] - there))
    return isqrt(squares)


def _square(units: Int32s | Ints) -> int:
    """The sum of squares of at most CHUNK int32 numbers.

    |x| <= 2^31, so x^2 <= 2^62 fits int64, but a sum of two may not. The squares are split into
    32-bit words: high words are at most 2^30 and low words below 2^32, so that their sums over a
    chunk of 2^20 stay within 2^50 and 2^52. Chunks meet as Python integers, which never overflow.
    """
    squares = np.square(units, dtype=np.int64)
    return (int((squares >> 32).sum()) << 32) + int((squares & 0xFFFF_FFFF).sum())


def divide(numerators: Ints, divisor: int | Ints) -> Ints:
    """Quotients rounded half to even; divisors from 1 to DIVISOR_MAX, one or one for each."""
    divisors = np.asarray(divisor, np.int64)
    assert divisors.min() >= 1, "positive divisors"
    assert divisors.max() <= DIVISOR_MAX, f"divisors up to {divisors.max()}"
    quotients, remainders = np.divmod(numerators, divisors)  # floor: 0 <= r < divisor
    doubled = 2 * remainders  # below 2^63
    up = (doubled > divisors) | ((doubled == divisors) & (quotients & 1 == 1))
    rounded: Ints = quotients + up
    return rounded


def root(squares: Ints) -> Ints:
    """The nearest whole number to the square root of each, from 0 to 2^62; no root is a half.

    The first guess is a float's, at most one off; integers decide, so that every machine agrees.
    """
    assert squares.min(initial=0) >= 0, "squares"
    assert squares.max(initial=0) <= SQUARE_MAX, f"squares up to {squares.max()}"
    found = np.sqrt(squares.astype(np.float64)).astype(np.int64)
    found -= found * found > squares
    found += (found + 1) * (found + 1) <= squares
    nearest: Ints = found + (squares - found * found > found)  # (r + 1/2)^2 = r^2 + r + 1/4
    return nearest
