"""The plan of a soak: the same for a seed, within its bounds, and of every kind."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.plan import BLOW_S, CALM_S, STORM_S, Kind, plan
from vm.quorum import faults

SIZES = st.integers(4, 16)
SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, size=SIZES)
def test_a_seed_gives_one_plan(seed: int, size: int) -> None:
    """So that a failing soak can be repeated."""
    assert plan(seed, 60, size) == plan(seed, 60, size)
    assert plan(seed, 60, size) != plan(seed + 1, 60, size)


@given(seed=SEEDS, size=SIZES)
def test_more_than_f_are_struck_for_a_short_time_only(seed: int, size: int) -> None:
    """And each validator once in a blow, after some calm."""
    for blow in plan(seed, 120, size):
        numbers = [number for number, _ in blow.victims]
        storm = len(numbers) > faults(size)

        assert sorted(set(numbers)) == numbers
        assert set(numbers) <= set(range(1, size + 1))
        assert CALM_S[0] <= blow.after_s <= CALM_S[1]
        assert BLOW_S[0] <= blow.lasting_s <= (STORM_S if storm else BLOW_S)[1]


@pytest.mark.parametrize("size", [4, 7])
def test_a_long_plan_has_everything(size: int) -> None:
    """Every kind strikes every validator, alone and in storms."""
    blows = plan(1, 3_600, size)

    assert {victim for blow in blows for victim in blow.victims} == {
        (number, kind) for number in range(1, size + 1) for kind in Kind
    }
    assert {len(blow.victims) for blow in blows} == set(range(1, size + 1))


def test_the_soak_of_the_deep_tests_has_everything() -> None:
    """Short as it is: each kind twice, and storms."""
    program = (Path(__file__).parents[2] / "scripts" / "test").read_text()
    found = re.search(r"scripts/soak --seconds (\d+) --seed (\d+)$", program, re.MULTILINE)
    assert found is not None

    blows = plan(int(found[2]), int(found[1]), 4)

    struck = Counter(kind for blow in blows for _, kind in blow.victims)
    assert all(struck[kind] >= 2 for kind in Kind)
    assert sum(len(blow.victims) > faults(4) for blow in blows) >= 2


@given(seed=SEEDS, seconds=st.floats(1, 600))
def test_a_plan_fills_its_time(seed: int, seconds: float) -> None:
    """With one blow more than fits at most."""
    blows = plan(seed, seconds, 4)
    lengths = [blow.after_s + blow.lasting_s for blow in blows]

    assert sum(lengths[:-1]) < seconds <= sum(lengths) + 1e-6


def test_a_blow_reads_as_a_sentence() -> None:
    """What a soak prints while it runs."""
    (first, *_) = plan(3, 1, 4)

    assert str(first).endswith(f"for {first.lasting_s:.1f} s")
