"""A validator that was away until its peers had pruned what it lacks, on real processes."""

import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.network.running import Flow, Running, assert_nothing_lost, fetch, until

pytestmark = pytest.mark.network

AWAY = 4
LIAR = 1


def start(net: Running, number: int, *how: str) -> None:
    """Start a validator with short snapshots."""
    home = net.home(number)
    net.spawn(home, [sys.executable, "-m", "tests.network.short", str(home), *how])


def pruned(net: Running, number: int, height: int) -> bool:
    """Whether a validator no longer has a block."""
    return fetch(f"{net.urls[number - 1]}/v1/blocks/{height}")[0] == 410


@pytest.mark.timeout(240)
def test_a_validator_that_was_away_past_retention_comes_back_and_votes(tmp_path: Path) -> None:
    """By state sync, killed in the middle of it, with one peer that serves corrupt ranges."""
    net = Running(tmp_path / "net")
    others = [number for number in net.numbers if number != AWAY]
    try:
        for number in net.numbers:
            start(net, number, *(["corrupt"] if number == LIAR else []))
        net.await_ready()
        with Flow(net) as flow:
            flow.await_more()
            net.kill(AWAY)
            missed = net.status(others[0])["certified_height"] + 1
            for number in others:
                until(partial(pruned, net, number, missed), f"block {missed} pruned at {number}")

            start(net, AWAY, "dying")
            assert net.wait(AWAY) == -signal.SIGKILL
            start(net, AWAY)
            net.await_ready(AWAY)
            flow.await_more()

            net.kill(LIAR)  # the other three are a quorum only with the one that was away
            flow.await_more()
            start(net, LIAR)
            net.await_ready()

        said = net.log(AWAY).splitlines()
        dropped = [line for line in said if "sync.dropped" in line]
        assert dropped
        assert all(f"hospital-{LIAR}.validator" in line for line in dropped)
        assert all("state_range.root" in line for line in dropped)
        assert sum("sync.started" in line for line in said) == 2
        assert sum("sync.installed" in line for line in said) == 1
        assert_nothing_lost(net, flow.acknowledged)  # and equal headers and states
    finally:
        net.close()
