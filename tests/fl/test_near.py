"""Updates that nearly repeat another one of their round."""

import numpy as np
import pytest

from fl.fixed import Int32s
from fl.near import nearest

RANDOM = np.random.default_rng(7)
FIRST: Int32s = RANDOM.integers(-(2**20), 2**20, 400).astype(np.int32)
OTHER: Int32s = RANDOM.integers(-(2**20), 2**20, 400).astype(np.int32)


def noisy(share: float) -> Int32s:
    """The first update with noise of so much of its length."""
    noise = RANDOM.normal(size=FIRST.size)
    noise *= share * np.linalg.norm(FIRST.astype(np.float64)) / np.linalg.norm(noise)
    return np.rint(FIRST + noise).astype(np.int32)


@pytest.mark.parametrize(
    "copy",
    [FIRST.copy(), (FIRST // 3 * 2).astype(np.int32), noisy(0.01), noisy(0.03)],
    ids=["the same", "scaled", "1 % noise", "3 % noise"],
)
def test_a_copy_is_near_also_when_it_is_disguised(copy: Int32s) -> None:
    """Shorter, or with a little noise, it points where the first one points."""
    found = nearest({"a": FIRST, "b": OTHER, "c": copy})

    assert found == {"a": "c", "c": "a"}


@pytest.mark.parametrize("share", [0.04, 0.1, 1.0])
def test_an_update_of_its_own_is_not(share: float) -> None:
    """Two sites that learn much the same differ by more than three parts in a hundred."""
    assert nearest({"a": FIRST, "b": OTHER, "c": noisy(share)}) == {}


def test_the_opposite_is_no_repetition() -> None:
    """It has the same line and the other direction."""
    assert nearest({"a": FIRST, "b": -FIRST}) == {}


def test_of_several_the_first_in_order_is_named() -> None:
    """All verifiers name the same one, so that their words can agree."""
    found = nearest({"a": FIRST, "b": FIRST.copy(), "c": FIRST.copy()})

    assert found == {"a": "b", "b": "a", "c": "a"}


def test_updates_that_move_nothing_repeat_nothing() -> None:
    """They have no direction; other rules judge them."""
    still = np.zeros(400, np.int32)

    assert nearest({"a": still, "b": still.copy()}) == {}
    assert nearest({}) == {}
