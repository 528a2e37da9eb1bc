"""Validators in simulated time: equal runs, messages as counted by hand, waits as added up."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from consensus.message import Checkpoint, Commit, Prepare, PrePrepare
from node.validator.runtime import GATHER_MS
from tests.bench.scale import curve
from tests.bench.scale.costs import FREE, Costs, Work
from tests.bench.scale.curve import Scale
from tests.bench.scale.figures import document, markdown
from tests.bench.scale.plot import svg
from tests.bench.scale.run import Run
from tests.bench.scale.timeline import EUROPE, LAN, Clock, Core, Net
from tests.bench.scale.validator import GOSSIP

AT_ONCE = Net("at-once", 0.0, 0.0, inf)
SECONDS = 1.0
SYNC_S = 0.002
DEAR = replace(  # every piece has its price, in round numbers
    FREE,
    decode_s={"commit": 0.00001},
    encode_s={"commit": 0.00001},
    step_s={"commit": 0.00002},
    verify_s=0.0001,
    frame_s=0.00002,
    intake_s=0.0002,
    transaction_s=0.0003,
    sync_s=SYNC_S,
)


def once(n: int, costs: Costs = FREE, net: Net = AT_ONCE) -> Run:
    """A run at rest in which the primary is brought one request, and seconds pass."""
    run = Run(n, net, costs, seed=1)
    run.clock.run(1.0)
    run.submit(0, 1)
    run.clock.run(4.0)
    return run


@pytest.mark.parametrize("n", [4, 7, 16])
def test_a_block_takes_the_messages_of_the_paper(n: int) -> None:
    """A proposal to each backup; Prepare of each backup, Commit and Checkpoint of all, to all."""
    run = once(n)

    sent = {
        kind: sum(validator.sent[kind.TAG] for validator in run.validators)
        for kind in (PrePrepare, Prepare, Commit, Checkpoint)
    }

    assert {validator.certified for validator in run.validators} == {1}
    assert sent == {
        PrePrepare: n - 1,
        Prepare: (n - 1) * (n - 1),
        Commit: n * (n - 1),
        Checkpoint: n * (n - 1),
    }


def test_equal_seeds_give_equal_runs() -> None:
    """Also where delays and arrivals are drawn; another seed draws others."""
    first, again, other = (
        Run(4, EUROPE, DEAR, seed).offer(0.5, 300.0, SECONDS) for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other
    assert first.lost == first.views == 0


def test_where_work_is_free_a_request_waits_for_others_for_delays_and_for_syncs() -> None:
    """Proposal, Prepare, Commit and Checkpoint: each synced and carried; then the certificate."""
    run = once(4, replace(FREE, sync_s=SYNC_S), replace(LAN, bytes_s=inf))

    (wait,) = run.waits

    assert wait == pytest.approx(GATHER_MS / 1_000 + 4 * (LAN.low_s + SYNC_S) + SYNC_S, abs=1e-6)


def test_a_core_does_one_thing_after_the_other() -> None:
    """A task that comes meanwhile begins when the first has ended."""
    clock, ends = Clock(), list[float]()
    core = Core(clock)

    def task() -> None:
        core.spend(Work.VOTES, 0.5)
        clock.at(core.now_s, lambda: ends.append(clock.now_s))

    core.run(task)
    clock.at(0.25, lambda: core.run(task))
    clock.run(2.0)

    assert ends == [0.5, 1.0]
    assert core.spent_s[Work.VOTES] == 1.0


def test_the_most_that_can_be_had_is_what_a_core_bears() -> None:
    """Half a millisecond of a core for each transaction allows two thousand a second."""
    point = Run(4, LAN, DEAR, seed=1).saturate(4.0)

    most = 1 / (DEAR.intake_s + DEAR.transaction_s)
    assert 0.7 * most < point.tps <= most


def test_votes_take_a_larger_share_of_more_validators() -> None:
    """Under the same load each of sixteen hears five times as many votes as each of four."""
    few, many = (Run(n, LAN, DEAR, seed=1).offer(0.1, 100.0, SECONDS) for n in (4, 16))

    assert many.vote_share > few.vote_share
    assert many.vote_ms == pytest.approx(5 * few.vote_ms, rel=0.2)


def test_a_large_message_occupies_its_link() -> None:
    """A payload of so many bytes arrives later by as long as the link needs for them."""
    slow = once(4, FREE, Net("slow", 0.0, 0.0, 10_000.0))

    assert slow.waits[0] > once(4).waits[0] + 0.05


def test_what_waits_for_long_is_handed_on_again() -> None:
    """Where a block takes longer than two looks at what waits, all hand it to all others."""
    near, far = (
        sum(validator.sent[GOSSIP] for validator in once(4, FREE, net).validators)
        for net in (AT_ONCE, Net("far", 0.4, 0.4))
    )

    assert near == 3
    assert far > near


def test_costs_are_measured_and_curves_told(tmp_path: Path) -> None:
    """The whole way for the smallest network and one load; figures are of this machine."""
    found = curve.measure(tmp_path, (4,), seconds=0.5, loads=(0.1, 0.5))

    told = json.loads(json.dumps(document(found)))
    assert set(told) == {"python", "cores", "busy", "seed", "seconds", "costs", "points"}
    assert set(told["points"][0]) >= {
        "validators",
        "net",
        "load",
        "tps",
        "p50_ms",
        "p99_ms",
        "messages_per_block",
        "bytes_per_block",
        "vote_share",
    }
    assert [(point["net"], point["load"]) for point in told["points"]] == [
        (net, load) for net in ("lan", "europe") for load in (1.0, 0.1, 0.5)
    ]
    assert all(value > 0 for value in told["costs"]["4"]["step_s"].values())
    assert "| lan | 4 | " in markdown(found)
    assert svg(found).count("<polyline stroke") == 5


def test_a_point_is_found_by_its_run() -> None:
    """By number, net and load."""
    point = Run(4, LAN, FREE, seed=1).offer(0.1, 50.0, SECONDS)
    found = Scale("3", 2, 0.0, 1, SECONDS, {4: FREE}, (replace(point, load=1.0), point))

    assert found.at(4, "lan", 0.1) is point
