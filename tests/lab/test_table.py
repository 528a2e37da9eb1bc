"""What runs come to: tables, goals and plots, from outcomes made up for the purpose."""

from dataclasses import replace

import pytest

from tests.lab.federation import Found
from tests.lab.goals import goals
from tests.lab.grid import Run
from tests.lab.panels import panels
from tests.lab.setting import DEFAULT, PLAIN, Setting
from tests.lab.table import compact, lines, markdown

CALM = Setting(DEFAULT, "none", iid=False, sites=10, dishonest=0, filtering=True)
ATTACKED = replace(CALM, attack="backdoor", dishonest=2)
PLAINLY = replace(CALM, rule=PLAIN, filtering=False)
SITES = [f"site-{number:02}" for number in range(1, 11)]


def found(right: int, backdoor: float = 0.0, lost: int = 0) -> Found:
    """So many of each site's 100 rows classified well."""
    return Found(
        right=dict.fromkeys(SITES, right),
        rows=dict.fromkeys(SITES, 100),
        auc=None,
        backdoor=backdoor,
        honest=1_000,
        honest_lost=lost,
        dishonest=0,
        dishonest_lost=0,
        rounds_failed=0,
    )


def run(setting: Setting, seed: int) -> Run:
    """A run on digits."""
    return Run("digits", 25, setting, seed)


RUNS = {
    run(ATTACKED, 0): found(88, backdoor=0.2),
    run(ATTACKED, 1): found(89, backdoor=0.2),
    run(CALM, 0): found(90, lost=5),
    run(CALM, 1): found(89, lost=5),
    run(PLAINLY, 0): found(91),
    run(PLAINLY, 1): found(93),
}


def test_a_cost_is_counted_on_the_same_seed() -> None:
    """Seeds differ in their rows by more than most attacks cost."""
    calm, attacked = (one for one in lines(RUNS) if one.setting.rule == DEFAULT)

    assert (calm.cost, calm.cost_error) == (0, 0)
    assert attacked.cost == pytest.approx(1)
    assert attacked.cost_error == pytest.approx(1)
    assert attacked.backdoor_rise == pytest.approx(20)


def test_a_seed_without_its_reference_is_left_out() -> None:
    """A stopped grid may have run an attack and not yet the same without."""
    without = {one: outcome for one, outcome in RUNS.items() if one != run(CALM, 1)}

    attacked = next(one for one in lines(without) if one.setting == ATTACKED)

    assert (attacked.seeds, attacked.cost_error) == (1, None)
    assert attacked.cost == pytest.approx(2)


def test_goals_are_held_against_what_was_found() -> None:
    """Met and missed side by side: nobody picks the lines."""
    made = {one.goal.split()[0]: one for one in goals(RUNS, lines(RUNS))}

    assert made["without"].measured == "+2.5 ± 1.5 points"
    assert not made["without"].met
    assert made["backdoor"].measured == "+20.0 points, to 20.0 %"
    assert not made["backdoor"].met
    assert made["at"].measured == "0.50 % of 2000 (0.27 to 0.92)"
    assert made["at"].met


def test_the_table_and_the_plot_hold_every_line() -> None:
    """One row of each; in the plot those rules that it compares."""
    made = lines(RUNS)

    assert markdown(made).count("\n") == 2 + 3
    assert compact(made).count("\n") == 2 + 1
    assert "| nnm_trimmed_mean | Dirichlet 0.5 | 20 % | yes | 2 | 89.5 ± 0.5 |" in compact(made)
    assert panels(made, iid=False).count("<circle") == 3
    assert panels(made, iid=True).count("<circle") == 0
