"""A validator that was away until its peers had pruned what it lacks, on real processes."""

import signal
import sys
from collections.abc import Iterator
from functools import partial

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
    return fetch(f"{net.urls[number - 1]}/v1/blocks/{height}", net.auditor)[0] == 410


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four validators with short snapshots, of which one serves corrupt ranges."""
    running = Running(tmp_path_factory.mktemp("sync") / "net")
    try:
        for number in running.numbers:
            start(running, number, *(["corrupt"] if number == LIAR else []))
        running.await_ready()
        yield running
    finally:
        running.close()


def await_pruned(net: Running) -> None:
    """Wait until all others have pruned the block after the newest one."""
    others = [number for number in net.numbers if number != AWAY]
    missed = net.status(others[0])["certified_height"] + 1
    for number in others:
        until(partial(pruned, net, number, missed), f"block {missed} pruned at {number}")


def said(net: Running, event: str) -> list[str]:
    """The lines of the log of the one that was away with this event."""
    return [line for line in net.log(AWAY).splitlines() if event in line]


@pytest.mark.timeout(240)
def test_a_validator_that_was_away_past_retention_comes_back_and_votes(net: Running) -> None:
    """By state sync, killed in the middle of it, with one peer that serves corrupt ranges."""
    with Flow(net) as flow:
        flow.await_more()
        net.kill(AWAY)
        await_pruned(net)

        start(net, AWAY, "dying")
        assert net.wait(AWAY) == -signal.SIGKILL
        start(net, AWAY)
        net.await_ready(AWAY)
        flow.await_more()

        net.kill(LIAR)  # the other three are a quorum only with the one that was away
        flow.await_more()
        start(net, LIAR, "corrupt")
        net.await_ready()

    dropped = said(net, "sync.dropped")
    assert dropped
    assert all(f"hospital-{LIAR}.validator" in line for line in dropped)
    assert all("state_range.root" in line for line in dropped)
    assert [line for line in said(net, "sync.started") if '"resumed": true' in line]
    assert said(net, "sync.installed")  # more than once, if blocks came faster than it was ready
    assert_nothing_lost(net, flow.acknowledged)  # and equal headers and states


@pytest.mark.timeout(240)
def test_a_validator_that_learns_too_late_that_it_is_left_behind_syncs_then(net: Running) -> None:
    """Nobody answers when it starts; when they do, they no longer have its next block."""
    before = len(said(net, "sync.installed"))
    starts = len(said(net, "validator.started"))
    others = [net.home(number) for number in net.numbers if number != AWAY]

    with Flow(net) as flow:
        flow.await_more()
        net.kill(AWAY)
        await_pruned(net)
    for home in others:
        net.send(home, signal.SIGSTOP)
    start(net, AWAY)
    until(lambda: len(said(net, "validator.started")) > starts, "a start without peers")
    for home in others:
        net.send(home, signal.SIGCONT)
    until(lambda: len(said(net, "sync.installed")) > before, "another snapshot installed")
    net.await_ready()
    with Flow(net) as again:
        again.await_more()

    assert said(net, "validator.left_behind")
    assert_nothing_lost(net, [*flow.acknowledged, *again.acknowledged])
