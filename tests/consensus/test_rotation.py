"""Planned view changes: every seat leads in turn, ordering goes on, and nobody backs off."""

import pytest

from consensus.event import Limits, TimerName
from consensus.message import NewView, ViewChange
from node.validator import mempool
from tests.consensus.cluster import Cluster
from tests.consensus.traffic import Traffic

EVERY = 5  # stable checkpoints
LIMITS = Limits(window=8, rotation=EVERY)


def backoffs(cluster: Cluster) -> set[int]:
    """The view timers' delays."""
    return {node.replica._pbft._backoff.delay_ms for node in cluster.nodes}


@pytest.mark.parametrize("n", [4, 7])
def test_every_seat_leads_in_turn(n: int) -> None:
    """Each for so many heights; all follow at once and nobody's view timer grows."""
    cluster = Cluster(n, LIMITS)

    leaders = []
    for height in range(1, 2 * n * EVERY + 1):
        leaders.append(cluster.leader())
        cluster.propose(b"%d" % height)
        assert backoffs(cluster) == {LIMITS.view_timeout_ms}

    assert leaders == [view % n for view in range(2 * n) for _ in range(EVERY)]
    assert {node.replica.view for node in cluster.nodes} == {2 * n}
    assert len({tuple(node.payloads) for node in cluster.nodes}) == 1
    assert cluster.now_ms == 0


def test_without_rotation_a_primary_stays() -> None:
    """At 0 nothing is planned."""
    cluster = Cluster(4, Limits(window=8, rotation=0))

    for height in range(40):
        cluster.propose(b"%d" % height)

    assert {node.replica.view for node in cluster.nodes} == {0}


def test_ordering_goes_on_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a busy pipeline nothing is lost or ordered twice, and the timers stay short."""
    monkeypatch.setattr(mempool, "TRANSACTIONS_MAX", 20)
    traffic = Traffic(4, Limits(rotation=20))
    traffic.flow(5, range(4_000))

    longest = 0
    for _ in range(210):
        traffic.run(100)
        longest = max(
            longest, *(seat.node.replica._pbft._backoff.delay_ms for seat in traffic.seats)
        )
    traffic.run(5_000)

    assert [len(seat.pool) for seat in traffic.seats] == [0] * 4
    assert len(traffic.views) == 1
    assert min(traffic.views) == traffic.heights[0] // 20 >= 4
    assert longest == Limits().view_timeout_ms


def test_who_catches_up_over_boundaries_joins_the_others_and_moves_nobody() -> None:
    """It asks for no view that is over, and for no view change of its own in the current one."""
    cluster = Cluster(4, LIMITS)
    cluster.kill(3)
    for height in range(2 * EVERY + 2):
        cluster.propose(b"%d" % height)
    view = cluster[0].replica.view
    before = len(cluster.sent_by(0, ViewChange))

    cluster.restart(3)
    cluster.pass_time(10_000)

    assert view == 2
    assert {node.replica.view for node in cluster.nodes} == {view}
    assert all(node.replica.active for node in cluster.nodes)
    assert len(cluster[3].payloads) == 2 * EVERY + 2
    assert len(cluster.sent_by(0, ViewChange)) == before


def test_who_enters_a_view_before_its_own_checkpoint_is_stable_does_not_leave_it_again() -> None:
    """The new view's base lies beyond the boundary that it has yet to reach itself."""
    cluster = Cluster(4, LIMITS)
    late = cluster[3].name
    cluster.lost = lambda _s, receiver, e: (
        receiver == late
        and e.body.TAG
        in (
            "checkpoint",
            "status",
        )
    )
    for height in range(EVERY):
        cluster.propose(b"%d" % height)
    assert cluster[3].replica.view == 1
    early = cluster[3].replica.stable
    assert backoffs(cluster) == {LIMITS.view_timeout_ms}  # it joined early, but by plan

    cluster.lost = lambda _s, _r, _e: False
    cluster.pass_time(2_000)

    assert early is None
    assert cluster[3].replica.stable == cluster[0].replica.stable
    assert cluster[3].replica.executed == EVERY
    assert {node.replica.view for node in cluster.nodes} == {1}
    assert all(node.replica.active for node in cluster.nodes)


def test_a_restart_does_not_forget_that_the_turn_was_over() -> None:
    """What was planned is derived from the view's base, which the journal knows."""
    cluster = Cluster(4, LIMITS)
    for height in range(EVERY + 1):
        cluster.propose(b"%d" % height)
    for index in range(4):
        cluster[index].sync()
        cluster[index].flush()
        cluster.kill(index)

    for index in range(4):
        cluster.restart(index)
    cluster.pass_time(3_000)

    assert {node.replica.view for node in cluster.nodes} == {1}
    for height in range(EVERY - 2):
        cluster.propose(b"later %d" % height)
    assert {node.replica.view for node in cluster.nodes} == {1}
    cluster.propose(b"last")
    assert {node.replica.view for node in cluster.nodes} == {2}


def test_a_dead_successor_is_passed_over_with_backoff() -> None:
    """The planned view change costs nothing; the one that its dead primary calls for does."""
    cluster = Cluster(4, LIMITS)
    cluster.kill(1)

    for height in range(EVERY):
        cluster.propose(b"%d" % height)
    delays = {cluster[i].timers[TimerName.VIEW].delay_ms for i in (0, 2, 3)}
    cluster.pass_time(LIMITS.view_timeout_ms)

    assert delays == {LIMITS.view_timeout_ms}
    assert {cluster[i].replica.view for i in (0, 2, 3)} == {2}
    assert {cluster[i].replica._pbft._backoff.delay_ms for i in (0, 2, 3)} == {4_000}
    assert cluster.sent_by(2, NewView)


def test_an_observer_follows_the_turns_of_others_without_a_word() -> None:
    """It has the plan like everybody, and nothing to say; nobody waits for it."""
    cluster = Cluster(4, LIMITS)
    cluster.kill(3)
    cluster[3].keys.clear()
    cluster.restart(3)

    for height in range(2 * EVERY + 1):
        cluster.propose(b"%d" % height)
    cluster.pass_time(2_000)

    assert not cluster[3].replica.voting
    assert len(cluster[3].payloads) == 2 * EVERY + 1
    assert {node.replica.view for node in cluster.nodes} == {2}
    assert cluster.sent_by(3, ViewChange) == []
