"""Our rules beside those of byzfl and flwr on the same updates, and where they differ on purpose.

`tests/fl/others.py` says how their results were made.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.aggregate import TOTAL_MAX, aggregate, weighted_mean
from fl.fixed import Floats, Ints
from fl.rules.choice import (
    CLIPPING_STEPS,
    centered_clipping,
    geometric_median,
    krum,
    krum_scores,
)
from fl.rules.distance import gram
from fl.server import Moments, start, step
from tests.fl.terms import by
from vm.terms import MICRO, Aggregation, Mixing, Rule, Server, ServerOptimizer

FILE = json.loads(Path(__file__).with_name("others.json").read_text())
BITS = 24


@dataclass(frozen=True, slots=True)
class Case:
    """Updates, up to f of them elsewhere, and what the others made of them."""

    f: int
    updates: list[Ints]
    weights: list[int]
    byzfl: dict[str, Floats]
    flwr: dict[str, Floats]

    def aggregate(self, rule: Rule, mixing: Mixing = Mixing.NONE) -> Ints:
        """By our rule; updates stand in order of organisation."""
        f = 0 if rule is Rule.WEIGHTED_MEAN else self.f
        asked: Aggregation = replace(by(rule, f, 1), mixing=mixing)
        ids = [f"hospital-{place:02}" for place in range(len(self.updates))]
        return aggregate(asked, self.updates, self.weights, ids, bytes(32))


def read(case: dict[str, Any]) -> Case:
    """A case of the file."""
    results = (
        {name: np.array(value, np.float64) for name, value in case[library].items()}
        for library in ("byzfl", "flwr")
    )
    updates = [np.array(row, np.int64) for row in case["updates"]]
    return Case(case["f"], updates, case["weights"], *results)


CASES = [read(case) for case in FILE["cases"]]
every_case = pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))


def near(ours: Ints | Floats, theirs: Floats, units: float = 0.501) -> bool:
    """Equal but for one rounding to the grid."""
    return bool(np.max(np.abs(ours - theirs)) <= units)


def test_the_versions_are_those_that_the_texts_name() -> None:
    """Definitions change from version to version: other ones are to be looked at again."""
    assert FILE["versions"] == {"byzfl": "0.0.11", "flwr": "1.41.0", "numpy": "2.4.6"}
    assert FILE["clipping_steps"] == CLIPPING_STEPS


@every_case
def test_means_and_medians_are_alike(case: Case) -> None:
    """One definition everywhere."""
    alike = weighted_mean(case.updates, [1] * len(case.updates), len(case.updates))

    assert near(case.aggregate(Rule.WEIGHTED_MEAN), case.flwr["weighted_mean"])
    assert near(alike, case.byzfl["average"])
    for theirs in (case.byzfl, case.flwr):
        assert near(case.aggregate(Rule.MEDIAN), theirs["median"])
        assert near(case.aggregate(Rule.TRIMMED_MEAN), theirs["trimmed_mean"])


@every_case
def test_krum_is_flwrs(case: Case) -> None:
    """Both count the paper's n - f - 2 neighbours; its Multi-Krum keeps as many as it is told."""
    assert near(case.aggregate(Rule.KRUM), case.flwr["krum"])
    assert near(case.aggregate(Rule.MULTI_KRUM), case.flwr["multi_krum"])


@every_case
def test_byzfls_krum_is_ours_with_one_neighbour_more(case: Case) -> None:
    """It counts n - f - 1, as ours does of an f less by one; both mean n - f updates."""
    products = gram(case.updates)

    chosen, _ = krum(products, case.f - 1)
    scores = krum_scores(products, case.f - 1)

    assert near(case.updates[chosen.index(1)], case.byzfl["krum"])
    n = len(scores)
    best = sorted(range(n), key=scores.__getitem__)[: n - case.f]
    assert near(np.mean([case.updates[place] for place in best], axis=0), case.byzfl["multi_krum"])


