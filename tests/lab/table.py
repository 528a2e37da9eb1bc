"""Runs of the laboratory and the table that comes of them: mean and standard error over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from fl import trial
from fl.experiment import Experiment
from fl.resilience import updates_needed
from tests.lab.data import Source, hospitals
from tests.lab.federation import Federation, Found, honest_share
from tests.lab.poison import POISONS
from vm.terms import AVERAGE, MICRO, Aggregation, Mixing, Policy, Rule

POLICY = Policy(  # on classes that differ from site to site
    norm_factor=2 * MICRO, direction_min=-MICRO // 5, margin=MICRO
)
DEFAULT = "nnm_trimmed_mean"


def _rule(rule: Rule, mixing: Mixing = Mixing.NONE, f: int = 2, bucket: int = 1) -> Aggregation:
    radius = MICRO if rule is Rule.CENTERED_CLIPPING else 0
    found = Aggregation(rule, mixing, f, 1, bucket, radius, AVERAGE)
    return replace(found, updates_min=updates_needed(found))


RULES = {  # for ten sites; each stands as many Byzantine ones as its paper proves, at most two
    "weighted_mean": _rule(Rule.WEIGHTED_MEAN, f=0),
    "median": _rule(Rule.MEDIAN),
    "trimmed_mean": _rule(Rule.TRIMMED_MEAN),
    "krum": _rule(Rule.KRUM),
    "multi_krum": _rule(Rule.MULTI_KRUM),
    "geometric_median": _rule(Rule.GEOMETRIC_MEDIAN),
    "centered_clipping": _rule(Rule.CENTERED_CLIPPING, f=0),
    "bucketed_median": _rule(Rule.MEDIAN, Mixing.BUCKETS, f=1, bucket=2),
    DEFAULT: _rule(Rule.TRIMMED_MEAN, Mixing.NEIGHBOURS),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One cell of the table; `dishonest` of `sites` sites attack."""

    rule: str
    attack: str
    iid: bool
    sites: int
    dishonest: int
    filtering: bool


@dataclass(frozen=True, slots=True)
class Line:
    """Over all seeds, in points: accuracy (or AUC) on honest sites' rows, and what the attack cost.

    `cost` pairs each seed with the same seed and rule without attack, on the same rows. Lost are
    shares of updates that were not accepted.
    """

    setting: Setting
    seeds: int
    figure: float
    figure_error: float
    cost: float
    cost_error: float
    backdoor: float | None
    honest_lost: float
    dishonest_lost: float | None
    rounds_failed: int


def run(data: Source, setting: Setting, seed: int, rounds: int) -> Found:
    """One federation."""
    sites = hospitals(data, setting.sites, setting.iid, seed)
    terms = trial.terms("lab", [one.site for one in sites], rounds)
    policy = trial.POLICY if data.name == "opt" else POLICY
    rule = RULES[setting.rule]
    if len(sites) < rule.updates_min:  # four clinics: as many Byzantine ones as that many stand
        rule = replace(rule, f=min(rule.f, 1))
        rule = replace(rule, updates_min=updates_needed(rule))
    terms = replace(terms, training=data.training, policy=policy, aggregation=rule)
    experiment = Experiment("lab", data.spec, data.grid_bits, terms, sites)
    return Federation.of(
        experiment,
        POISONS[setting.attack],
        dishonest_of(setting) if setting.attack != "none" else frozenset(),
        filtering=setting.filtering,
        seed=seed,
    ).run(rounds)


def dishonest_of(setting: Setting) -> frozenset[str]:
    """The first sites, which are as likely any: rows are dealt out by the seed."""
    return frozenset(f"site-{number:02}" for number in range(1, setting.dishonest + 1))


def line(setting: Setting, attacked: Sequence[Found], calm: Sequence[Found]) -> Line:
    """The table's line of one setting; `calm` are the same seeds without attack."""
    bad = dishonest_of(setting)
    figures = [_figure(found, bad) for found in attacked]
    costs = [_figure(found, bad) - figure for found, figure in zip(calm, figures, strict=True)]
    backdoors = [found.backdoor for found in attacked if found.backdoor is not None]
    tried = sum(found.dishonest for found in attacked)
    return Line(
        setting,
        len(attacked),
        *_mean_and_error(figures),
        *_mean_and_error(costs),
        100 * float(np.mean(backdoors)) if backdoors else None,
        sum(found.honest_lost for found in attacked) / sum(found.honest for found in attacked),
        sum(found.dishonest_lost for found in attacked) / tried if tried else None,
        sum(found.rounds_failed for found in attacked),
    )


def _figure(found: Found, dishonest: frozenset[str]) -> float:
    share = honest_share(found, dishonest) if found.auc is None else found.auc
    return 100 * share


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    error = float(np.std(values, ddof=1)) / sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), error


def markdown(lines: Sequence[Line]) -> str:
    """The table for people."""
    head = (
        "| rule | attack | rows | dishonest | filter | points | cost | backdoor | honest lost "
        "| dishonest lost | rounds failed |\n" + "|---" * 11 + "|\n"
    )
    return head + "".join(_row(one) for one in lines)


def _row(one: Line) -> str:
    setting = one.setting
    cells = (
        setting.rule,
        setting.attack,
        "iid" if setting.iid else "Dirichlet 0.5",
        f"{setting.dishonest} of {setting.sites}",
        "yes" if setting.filtering else "no",
        f"{one.figure:.1f} ± {one.figure_error:.1f}",
        f"{one.cost:+.1f} ± {one.cost_error:.1f}",
        "" if one.backdoor is None else f"{one.backdoor:.1f}",
        f"{100 * one.honest_lost:.1f} %",
        "" if one.dishonest_lost is None else f"{100 * one.dishonest_lost:.0f} %",
        str(one.rounds_failed),
    )
    return "| " + " | ".join(cells) + " |\n"
