"""What each update is worth to the aggregate of a round: leave-one-out and Shapley values.

A value function gives the worth of any coalition of organisations in nano-nats (10^-9 nat), the
more the better, such as a mean log-loss with its sign turned. It is asked for each coalition once;
how often at all is bounded by EVALUATIONS_MAX. Values are exact fractions until they are published.

Shapley values add up to what all together are worth: the sum of the unrounded values is
value(all) - value(nobody), exactly where every coalition is asked, and to within TRUNCATION where
orders are sampled. Published, each is rounded to STEP_BP basis points of a nat, half to even, so
that the sum of n published ones is off by at most n STEP_BP / 2 more.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from math import comb
from typing import TypeAlias

from fl.sampling import Stream, permutation
from fl.settle import SCORE_STEP_BP
from vm.learning import CONTRIBUTION_BP_MAX
from vm.record import PARTICIPANTS_MAX
from vm.shape import Digest
from vm.terms import Valuation

Coalition: TypeAlias = frozenset[str]
Value: TypeAlias = Callable[[Coalition], int]  # in nano-nats
Values: TypeAlias = dict[str, Fraction]  # in nano-nats, by organisation

EXACT_MAX = 8  # organisations up to which every coalition is asked: 256 evaluations
SWEEPS_MAX = 16  # in each of which every organisation leads one order
EVALUATIONS_MAX = PARTICIPANTS_MAX**2 + 2  # of a value function; one sweep of the largest task
STEP_BP = SCORE_STEP_BP  # finer values would be an oracle on the verifier's rows
NANO_PER_BP = 100_000  # a basis point of a nat is 10^-4 nat
TRUNCATION = STEP_BP * NANO_PER_BP // 10  # nano-nats: what no longer shows is not asked for


def contributions(
    valuation: Valuation, organisations: Sequence[str], value: Value, seed: Digest
) -> Values:
    """What each organisation contributes, by the method that the task names; {} of none."""
    names = sorted(organisations)
    assert len(set(names)) == len(names) <= PARTICIPANTS_MAX, f"organisations {names}"
    asked: dict[Coalition, int] = {}

    def once(coalition: Coalition) -> int:
        if coalition not in asked:
            assert len(asked) < EVALUATIONS_MAX, "the number of evaluations is bounded"
            asked[coalition] = value(coalition)
        return asked[coalition]

    match valuation:
        case Valuation.NONE:
            return {}
        case Valuation.LEAVE_ONE_OUT:
            return leave_one_out(names, once)
        case Valuation.SHAPLEY:
            exact = len(names) <= EXACT_MAX
            return shapley(names, once) if exact else guided_shapley(names, once, seed)


def leave_one_out(names: Sequence[str], value: Value) -> Values:
    """What is lost without each: n + 1 evaluations. Of equal updates each is worth nothing."""
    everybody = frozenset(names)
    return {name: Fraction(value(everybody) - value(everybody - {name})) for name in names}


def shapley(names: Sequence[str], value: Value) -> Values:
    """The mean, over all orders, of what each adds to those before it (Shapley 1953).

    2^n evaluations. The values add up to value(all) - value(nobody) exactly.
    """
    n = len(names)
    return {
        name: sum(
            (
                Fraction(value(before | {name}) - value(before), n * comb(n - 1, len(before)))
                for before in _subsets([other for other in names if other != name])
            ),
            Fraction(),
        )
        for name in names
    }


def _subsets(names: Sequence[str]) -> Iterator[Coalition]:
    return (
        frozenset(chosen) for size in range(len(names) + 1) for chosen in combinations(names, size)
    )


def guided_shapley(names: Sequence[str], value: Value, seed: Digest) -> Values:
    """Shapley values over sampled orders: GTG-Shapley (Liu et al. 2022, arXiv 2109.02053).

    A round that changed nothing is not looked into. Each organisation leads equally many orders,
    and in an order what follows once its value is within TRUNCATION of that of all adds nothing.
    Orders are drawn from `seed`. The paper samples until the values settle; here whole sweeps, up
    to SWEEPS_MAX, are made as EVALUATIONS_MAX allows, so that the cost is known before.
    """
    n = len(names)
    nobody, everybody = value(frozenset()), value(frozenset(names))
    if abs(everybody - nobody) <= TRUNCATION:
        return dict.fromkeys(names, Fraction())
    sweeps = min(SWEEPS_MAX, (EVALUATIONS_MAX - 2) // (n * n))
    added = dict.fromkeys(names, 0)
    for sweep in range(sweeps):
        for leader in names:
            before, worth = frozenset[str](), nobody
            for name in _order(names, leader, seed, sweep):
                if abs(everybody - worth) <= TRUNCATION:
                    break
                before = before | {name}
                after = value(before)
                added[name] += after - worth
                worth = after
    return {name: Fraction(total, sweeps * n) for name, total in added.items()}


def _order(names: Sequence[str], leader: str, seed: Digest, sweep: int) -> list[str]:
    others = [name for name in names if name != leader]
    stream = Stream("contribution", seed, sweep, leader)
    return [leader, *(others[place] for place in permutation(len(others), stream))]


def published(value: Fraction) -> int:
    """In basis points of a nat, rounded to STEP_BP, half to even; within what a verdict takes."""
    steps = round(value / (STEP_BP * NANO_PER_BP))
    return max(-CONTRIBUTION_BP_MAX, min(steps * STEP_BP, CONTRIBUTION_BP_MAX))
