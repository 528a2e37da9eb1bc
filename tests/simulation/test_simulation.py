"""Seeded runs: no fault within the bounds breaks a promise, and faults beyond them are seen."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import pytest

from node.validator.chain import Chain
from node.validator.store import Store
from tests.simulation.disk import JournalFile, MemoryDatabase
from tests.simulation.judge import Violation
from tests.simulation.options import Options
from tests.simulation.shell import Shell
from tests.simulation.simulation import KINDS, Simulation
from tests.simulation.trace import Trace
from tests.simulation.traitor import MOODS
from vm.execute import Program
from vm.genesis import Genesis
from vm.transaction import Verified

Known: TypeAlias = Mapping[bytes, Verified]
ROOT = Path(__file__).resolve().parent.parent.parent


def digest_of(seed: int, steps: int) -> str:
    """The digest of a run's trace."""
    trace = Trace()
    Simulation(Options(seed, steps=steps), trace).run()
    return trace.digest


def violation_of(options: Options) -> str:
    """What a run breaks, or nothing."""
    try:
        Simulation(options).run()
    except Violation as violation:
        return str(violation)
    return ""


@pytest.mark.parametrize("seed", range(1, 11))
def test_four_validators_keep_every_promise(seed: int) -> None:
    """With at most one traitor of four, agreement holds at all times and liveness once healed."""
    report = Simulation(Options(seed, replicas=4)).run()

    assert report.height > 0
    assert report.transactions > 0


@pytest.mark.parametrize("replicas", [5, 6, 7, 10])
def test_larger_sets_keep_every_promise(replicas: int) -> None:
    """The same for sets whose quorum is not 2f + 1, and for f = 2 and 3."""
    report = Simulation(Options(replicas, replicas=replicas)).run()

    assert report.height > 0


@pytest.mark.parametrize("mood", MOODS)
def test_no_kind_of_traitor_breaks_a_promise(mood: str) -> None:
    """One traitor of four, whatever it does, costs some views and nothing else."""
    report = Simulation(Options(5, replicas=4, traitors=1, mood=mood)).run()

    assert report.height > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_copy_that_is_lost_costs_no_view(kind: str) -> None:
    """Whatever each link loses once is said again before a patient view timer runs out."""
    report = Simulation(Options(3, replicas=4, traitors=0, calm=True, lost=kind)).run()

    assert report.height > 0


@pytest.mark.parametrize("mood", MOODS)
def test_no_traitor_makes_anybody_leave_an_honest_primary(mood: str) -> None:
    """Where messages are in time, a traitor costs the views that it leads, and no other."""
    report = Simulation(Options(9, replicas=4, traitors=1, mood=mood, calm=True)).run()

    assert report.height > 0


def test_a_greedy_primary_meets_the_bound_of_its_view() -> None:
    """Proposals that fill the window with long payloads are refused beyond the limit."""
    refused: set[str] = set()
    for seed in range(1, 16):
        simulation = Simulation(Options(seed, 4, traitors=1, mood="greedy"))
        simulation.run()
        refused |= simulation.rejected

    assert "consensus.payloads_full" in refused


def test_validators_come_and_go_while_it_runs() -> None:
    """Some run passes from epoch to epoch."""
    reports = [Simulation(Options(seed)).run() for seed in range(1, 7)]

    assert max(report.epochs for report in reports) > 1


def test_two_traitors_of_four_are_caught_forking() -> None:
    """Beyond f the checks fail: the simulator can see a fork."""
    violations = [violation_of(Options(seed, 4, 600, 2, "two-faced")) for seed in range(1, 11)]

    assert any(text.startswith("agreement") for text in violations)


def test_a_disk_that_lies_about_a_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sync leaves the journal unwritten, some validator comes back without its word."""
    monkeypatch.setattr(JournalFile, "sync", lambda journal: None)

    violations = [violation_of(Options(seed, 4, 1_000, traitors=0)) for seed in range(1, 9)]

    broken = ("no rollback", "journal", "one signature per slot")
    assert any(text.startswith(broken) for text in violations)


def test_a_chain_that_sleeps_through_a_deadline_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no validator wants a block for a deadline, the chain stays idle past it."""
    monkeypatch.setattr(Shell, "_due", lambda shell, grace_ms: shell.replica.turning)

    violations = [violation_of(Options(seed, 4, 600, traitors=0)) for seed in range(1, 11)]

    assert any(text.startswith("liveness") for text in violations)


def test_validators_that_execute_differently_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the validators know no enrolment: at the first one headers are unequal."""
    made = itertools.count()

    def chain_of(store: Store, genesis: Genesis, program: Program, known: Known) -> Chain:
        kinds = {name: kind for name, kind in program.kinds.items() if name != "member.enrol"}
        other = Program(MappingProxyType(kinds), program.hooks)
        return Chain(store, genesis, other if next(made) % 2 else program, known)

    monkeypatch.setattr("tests.simulation.shell.Chain", chain_of)

    with pytest.raises(Violation, match=r"^equal headers"):
        Simulation(Options(1, 4, 600, traitors=0)).run()


def test_a_lost_acknowledged_transaction_is_missed() -> None:
    """A validator with an empty store after the run lacks what clients hold a proof of."""
    simulation = Simulation(Options(1, 4, 600, traitors=0))
    simulation.run()
    forgetful = simulation.honest[0]
    simulation.judge.kept(forgetful)

    forgetful.chain.store = Store(MemoryDatabase())

    with pytest.raises(Violation, match=r"^acknowledged"):
        simulation.judge.kept(forgetful)


def test_equal_seeds_give_equal_traces_in_any_process() -> None:
    """A run depends on its options alone, not on the process or on the order of its sets."""
    here = digest_of(3, steps=600)

    code = f"from tests.simulation.test_simulation import digest_of; print(digest_of(3, {600}))"
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert here == digest_of(3, steps=600)
    assert there.stdout.strip() == here
    assert here != digest_of(4, steps=600)


def test_a_trace_tells_every_delivery(tmp_path: Path) -> None:
    """Each record is a line of the transcript and a JSON line; blocks are delivered in order."""
    trace = Trace(keep=True)
    report = Simulation(Options(1, traitors=0), trace).run()

    trace.save(tmp_path / "run.txt")

    records = [json.loads(line) for line in (tmp_path / "run.txt.jsonl").read_text().splitlines()]
    assert len((tmp_path / "run.txt").read_text().splitlines()) == len(records) == trace.records
    delivered = {r["sequence"] for r in records if r["what"] == "deliver"}
    assert delivered == set(range(1, report.height + 1))
