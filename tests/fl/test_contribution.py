"""Values of coalitions: known games, what must add up, and how often rows are asked."""

from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.contribution import (
    EVALUATIONS_MAX,
    EXACT_MAX,
    STEP_BP,
    TRUNCATION,
    Coalition,
    contributions,
    guided_shapley,
    leave_one_out,
    published,
    shapley,
)
from vm.digest import BEACON, digest
from vm.learning import CONTRIBUTION_BP_MAX
from vm.record import PARTICIPANTS_MAX
from vm.terms import Valuation

SEED = digest(BEACON, b"a seed")
NAT = 10**9


def names(n: int) -> list[str]:
    """Organisations in order."""
    return [f"hospital-{number:02}" for number in range(n)]


def game(n: int, seed: int) -> Callable[[Coalition], int]:
    """A game without structure: every coalition has a value of its own."""
    return lambda members: hash((n, seed, *sorted(int(name[-2:]) for name in members))) % NAT


def additive(members: Coalition) -> int:
    """Everybody adds its own number of nats, whoever else is there."""
    return sum(int(name[-2:]) * NAT for name in members)


@given(st.integers(1, 5), st.integers())
def test_shapley_is_the_mean_over_all_orders(n: int, seed: int) -> None:
    """As it is defined, by brute force."""
    value, players = game(n, seed), names(n)

    found = shapley(players, value)

    orders = list(permutations(players))
    for player in players:
        added = [
            value(frozenset(order[: order.index(player) + 1]))
            - value(frozenset(order[: order.index(player)]))
            for order in orders
        ]
        assert found[player] == Fraction(sum(added), len(orders))


@given(st.integers(1, EXACT_MAX), st.integers())
def test_exact_values_add_up_to_what_all_are_worth(n: int, seed: int) -> None:
    """Efficiency: nothing is lost and nothing is made, to the last nano-nat."""
    value, players = game(n, seed), names(n)

    found = contributions(Valuation.SHAPLEY, players, value, SEED)

    assert sum(found.values()) == value(frozenset(players)) - value(frozenset())


@given(st.integers(EXACT_MAX + 1, 14), st.integers())
def test_sampled_values_add_up_to_within_the_truncation(n: int, seed: int) -> None:
    """What is not asked for at the end of an order is all that may be lost."""
    value, players = game(n, seed), names(n)

    found = contributions(Valuation.SHAPLEY, players, value, SEED)

    lost = value(frozenset(players)) - value(frozenset()) - sum(found.values(), Fraction())
    assert abs(lost) <= TRUNCATION


@pytest.mark.parametrize("n", [3, EXACT_MAX, EXACT_MAX + 1, 12])
def test_additive_game_has_its_own_numbers(n: int) -> None:
    """Where nobody depends on others, every method says what each adds."""
    players = names(n)

    for valuation in (Valuation.LEAVE_ONE_OUT, Valuation.SHAPLEY):
        found = contributions(valuation, players, additive, SEED)
        assert found == {name: int(name[-2:]) * NAT for name in players}


def test_equal_updates_share_what_leaving_one_out_does_not_see() -> None:
    """A copy of an update is worth nothing by leave-one-out, and half by Shapley."""

    def copied(members: Coalition) -> int:
        return NAT if members & {"a", "b"} else 0

    assert leave_one_out(["a", "b"], copied) == {"a": 0, "b": 0}
    assert shapley(["a", "b"], copied) == {"a": NAT // 2, "b": NAT // 2}


def test_sampled_values_come_near_the_exact_ones() -> None:
    """Of a game in which each new member adds less, some of them much more than others."""
    players = names(10)

    def saturating(members: Coalition) -> int:
        return NAT - int(Fraction(7, 10) ** sum(1 + int(name[-2:]) for name in members) * NAT)

    found = guided_shapley(players, saturating, SEED)

    exact = shapley(players, saturating)
    assert all(abs(found[name] - exact[name]) < NAT // 25 for name in players)


def test_a_round_that_changed_nothing_is_not_looked_into() -> None:
    """Two evaluations, whatever coalitions might have been worth."""
    asked: list[Coalition] = []

    def flat(members: Coalition) -> int:
        asked.append(members)
        return TRUNCATION if len(members) == 20 else 0

    found = contributions(Valuation.SHAPLEY, names(20), flat, SEED)

    assert set(found.values()) == {0}
    assert len(asked) == 2


@pytest.mark.parametrize("n", [1, 2, EXACT_MAX, EXACT_MAX + 1, 15, 31, PARTICIPANTS_MAX])
@pytest.mark.parametrize("valuation", [Valuation.LEAVE_ONE_OUT, Valuation.SHAPLEY])
def test_evaluations_are_bounded_and_none_is_made_twice(n: int, valuation: Valuation) -> None:
    """A value costs a pass over the scoring rows; a game in which nothing is truncated."""
    asked: list[Coalition] = []

    def counted(members: Coalition) -> int:
        asked.append(members)
        return NAT * len(members) + (len(members) == n) * NAT

    contributions(valuation, names(n), counted, SEED)

    assert len(asked) == len(set(asked)) <= EVALUATIONS_MAX
    if valuation is Valuation.LEAVE_ONE_OUT:
        assert len(asked) == n + 1
    elif n <= EXACT_MAX:
        assert len(asked) == 2**n


def test_orders_follow_from_the_seed() -> None:
    """The same seed gives the same values, whoever computes them; another seed gives others."""
    value, players = game(10, 1), names(10)

    first = contributions(Valuation.SHAPLEY, players, value, SEED)
    again = contributions(Valuation.SHAPLEY, players[::-1], value, SEED)
    other = contributions(Valuation.SHAPLEY, players, value, digest(BEACON, b"another"))

    assert first == again != other


def test_no_method_says_nothing() -> None:
    """A task without contributions asks for no value."""

    def never(members: Coalition) -> int:
        raise AssertionError(members)

    assert contributions(Valuation.NONE, names(4), never, SEED) == {}


@pytest.mark.parametrize(
    ("nano", "bp"),
    [
        (0, 0),
        (NAT, 10_000),
        (-NAT, -10_000),
        (5_000_000, 0),  # half a step, to even
        (5_000_001, STEP_BP),
        (15_000_000, 2 * STEP_BP),
        (-15_000_000, -2 * STEP_BP),
        (10**20, CONTRIBUTION_BP_MAX),
        (-(10**20), -CONTRIBUTION_BP_MAX),
    ],
)
def test_published_values_are_rounded_to_the_step(nano: int, bp: int) -> None:
    """Exact values would be an oracle on the verifier's rows."""
    assert published(Fraction(nano)) == bp
