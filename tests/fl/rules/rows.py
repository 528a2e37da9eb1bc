"""Updates for tests of the rules."""

import numpy as np
from hypothesis import strategies as st

from fl.fixed import INT32_MAX, INT32_MIN, Ints


@st.composite
def rows(draw: st.DrawFn, n_min: int = 1, n_max: int = 9) -> list[list[int]]:
    """N updates of p coordinates, small and large ones, so that ties occur."""
    n, p = draw(st.integers(n_min, n_max)), draw(st.integers(1, 5))
    unit = st.integers(-3, 3) | st.integers(INT32_MIN, INT32_MAX)
    return draw(st.lists(st.lists(unit, min_size=p, max_size=p), min_size=n, max_size=n))


def arrays(values: list[list[int]]) -> list[Ints]:
    """The rows as updates."""
    return [np.array(row, np.int64) for row in values]


def product(x: list[int], y: list[int]) -> int:
    """The inner product in Python's integers."""
    return sum(a * b for a, b in zip(x, y, strict=True))


def squared_distance(x: list[int], y: list[int]) -> int:
    """In Python's integers."""
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def weighted_sum(weights: list[int], values: list[list[int]]) -> list[int]:
    """In Python's integers, by coordinate."""
    return [product(weights, list(column)) for column in zip(*values, strict=True)]


def cluster(
    seed: int, n: int, p: int = 200, spread: int = 2**18, center: int = 2**22
) -> list[Ints]:
    """N updates as of hospitals: a common direction, and each its own part."""
    random = np.random.default_rng(seed)
    common = random.normal(0, center, p)
    return [np.rint(common + random.normal(0, spread, p)).astype(np.int64) for _ in range(n)]
