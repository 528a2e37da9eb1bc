"""Seeded runs: no fault within the bounds breaks a promise, and faults beyond them are seen."""

import pytest

from tests.consensus.judge import Violation
from tests.consensus.simulator import Simulation


@pytest.mark.parametrize("seed", range(1, 21))
def test_four_replicas_keep_every_promise(seed: int) -> None:
    """With at most one traitor of four, agreement holds at all times and liveness once healed."""
    report = Simulation(seed).run()

    assert report.height > 0


@pytest.mark.parametrize("n", [5, 6, 7, 10])
def test_larger_sets_keep_every_promise(n: int) -> None:
    """The same for sets whose quorum is not 2f + 1, and for f = 2 and 3."""
    report = Simulation(seed=n, n=n).run()

    assert report.height > 0


def test_a_greedy_primary_stops_nobody() -> None:
    """A traitor that fills every window with proposals that never prepare costs its views only."""
    refused: set[str] = set()
    for seed in range(1, 6):
        simulation = Simulation(seed, traitors=1, mood="greedy")

        report = simulation.run()

        assert report.height > 0
        for member in simulation.honest:
            refused.update(rejected.code for rejected in member.node.rejected)
    assert "consensus.payloads_full" in refused


def test_two_traitors_of_four_are_caught_forking() -> None:
    """Beyond f the checks fail: the simulator can see a fork."""
    violations = []
    for seed in range(1, 11):
        try:
            Simulation(seed, steps=600, traitors=2).run()
        except Violation as violation:
            violations.append(str(violation))

    assert any(text.startswith("agreement") for text in violations)


def test_a_seed_gives_one_run() -> None:
    """The same seed takes the same number of events to the same end."""
    assert Simulation(3, steps=800).run() == Simulation(3, steps=800).run()
