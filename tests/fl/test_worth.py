"""Contributions on a verifier's rows: an honest update is worth something, a poisoned one less."""

from dataclasses import replace

import numpy as np
import pytest

from fl.fixed import Ints
from fl.train import train
from fl.trial import terms
from fl.verify import Case, row_losses
from fl.worth import contributions_bp
from tests.fl.learning import SPECS, base_of, job_of, rows_of
from vm.digest import BEACON, digest
from vm.terms import Valuation

SPEC = SPECS["logistic"]
BASE = base_of(SPEC)
SEED = digest(BEACON, b"a seed")
HONEST = train(job_of(SPEC), BASE, rows_of(SPEC)).delta * 3  # far enough to show in steps of 100
WEIGHTS = {"a": 2, "b": 1, "c": 1, "own": 1}


def case(valuation: Valuation) -> Case:
    """Scoring rows of the same sort as those of training."""
    asked = replace(terms("risk", ()), contribution=valuation)
    return Case.of(SPEC, 24, asked, BASE, [], rows_of(SPEC, 80, seed=9))


def found(valuation: Valuation, **updates: Ints) -> dict[str, int]:
    """What the verifier of `own` publishes."""
    return contributions_bp(case(valuation), updates, WEIGHTS, "own", SEED)


@pytest.mark.parametrize("valuation", [Valuation.LEAVE_ONE_OUT, Valuation.SHAPLEY])
def test_a_sign_flip_is_worth_less_than_honest_updates(valuation: Valuation) -> None:
    """Its value is below zero, theirs above."""
    values = found(valuation, a=HONEST, b=HONEST, c=-2 * HONEST, own=HONEST)

    assert set(values) == {"a", "b", "c"}
    assert values["c"] < 0 < values["b"] <= values["a"]
    assert all(value % 100 == 0 for value in values.values())


def test_shapley_values_add_up_to_what_all_take_off_the_loss() -> None:
    """To within half a step each, and the own organisation's, which is not published."""
    values = found(Valuation.SHAPLEY, a=HONEST, b=HONEST)

    asked = case(Valuation.SHAPLEY)
    taken_off = row_losses(asked, BASE).mean() - row_losses(asked, BASE + HONEST).mean()
    assert abs(sum(values.values()) - taken_off * 10_000) <= 100


def test_losses_that_are_no_numbers_count_as_the_largest() -> None:
    """An update that breaks the model has a value, and a very low one."""
    broken = np.full_like(HONEST, 2**31 - 1)
    broken[::2] = -(2**31)

    values = found(Valuation.LEAVE_ONE_OUT, a=HONEST, b=broken)

    assert values["b"] < -1_000


def test_a_task_without_contributions_has_none() -> None:
    """No row is read for it."""
    assert found(Valuation.NONE, a=HONEST, own=HONEST) == {}