def test_byzfls_krum_chooses_others_now_and_then() -> None:
    """The definitions differ in what they choose, not only on paper."""
    krums = sum(not near(case.aggregate(Rule.KRUM), case.byzfl["krum"]) for case in CASES)
    multi = sum(
        not near(case.aggregate(Rule.MULTI_KRUM), case.byzfl["multi_krum"]) for case in CASES
    )

    assert (krums, multi) == (7, 2)  # of 40 cases


@every_case
def test_neighbours_are_mixed_as_byzfl_does(case: Case) -> None:
    """Nearest-neighbour mixing before rules by coordinate: n - f updates, itself among them."""
    for rule, name in ((Rule.TRIMMED_MEAN, "trimmed_mean"), (Rule.MEDIAN, "median")):
        ours = case.aggregate(rule, Mixing.NEIGHBOURS)
        assert near(ours, case.byzfl[f"neighbours_{name}"])


@every_case
def test_geometric_median_is_near_byzfls(case: Case) -> None:
    """A thousand of its steps from zero end where 64 of ours from the best update do."""
    weights, total = geometric_median(gram(case.updates), TOTAL_MAX)

    ours = np.array(weights, np.float64) @ np.array(case.updates, np.float64) / total

    theirs = case.byzfl["geometric_median"]
    sums = [
        float(np.linalg.norm(np.array(case.updates) - point, axis=1).sum())
        for point in (ours, theirs)
    ]
    assert sums[0] <= sums[1] * (1 + 1e-6)
    assert near(ours, theirs, 2_000)


@every_case
def test_centered_clipping_is_byzfls(case: Case) -> None:
    """The same steps from zero; byzfl takes a radius where our terms give a multiple of a norm."""
    products = gram(case.updates)
    norms = sorted(float(np.linalg.norm(update)) for update in case.updates)
    factor = round(FILE["tau"] / norms[(len(norms) - 1) // 2] * MICRO)

    weights, total = centered_clipping(products, TOTAL_MAX, factor)

    ours = np.array(weights, np.float64) @ np.array(case.updates, np.float64) / total
    assert near(ours, case.byzfl["centered_clipping"], 4)


def test_fedavgm_is_flwrs() -> None:
    """Velocity and step, round after round."""
    server = Server(ServerOptimizer.MOMENTUM, MICRO // 2, momentum=900_000, beta2=0, tau=0)
    state, weights = start(server, BITS, 5), np.zeros(5, np.int64)

    for delta, theirs in zip(FILE["servers"]["deltas"], FILE["servers"]["momentum"], strict=True):
        moved, state = step(server, BITS, np.array(delta, np.int64), state)
        weights = weights + moved
        assert near(weights, np.array(theirs) * 2**BITS, 6)


def test_fedadam_is_flwrs_but_for_its_start_and_its_bias_correction() -> None:
    """Reddi et al. start the second moment at tau^2 and correct nothing.

    flwr starts it at zero and corrects the rate as Adam's authors do, by the number of the round
    and one. With that start and those rates ours comes to the same weights.
    """
    plain = Server(
        ServerOptimizer.ADAM, MICRO // 4, momentum=900_000, beta2=990_000, tau=MICRO // 1_000
    )
    zeros = np.zeros(5, np.int32)
    state, ours = Moments((zeros, zeros)), np.zeros(5, np.int64)
    paper_state, paper = start(plain, BITS, 5), np.zeros(5, np.int64)
    deltas, adam = FILE["servers"]["deltas"], FILE["servers"]["adam"]

    for number, (delta, theirs) in enumerate(zip(deltas, adam, strict=True), start=2):
        rate = 0.25 * (1 - 0.99**number) ** 0.5 / (1 - 0.9**number)
        corrected = replace(plain, rate=round(rate * MICRO))
        moved, state = step(corrected, BITS, np.array(delta, np.int64), state)
        ours = ours + moved
        moved, paper_state = step(plain, BITS, np.array(delta, np.int64), paper_state)
        paper = paper + moved
        assert near(ours, np.array(theirs) * 2**BITS, 2**BITS * 2e-5)
    assert not near(paper, np.array(adam[-1]) * 2**BITS, 2**BITS * 0.01)
