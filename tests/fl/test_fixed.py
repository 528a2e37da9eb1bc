"""The grid: rounding, ranges, norms and divisions, against exact arithmetic on Python's numbers."""

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.fixed import (
    CHUNK,
    DIVISOR_MAX,
    INT32_MAX,
    INT32_MIN,
    SQUARE_MAX,
    check_range,
    distance,
    divide,
    from_grid,
    norm,
    root,
    to_grid,
)
from fl.spec import PARAMETERS_MAX
from vm.refusal import Refused

INT32 = st.integers(INT32_MIN, INT32_MAX)
BITS = st.integers(20, 24)


@given(st.lists(st.floats(-127.9, 127.9)), BITS)
def test_to_grid_rounds_half_to_even(values: list[float], bits: int) -> None:
    """Every number becomes the nearest multiple of 2^-bits, the even one of two."""
    units = to_grid(np.array(values, np.float64), bits)

    assert units.tolist() == [round(Fraction(value) * 2**bits) for value in values]


def test_to_grid_takes_halves_to_the_even_unit() -> None:
    """Halves do not drift: 0.5, 1.5 and 2.5 units become 0, 2 and 2."""
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5]) * 2.0**-24

    assert to_grid(halves, 24).tolist() == [0, 2, 2, 0, -2, -2]


@given(st.lists(INT32), BITS)
def test_from_grid_is_the_inverse(units: list[int], bits: int) -> None:
    """What is on the grid comes back as it was, at any number of bits."""
    there = from_grid(np.array(units, np.int64), bits)

    assert to_grid(there, bits).tolist() == units


@pytest.mark.parametrize(
    "value", [128.0, -128.1, 1e300, 1.7e308, float("inf"), float("-inf"), float("nan")]
)
def test_to_grid_refuses_what_int32_cannot_hold(value: float) -> None:
    """A number out of range is refused, never wrapped and never clipped."""
    with pytest.raises(Refused) as refused:
        to_grid(np.array([0.0, value]), 24)

    assert refused.value.code == "update.range"


def test_to_grid_holds_the_ends_of_the_range() -> None:
    """-128 is the last number on the grid of 2^-24, and 128 - 2^-24 the first from above."""
    ends = np.array([-128.0, 128.0 - 2.0**-24])

    assert to_grid(ends, 24).tolist() == [INT32_MIN, INT32_MAX]


@pytest.mark.parametrize("unit", [INT32_MIN - 1, INT32_MAX + 1])
def test_check_range_refuses_beyond_int32(unit: int) -> None:
    """One unit beyond either end is refused."""
    with pytest.raises(Refused, match=r"update\.range"):
        check_range(np.array([0, unit], np.int64))


@given(st.lists(INT32, max_size=50))
def test_norm_is_the_exact_floor(units: list[int]) -> None:
    """The norm is the floor of the root of the exact sum of squares."""
    assert norm(np.array(units, np.int64)) == isqrt(sum(unit**2 for unit in units))


def test_norm_of_the_largest_update_does_not_overflow() -> None:
    """2^25 coordinates of -2^31: the sum of squares is 2^87, far beyond int64."""
    largest = np.broadcast_to(np.int64(INT32_MIN), (PARAMETERS_MAX,))

    assert norm(largest) == isqrt(PARAMETERS_MAX * INT32_MIN**2)


def test_norm_of_int32_is_that_of_int64() -> None:
    """Squares of int32 arrays are formed in 64 bits."""
    units = np.array([INT32_MIN, INT32_MAX, 12_345], np.int32)

    assert norm(units.astype(np.int64)) == isqrt(2**62 + INT32_MAX**2 + 12_345**2)


@given(st.lists(st.tuples(INT32, INT32), max_size=50))
def test_distance_is_the_norm_of_the_difference(pairs: list[tuple[int, int]]) -> None:
    """Of int32 vectors too, whose difference int32 may not hold: that is refused, not wrapped."""
    first, second = np.array(pairs, np.int32).reshape(-1, 2).T
    difference = first.astype(np.int64) - second

    try:
        expected = norm(difference)
    except Refused:
        with pytest.raises(Refused, match=r"update\.range"):
            distance(first, second)
    else:
        assert distance(first, second) == expected


def test_distance_goes_on_past_a_chunk() -> None:
    """Vectors are worked on by chunks; the last, short one counts too."""
    first = np.zeros(CHUNK + 1, np.int32)
    second = first.copy()
    second[0], second[-1] = 3, 4

    assert distance(first, second) == 5


@given(st.lists(st.integers(-(2**62), 2**62)), st.integers(1, DIVISOR_MAX))
def test_divide_rounds_half_to_even(numerators: list[int], divisor: int) -> None:
    """Quotients equal Python's exact rounding of fractions."""
    quotients = divide(np.array(numerators, np.int64), divisor)

    assert quotients.tolist() == [round(Fraction(number, divisor)) for number in numerators]


@given(st.lists(st.integers(-1_000, 1_000), min_size=1), st.integers(1, 8))
def test_divide_meets_every_tie(numerators: list[int], divisor: int) -> None:
    """Small numbers make many exact halves; each goes to the even side."""
    quotients = divide(np.array(numerators, np.int64), divisor)

    assert quotients.tolist() == [round(Fraction(number, divisor)) for number in numerators]


@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(1, DIVISOR_MAX)), min_size=1))
def test_divide_takes_a_divisor_for_each(pairs: list[tuple[int, int]]) -> None:
    """Each quotient is that of its own divisor."""
    numerators, divisors = (np.array(column, np.int64) for column in zip(*pairs, strict=True))

    assert divide(numerators, divisors).tolist() == [round(Fraction(n, d)) for n, d in pairs]


@given(
    st.lists(st.integers(0, SQUARE_MAX) | st.integers(0, 2**31).map(lambda r: r * r), min_size=1)
)
def test_root_is_the_nearest_whole_number(squares: list[int]) -> None:
    """Also of the largest squares, which float64 does not hold."""
    found = root(np.array(squares, np.int64))

    assert found.tolist() == [(isqrt(4 * square) + 1) // 2 for square in squares]


@pytest.mark.parametrize("whole", [2, 2**26 + 1, 94_906_267, 2**31 - 1])
def test_root_next_to_squares_is_exact(whole: int) -> None:
    """One below a square, one above, and where the root turns to the next number."""
    squares = [whole**2 - 1, whole**2, whole**2 + whole, whole**2 + whole + 1]

    found = root(np.array(squares, np.int64))

    assert found.tolist() == [whole, whole, whole, whole + 1]


def test_root_of_nothing_is_nothing() -> None:
    """Arrays of no coordinate have roots as well."""
    assert root(np.array([], np.int64)).tolist() == []
