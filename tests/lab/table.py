"""Tables of runs: mean and standard error over seeds, each line beside the same without attack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from tests.lab.federation import Found, honest_share
from tests.lab.grid import Run
from tests.lab.poison import POISONS
from tests.lab.proofs import interval
from tests.lab.setting import RULES, Setting, dishonest_of

ATTACKS = tuple(name for name in POISONS if name != "none")


@dataclass(frozen=True, slots=True)
class Line:
    """Over all seeds, in points: accuracy (or AUC) on honest sites' rows, and what the attack cost.

    `cost` pairs each seed with the same seed and rule without attack, on the same rows, and so does
    `backdoor_rise`. Lost are shares of updates that were not accepted, of honest ones with Wilson's
    interval at 95 %; updates of one run hang together, so that it is rather too narrow. Of a single
    seed there is no error.
    """

    data: str
    setting: Setting
    seeds: int
    figure: float
    figure_error: float | None
    cost: float
    cost_error: float | None
    backdoor: float | None
    backdoor_rise: float | None
    honest: int
    honest_lost: float
    honest_lost_low: float
    honest_lost_high: float
    dishonest_lost: float | None
    rounds_failed: int


def lines(found: Mapping[Run, Found]) -> list[Line]:
    """A line for each setting, over the seeds that were run both with it and without attack."""
    seeds: dict[tuple[str, int, Setting], list[int]] = {}
    for one in found:
        if Run(one.data, one.rounds, one.setting.calm(), one.seed) in found:
            seeds.setdefault((one.data, one.rounds, one.setting), []).append(one.seed)
    return [
        line(
            data,
            setting,
            [found[Run(data, rounds, setting, seed)] for seed in sorted(of)],
            [found[Run(data, rounds, setting.calm(), seed)] for seed in sorted(of)],
        )
        for (data, rounds, setting), of in sorted(seeds.items(), key=lambda item: _place(item[0]))
    ]


def _place(key: tuple[str, int, Setting]) -> tuple[str, int, bool, int, bool, int, int]:
    """In the table: rules and attacks as they are listed."""
    data, rounds, one = key
    rule, attack = list(RULES).index(one.rule), list(POISONS).index(one.attack)
    return data, rounds, not one.iid, rule, not one.filtering, one.dishonest, attack


def line(data: str, setting: Setting, attacked: Sequence[Found], calm: Sequence[Found]) -> Line:
    """The table's line of one setting; `calm` are the same seeds without attack."""
    bad = dishonest_of(setting)
    figures = [figure(found, bad) for found in attacked]
    costs = [figure(found, bad) - own for found, own in zip(calm, figures, strict=True)]
    backdoors = [
        (found.backdoor, found.backdoor - clean.backdoor)
        for found, clean in zip(attacked, calm, strict=True)
        if found.backdoor is not None and clean.backdoor is not None
    ]
    honest, tried = (sum(getattr(one, of) for one in attacked) for of in ("honest", "dishonest"))
    return Line(
        data,
        setting,
        len(attacked),
        *mean_and_error(figures),
        *mean_and_error(costs),
        100 * float(np.mean([success for success, _ in backdoors])) if backdoors else None,
        100 * float(np.mean([rise for _, rise in backdoors])) if backdoors else None,
        honest,
        *interval(sum(found.honest_lost for found in attacked), honest),
        sum(found.dishonest_lost for found in attacked) / tried if tried else None,
        sum(found.rounds_failed for found in attacked),
    )


def figure(found: Found, dishonest: frozenset[str]) -> float:
    """Accuracy on honest sites' test rows in points, or AUC of two classes."""
    share = honest_share(found, dishonest) if found.auc is None else found.auc
    return 100 * share


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; of one value there is none."""
    error = float(np.std(values, ddof=1)) / sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), error


def points(value: float, error: float | None, sign: str = "") -> str:
    """A mean with its standard error, for people."""
    return f"{value:{sign}.1f}" + ("" if error is None else f" ± {error:.1f}")


def compact(lines: Sequence[Line]) -> str:
    """One row for each rule, rows, filter and share of attackers: what every attack costs."""
    calm = {(one.data, one.setting): one for one in lines if one.setting.attack == "none"}
    groups: dict[tuple[str, Setting], list[Line]] = {}
    for one in lines:
        if one.setting.attack != "none":
            key = one.data, replace(one.setting, attack="none")
            groups.setdefault(key, []).append(one)
    head = " | ".join(["rule", "rows", "attackers", "filter", "seeds", "without", *ATTACKS])
    return f"| {head} |\n{'|---' * (6 + len(ATTACKS))}|\n" + "".join(
        _compact(one, calm[data, one.calm()], {line.setting.attack: line for line in of})
        for (data, one), of in groups.items()
    )


def _compact(one: Setting, calm: Line, by_attack: Mapping[str, Line]) -> str:
    seeds = sorted({line.seeds for line in by_attack.values()})
    cells = (
        one.rule,
        _rows(calm),
        f"{100 * one.dishonest // one.sites} %",
        "yes" if one.filtering else "no",
        " to ".join(map(str, {seeds[0]: None, seeds[-1]: None})),
        points(calm.figure, calm.figure_error),
    )
    costs = (
        points(by_attack[name].cost, by_attack[name].cost_error, "+") if name in by_attack else ""
        for name in ATTACKS
    )
    return "| " + " | ".join([*cells, *costs]) + " |\n"


def markdown(lines: Sequence[Line]) -> str:
    """The table for people."""
    head = (
        "| rule | attack | rows | dishonest | filter | seeds | points | cost | backdoor "
        "| honest lost | dishonest lost | rounds failed |\n" + "|---" * 12 + "|\n"
    )
    return head + "".join(map(_row, lines))


def _row(one: Line) -> str:
    setting = one.setting
    cells = (
        setting.rule,
        setting.attack,
        _rows(one),
        f"{setting.dishonest} of {setting.sites}",
        "yes" if setting.filtering else "no",
        str(one.seeds),
        points(one.figure, one.figure_error),
        points(one.cost, one.cost_error, "+"),
        "" if one.backdoor is None else f"{one.backdoor:.1f}",
        f"{100 * one.honest_lost:.1f} %",
        "" if one.dishonest_lost is None else f"{100 * one.dishonest_lost:.0f} %",
        str(one.rounds_failed),
    )
    return "| " + " | ".join(cells) + " |\n"


def _rows(one: Line) -> str:
    if one.data == "opt":
        return "clinics"
    return "iid" if one.setting.iid else "Dirichlet 0.5"
