"""Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), section 4.5.2: liveness.

A replica that asks for a view waits for a quorum that does, and only then times the new primary.
    test_a_replica_alone_in_a_view_change_does_not_run_ahead
    test_a_quorum_that_has_left_starts_the_timer_of_the_new_primary
The time that a quorum spends in one view grows until something is executed.
    test_the_timer_doubles_with_each_view_that_fails
Expired without a valid new view, it asks for the next one and waits twice as long.
    test_a_new_primary_that_says_nothing_is_left_after_twice_the_time
... and so without an execution in the new view of what was not executed before.
    test_a_view_that_orders_nothing_new_is_left_too
F + 1 view changes of others for later views are joined at the smallest of them, before any timer.
    test_f_plus_one_view_changes_are_joined_at_the_smallest_view
    test_f_view_changes_move_nobody
A faulty backup alone causes no view change.
    test_f_view_changes_move_nobody
Views go round, so f + 1 in a row have a primary without fault.
    test_the_primaries_go_round
    test_f_dead_primaries_in_a_row_are_passed_over
Ours: the delay has a cap, and each delivery halves it (besu#7642).
    test_the_delay_has_a_cap_and_shrinks_with_progress
"""

import pytest

from consensus.event import Limits, Pending, TimerName
from consensus.message import NewView, ViewChange
from consensus.timer import Backoff
from tests.consensus.certificates import change, new_view
from tests.consensus.cluster import Cluster
from tests.consensus.node import validator_set
from tests.consensus.paper import quiet, said


def test_a_replica_alone_in_a_view_change_does_not_run_ahead() -> None:
    """4.5.2: the timer for the next view starts only with 2f + 1 view changes."""
    cluster = quiet()
    cluster.event(1, Pending(True))
    cluster.pass_time(60_000)
    assert cluster[1].replica.view == 1

    cluster.inject(2, 1, ViewChange(5, None, ()))
    assert TimerName.VIEW not in cluster[1].timers


@pytest.mark.parametrize("n", range(4, 17))
def test_a_quorum_that_has_left_starts_the_timer_of_the_new_primary(n: int) -> None:
    """4.5.2: a quorum of view changes for the view, its own among them, and not one less."""
    cluster = quiet(n)
    quorum = cluster.validators.quorum
    senders = [i for i in range(n) if i not in (1, 2)][: quorum - 1]
    for sender in senders[:-1]:
        cluster.inject(sender, 2, ViewChange(1, None, ()))
    cluster.event(2, Pending(True))
    if not cluster[2].replica.active:
        before = TimerName.VIEW in cluster[2].timers
    else:  # fewer than f + 1 have asked: it must ask by itself first
        cluster.pass_time(2_000)
        before = TimerName.VIEW in cluster[2].timers

    cluster.inject(senders[-1], 2, ViewChange(1, None, ()))

    assert not before
    assert TimerName.VIEW in cluster[2].timers


def test_the_timer_doubles_with_each_view_that_fails() -> None:
    """4.5.2: T, 2T, 4T, so that a period comes in which a quorum stays in one view long enough."""
    cluster = quiet()
    cluster.event(1, Pending(True))
    delays = [cluster[1].timers[TimerName.VIEW].delay_ms]

    for view in (1, 2, 3):
        cluster.inject(2, 1, ViewChange(view + 1, None, ()))  # reaches f + 1 with the next
        cluster.inject(3, 1, ViewChange(view + 1, None, ()))
        timer = cluster[1].timers.get(TimerName.VIEW)
        delays.append(timer.delay_ms if timer else 0)

    assert delays == [2_000, 4_000, 8_000, 16_000]


def test_a_new_primary_that_says_nothing_is_left_after_twice_the_time() -> None:
    """4.5.2: without a valid new view the next one is asked for, and waited for 2T."""
    cluster = Cluster()
    cluster.kill(0)
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, NewView)

    cluster.wait_for(requests=True)
    cluster.pass_time(2_000)
    assert {node.replica.view for node in cluster.nodes[2:]} == {1}
    cluster.pass_time(3_999)
    assert {node.replica.view for node in cluster.nodes[2:]} == {1}

    cluster.pass_time(2)
    assert {node.replica.view for node in cluster.nodes[2:]} == {2}


def test_a_view_that_orders_nothing_new_is_left_too() -> None:
    """4.5.2: entering is not enough, something new must be executed."""
    cluster = quiet()
    cluster.event(3, Pending(True))
    changes = [change(i, ViewChange(1, None, ())) for i in (0, 1, 2)]
    cluster.inject(1, 3, new_view(1, changes))
    assert (cluster[3].replica.view, cluster[3].replica.active) == (1, True)

    cluster.pass_time(60_000)

    assert said(cluster, 3, ViewChange) == [ViewChange(2, None, ())]


def test_f_plus_one_view_changes_are_joined_at_the_smallest_view() -> None:
    """4.5.2: even if its timer has not expired."""
    cluster = quiet(7)
    cluster.inject(4, 3, ViewChange(9, None, ()))
    cluster.inject(5, 3, ViewChange(2, None, ()))
    assert cluster[3].replica.view == 0

    cluster.inject(6, 3, ViewChange(4, None, ()))

    assert said(cluster, 3, ViewChange) == [ViewChange(2, None, ())]


@pytest.mark.parametrize("n", range(4, 17))
def test_f_view_changes_move_nobody(n: int) -> None:
    """4.5.2: faulty replicas cannot keep the others changing views; f + 1 have one without fault.

    The attack: f of them ask for ever higher views.
    """
    cluster = quiet(n)
    f = cluster.validators.f
    liars = range(n - f, n)
    for view in (1, 2, 1_000, 2**53):
        for sender in liars:
            cluster.inject(sender, 0, ViewChange(view, None, ()))
    assert (cluster[0].replica.view, said(cluster, 0, ViewChange)) == (0, [])

    cluster.inject(1, 0, ViewChange(1, None, ()))

    assert said(cluster, 0, ViewChange) == [ViewChange(1, None, ())]


@pytest.mark.parametrize("n", range(4, 17))
def test_the_primaries_go_round(n: int) -> None:
    """4.5.2: p = v mod n, so no primary has two views in a row, and f + 1 views have f + 1."""
    members = validator_set(n)

    for view in range(2 * n):
        names = {members.primary(view + i).id for i in range(members.f + 1)}
        assert len(names) == members.f + 1


@pytest.mark.parametrize(("n", "within_ms"), [(4, 2_500), (7, 7_000)])
def test_f_dead_primaries_in_a_row_are_passed_over(n: int, within_ms: int) -> None:
    """4.5.2: at most f views are lost to them."""
    cluster = Cluster(n)
    f = cluster.validators.f
    for index in range(f):
        cluster.kill(index)

    cluster.wait_for(requests=True)
    cluster.pass_time(within_ms)
    cluster.propose(b"one")

    assert [node.payloads for node in cluster.nodes[f:]] == [[b"one"]] * (n - f)
    assert cluster[f].replica.view == f


def test_the_delay_has_a_cap_and_shrinks_with_progress() -> None:
    """Doubled without end a timeout reached an hour, and only restarting everyone helped."""
    backoff = Backoff(Limits(view_timeout_ms=2_000, view_timeout_ms_max=60_000))
    delays = []
    for _ in range(12):
        backoff.failed()
        delays.append(backoff.delay_ms)
    for _ in range(12):
        backoff.progressed()

    assert delays[:5] == [4_000, 8_000, 16_000, 32_000, 60_000]
    assert delays[-1] == 60_000
    assert backoff.delay_ms == 2_000
