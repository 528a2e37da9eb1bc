"""What the project wants of its default rule, beside what runs have shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.lab.federation import Found
from tests.lab.grid import Run
from tests.lab.setting import DEFAULT, PLAIN, Setting, dishonest_of
from tests.lab.table import Line, figure, mean_and_error, points

COST_MAX = 1.5  # points, without attack and under any
ERRORS_MAX = 2  # standard errors of no attack: what chance explains
BACKDOOR_MAX = 5.0  # points above a clean model
LOST_MAX = 0.01  # of honest updates
SHARE_MAX = 5  # sites per dishonest one: 20 %, the most that the goals speak of


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal on some rows."""

    goal: str
    rows: str
    measured: str
    met: bool


def goals(found: Mapping[Run, Found], lines: Sequence[Line]) -> list[Goal]:
    """Every goal that the runs say something of; the default rule, with filtering."""
    ours = [
        one
        for one in lines
        if one.setting.rule == DEFAULT
        and one.setting.filtering
        and one.setting.dishonest in (0, one.setting.sites // SHARE_MAX)
    ]
    return [goal for one in ours for goal in _goals(found, one)]


def _goals(found: Mapping[Run, Found], one: Line) -> list[Goal]:
    rows = f"{one.data}, {'iid' if one.setting.iid else 'Dirichlet 0.5'}"
    if one.setting.attack == "none":
        made = [_lost(one, rows)]
        behind = _behind_plain(found, one)
        if behind:
            cost, error = mean_and_error(behind)
            text = f"{points(cost, error, '+')} points"
            goal = f"without attack at most {COST_MAX} points behind the weighted mean"
            made.append(Goal(goal, rows, text, cost <= COST_MAX))
        return made
    allowed = max(COST_MAX, ERRORS_MAX * (one.cost_error or 0))
    made = [
        Goal(
            f"{one.setting.attack} costs at most {COST_MAX} points or {ERRORS_MAX} errors",
            rows,
            f"{points(one.cost, one.cost_error, '+')} points",
            one.cost <= allowed,
        )
    ]
    if one.setting.attack == "backdoor" and one.backdoor_rise is not None:
        text = f"{one.backdoor_rise:+.1f} points, to {one.backdoor:.1f} %"
        goal = f"backdoor succeeds at most {BACKDOOR_MAX:.0f} points above clean"
        made.append(Goal(goal, rows, text, one.backdoor_rise <= BACKDOOR_MAX))
    return made


def _behind_plain(found: Mapping[Run, Found], one: Line) -> list[float]:
    """Points that the default lacks to the plain weighted mean without filter, by seed."""
    plain = Setting(PLAIN, "none", one.setting.iid, one.setting.sites, 0, False)
    nobody = dishonest_of(plain)
    return [
        figure(found[other], nobody) - figure(outcome, nobody)
        for run, outcome in found.items()
        if (run.data, run.setting) == (one.data, one.setting)
        and (other := Run(run.data, run.rounds, plain, run.seed)) in found
    ]


def _lost(one: Line, rows: str) -> Goal:
    text = (
        f"{100 * one.honest_lost:.2f} % of {one.honest} "
        f"({100 * one.honest_lost_low:.2f} to {100 * one.honest_lost_high:.2f})"
    )
    goal = f"at most {100 * LOST_MAX:.0f} % of honest updates lost"
    return Goal(goal, rows, text, one.honest_lost <= LOST_MAX)


def markdown(made: Sequence[Goal]) -> str:
    """The goals for people."""
    head = "| goal | rows | measured | |\n" + "|---" * 4 + "|\n"
    return head + "".join(
        f"| {one.goal} | {one.rows} | {one.measured} | {'met' if one.met else 'missed'} |\n"
        for one in made
    )
