"""A quick smoke of the laboratory on real patients: attacks are as sent, tables say what was."""

from dataclasses import replace

import numpy as np
import pytest

from tests.lab.data import Source, source
from tests.lab.poison import DIRECTION_SLACK, POISONS, Seen
from tests.lab.setting import Setting, run
from tests.lab.table import line, markdown

CALM = Setting("trimmed_mean", "none", iid=True, sites=4, dishonest=0, filtering=True)


@pytest.fixture(scope="module")
def data() -> Source:
    """The four clinics."""
    return source("opt")


def test_a_poisoned_update_keeps_within_the_reach() -> None:
    """An attacker that knows the norm bound is not found by it."""
    random = np.random.default_rng(0)
    seen = Seen(
        random.normal(size=50) * 1e6, random.normal(size=(3, 50)) * 1e6, 5e6, 2, -0.2, random
    )

    for poison in POISONS.values():
        assert np.linalg.norm(poison.delta(seen)) <= seen.reach, poison.name


def test_a_directed_attack_passes_the_check_of_direction() -> None:
    """It lies as near to the bound as it dares, beside a median that its own copies have moved."""
    random = np.random.default_rng(1)
    honest = random.normal(size=(8, 50)) * 1e6 + 1e6
    seen = Seen(honest[0], honest, 1e8, 2, -0.2, random)

    sent = POISONS["ipm_directed"].delta(seen)

    judged = np.median([*honest, sent, sent], axis=0)
    cosine = sent @ judged / np.linalg.norm(sent) / np.linalg.norm(judged)
    assert -0.2 < cosine < -0.2 + 2 * DIRECTION_SLACK


def test_without_filtering_no_update_is_lost(data: Source) -> None:
    """What verifiers add is then seen beside it: the same updates, of which some are lost."""
    attacked = replace(CALM, attack="sign_flip", dishonest=1)

    open_door = run(data, replace(attacked, filtering=False), seed=1, rounds=2)
    filtered = run(data, attacked, seed=1, rounds=2)

    assert (open_door.honest_lost, open_door.dishonest_lost) == (0, 0)
    assert (filtered.honest, filtered.dishonest) == (6, 2)
    assert filtered.honest_lost + filtered.dishonest_lost > 0


def test_one_seed_gives_one_run(data: Source) -> None:
    """Whoever repeats a line of the table finds the same."""
    assert run(data, CALM, seed=2, rounds=2) == run(data, CALM, seed=2, rounds=2)


def test_a_run_without_attack_costs_nothing(data: Source) -> None:
    """The reference is compared with itself on the same rows."""
    found = [run(data, CALM, seed=seed, rounds=1) for seed in (1, 2)]

    made = line("opt", CALM, found, found)

    assert (made.cost, made.seeds, made.dishonest_lost) == (0.0, 2, None)
    assert markdown([made]).count("\n") == 3
