"""One run of the laboratory: which rule, which attack, on whose rows, how many dishonest sites."""

from dataclasses import dataclass, replace

from fl import trial
from fl.aggregate import aggregate
from fl.experiment import Experiment
from fl.resilience import updates_needed
from tests.lab import foreign
from tests.lab.data import Source, hospitals
from tests.lab.federation import Combine, Federation, Found
from tests.lab.poison import POISONS
from vm.terms import AVERAGE, MICRO, Aggregation, Mixing, Policy, Rule

POLICY = Policy(  # on classes that differ from site to site
    norm_factor=2 * MICRO, direction_min=-MICRO // 5, margin=MICRO
)
DEFAULT = "nnm_trimmed_mean"
PLAIN = "weighted_mean"


@dataclass(frozen=True, slots=True)
class Way:
    """How accepted updates become one: the task's rule, and whose code computes it."""

    aggregation: Aggregation
    combine: Combine


def _rule(rule: Rule, mixing: Mixing = Mixing.NONE, f: int = 2, bucket: int = 1) -> Aggregation:
    radius = MICRO if rule is Rule.CENTERED_CLIPPING else 0
    found = Aggregation(rule, mixing, f, 1, bucket, radius, AVERAGE)
    return replace(found, updates_min=updates_needed(found))


OURS = {  # for ten sites; each stands as many Byzantine ones as its paper proves, at most two
    PLAIN: _rule(Rule.WEIGHTED_MEAN, f=0),
    "median": _rule(Rule.MEDIAN),
    "trimmed_mean": _rule(Rule.TRIMMED_MEAN),
    "krum": _rule(Rule.KRUM),
    "multi_krum": _rule(Rule.MULTI_KRUM),
    "geometric_median": _rule(Rule.GEOMETRIC_MEDIAN),
    "centered_clipping": _rule(Rule.CENTERED_CLIPPING, f=0),
    "bucketed_median": _rule(Rule.MEDIAN, Mixing.BUCKETS, f=1, bucket=2),
    DEFAULT: _rule(Rule.TRIMMED_MEAN, Mixing.NEIGHBOURS),
}
RULES = {name: Way(rule, aggregate) for name, rule in OURS.items()} | {
    f"byzfl.{name}": Way(OURS[like], foreign.combine(make))
    for name, (like, make) in foreign.FOREIGN.items()
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

    def calm(self) -> "Setting":
        """The same without attack: what an attack's cost is counted from."""
        return Setting(self.rule, "none", self.iid, self.sites, 0, self.filtering)


def run(data: Source, setting: Setting, seed: int, rounds: int) -> Found:
    """One federation."""
    sites = hospitals(data, setting.sites, setting.iid, seed)
    terms = trial.terms("lab", [one.site for one in sites], rounds)
    policy = trial.POLICY if data.name == "opt" else POLICY
    way = RULES[setting.rule]
    rule = way.aggregation
    if len(sites) < rule.updates_min:  # four clinics: as many Byzantine ones as that many stand
        rule = replace(rule, f=min(rule.f, 1))
        rule = replace(rule, updates_min=updates_needed(rule))
    terms = replace(terms, training=data.training, policy=policy, aggregation=rule)
    experiment = Experiment("lab", data.spec, data.grid_bits, terms, sites)
    return Federation.of(
        experiment,
        POISONS[setting.attack],
        dishonest_of(setting),
        way.combine,
        filtering=setting.filtering,
        seed=seed,
    ).run(rounds)


def dishonest_of(setting: Setting) -> frozenset[str]:
    """The first sites, which are as likely any: rows are dealt out by the seed."""
    return frozenset(f"site-{number:02}" for number in range(1, setting.dishonest + 1))
