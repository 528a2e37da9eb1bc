"""Who complains of a primary, who is heard, and when it is left: dialogues of real replicas."""

from dataclasses import replace

import pytest

from consensus.complaints import HEARD_MAX, SLOWNESS, Complaints
from consensus.event import Limits, Pending, Received, TimerName
from consensus.message import (
    COMPLAINTS_MAX,
    Block,
    BlockReply,
    Envelope,
    PrePrepare,
    Status,
    ViewChange,
    payload_digest,
)
from consensus.outbox import Outbox
from consensus.pace import PATIENCE_TICKS, WINDOW_TICKS
from tests.consensus.certificates import committed
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import CHAIN
from vm.quorum import ValidatorSet

X = b"x" * 32  # ids of requests
Y = b"y" * 32
LIMITS = Limits(window=8)


def status(*complaints: bytes, view: int = 0, active: bool = True) -> Status:
    """A status that says nothing but complaints."""
    return Status(view, active, 0, None, (), complaints, False)


def complain(cluster: Cluster, index: int, *requests: bytes) -> None:
    """Tell a node that its mempool knows of omitted requests."""
    cluster.event(index, Pending(True, requests))


def keep_busy(cluster: Cluster, ms: int) -> None:
    """Order something twice a second, so that no view timer fires."""
    for _ in range(ms // 500):
        cluster.propose(b"other")
        cluster.pass_time(500)


def views(cluster: Cluster) -> list[int]:
    """The view of each node."""
    return [node.replica.view for node in cluster.nodes]


@pytest.mark.parametrize("n", [4, 5, 7, 10])
def test_a_primary_of_whom_a_quorum_complains_is_left_at_once(n: int) -> None:
    """No timer has to fire: a complaint does not wait for the next status period."""
    cluster = Cluster(n, LIMITS)

    for index in range(1, cluster.validators.quorum + 1):
        complain(cluster, index, X)
    cluster.run()

    assert views(cluster) == [1] * n
    assert all(node.replica.active for node in cluster.nodes)
    assert cluster.now_ms == 0


@pytest.mark.parametrize("n", [4, 5, 7, 10])
def test_a_request_that_fewer_than_a_quorum_miss_changes_nothing(n: int) -> None:
    """Nobody leaves alone, so nobody falls silent: all still take part in ordering."""
    cluster = Cluster(n, LIMITS)

    for index in range(1, cluster.validators.quorum):
        complain(cluster, index, X)
    cluster.run()
    keep_busy(cluster, 10_000)

    assert views(cluster) == [0] * n
    assert cluster.sent_by(1, ViewChange) == []
    assert len({len(node.payloads) for node in cluster.nodes}) == 1


def test_complaints_of_different_things_do_not_add_up() -> None:
    """Three backups that each miss another request have no common grievance."""
    cluster = Cluster(4, LIMITS)

    for index, missed in ((1, X), (2, Y), (3, b"z" * 32)):
        complain(cluster, index, missed)
    cluster.run()
    keep_busy(cluster, 5_000)

    assert views(cluster) == [0] * 4


def test_a_liar_and_one_backup_are_no_quorum() -> None:
    """The attack: a faulty replica echoes whatever a single honest one complains of."""
    cluster = Cluster(4, LIMITS)
    complain(cluster, 1, X)

    for receiver in (0, 1, 2):
        cluster.inject(3, receiver, status(X, SLOWNESS))
    cluster.run()
    keep_busy(cluster, 5_000)

    assert views(cluster) == [0] * 4


def test_what_only_others_complain_of_does_not_move_us() -> None:
    """Liars could have invented it; the moment we see it ourselves, we agree."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True

    for sender in (0, 2, 3):
        cluster.inject(sender, 1, status(X))
    before = cluster[1].replica.view
    complain(cluster, 1, X)

    assert (before, cluster[1].replica.view) == (0, 1)


@pytest.mark.parametrize("n", [4, 5, 7, 10])
def test_who_has_left_the_view_alone_is_no_vote_for_its_primary(n: int) -> None:
    """The attack: a primary lets one backup time out, and passes a request over ever after.

    The others order without that one, so none of their timers fires; it waits for them.
    """
    cluster = Cluster(n, LIMITS)
    alone = cluster[n - 1].replica.me
    cluster.lost = lambda _s, receiver, _e: receiver == alone
    complain(cluster, n - 1)
    keep_busy(cluster, 4_000)
    cluster.lost = lambda _s, _r, _e: False
    keep_busy(cluster, 2_000)
    assert views(cluster) == [0] * (n - 1) + [1]

    for index in range(1, cluster.validators.quorum):
        complain(cluster, index, X)
    cluster.run()

    assert views(cluster) == [1] * n
    assert all(node.replica.active for node in cluster.nodes)


def test_who_has_left_counts_once_and_moves_nobody_alone() -> None:
    """It may have complained before; without a complaint of our own we stay."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True

    for sender in (2, 3):
        cluster.inject(sender, 1, status(view=1, active=False))
    assert cluster[1].replica.view == 0

    other = Cluster(4, LIMITS)
    other.lost = lambda _s, _r, _e: True
    other.inject(2, 1, status(X))
    other.inject(2, 1, status(view=1, active=False))
    complain(other, 1, X)
    assert other[1].replica.view == 0


def test_the_primary_does_not_complain_of_itself() -> None:
    """It may hold a request that it cannot order; the others judge it."""
    cluster = Cluster(4, LIMITS)

    for index in (0, 1, 2):
        complain(cluster, index, X)
    cluster.run()

    assert views(cluster) == [0] * 4
    assert all(e.body.complaints == () for e in cluster.sent_by(0, Status))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope("v09", 0, status(X), None, None),
        Envelope("v03", 1, status(X), None, None),
        Envelope("v03", 0, status(X, active=False), None, None),
    ],
    ids=["no seat", "another epoch", "between views"],
)
def test_only_voters_who_follow_this_primary_are_heard(envelope: Envelope) -> None:
    """Statuses come from observers and laggards too; they do not judge our primary."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True
    cluster.inject(2, 1, status(X))

    cluster.event(1, Received(envelope))
    complain(cluster, 1, X)
    assert cluster[1].replica.view == 0

    cluster.inject(3, 1, status(X))
    assert cluster[1].replica.view == 1


def test_a_suspended_seat_is_not_heard() -> None:
    """It counts in n, and it has no say in who leads."""
    cluster = Cluster(4, LIMITS)
    replica = cluster[1].replica
    *others, last = cluster.validators.validators
    suspended = ValidatorSet((*others, replace(last, suspended=True)))
    complaints = Complaints(suspended, replica._pbft.ordering, replica._outbox)

    complaints.hear("v02", status(X))
    complaints.hear("v03", status(X))

    assert list(complaints._heard) == ["v02"]


def test_an_observer_complains_of_nothing() -> None:
    """It has no seat from which to be heard."""
    replica = Cluster(4, LIMITS)[1].replica
    observing = Complaints(
        replica.epoch.validators, replica._pbft.ordering, Outbox(CHAIN, "v01", 0, None)
    )

    observing.pending(True, (X,))

    assert not observing.draw_up()
    assert observing.mine == ()


def test_between_two_views_nobody_complains() -> None:
    """There is no primary to complain of, and what was said of the last one is over."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True
    complain(cluster, 1, X)
    cluster.pass_time(2_500)
    assert not cluster[1].replica.active

    complain(cluster, 1, Y)
    for sender in (2, 3):
        cluster.inject(sender, 1, status(Y, view=1))

    (*_, last) = cluster.sent_by(1, Status)
    assert isinstance(last.body, Status)
    assert last.body.complaints == ()
    assert cluster[1].replica.view == 1
    assert not any(cluster[1].replica._pbft.complaints._heard.values())


def test_a_new_view_begins_without_complaints() -> None:
    """What was held against the old primary, by others or by us, does not touch the new one."""
    cluster = Cluster(4, LIMITS)
    for index in (1, 2, 3):
        complain(cluster, index, X)
    cluster.run()
    assert views(cluster) == [1] * 4

    for index in (0, 2):
        complain(cluster, index, X)
    cluster.run()
    keep_busy(cluster, 5_000)
    assert views(cluster) == [1] * 4

    complain(cluster, 3, X)
    cluster.run()
    assert views(cluster) == [2] * 4


def test_slowness_is_withdrawn_and_omission_is_not() -> None:
    """Three that found the primary slow at three different times do not agree."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True
    complaints = cluster[1].replica._pbft.complaints

    cluster.inject(2, 1, status(SLOWNESS, X))
    cluster.inject(2, 1, status(Y))

    assert list(complaints._heard["v02"]) == [X, Y]


def test_a_liars_complaints_fill_a_bounded_place_of_their_own() -> None:
    """The attack: many invented ids, to fill memory or to push out what others said."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True
    cluster.inject(2, 1, status(X))

    for number in range(0, 4 * HEARD_MAX, COMPLAINTS_MAX):
        ids = [(number + i).to_bytes(32, "big") for i in range(COMPLAINTS_MAX)]
        cluster.inject(3, 1, status(*ids))
    heard = cluster[1].replica._pbft.complaints._heard

    assert len(heard["v03"]) == HEARD_MAX
    assert list(heard["v02"]) == [X]
    complain(cluster, 1, X)
    assert cluster[1].replica.view == 0
    cluster.inject(3, 1, status(X))
    assert cluster[1].replica.view == 1


def test_new_complaints_are_told_once_out_of_turn() -> None:
    """However fast they change: the rest waits for the next status, which is due soon anyway."""
    cluster = Cluster(4, LIMITS)
    cluster.pass_time(1_000)
    before = len(cluster.sent_by(1, Status))

    for number in range(5):
        complain(cluster, 1, bytes([number]) * 32)
    assert len(cluster.sent_by(1, Status)) == before + 3  # one for each of the others

    cluster.pass_time(LIMITS.status_ms)
    (*_, last) = cluster.sent_by(1, Status)
    assert isinstance(last.body, Status)
    assert last.body.complaints == (bytes([4]) * 32,)


def test_a_status_has_room_for_slowness_among_many_omissions() -> None:
    """Never more complaints than the message may hold."""
    cluster = Cluster(4, LIMITS)
    complaints: Complaints = cluster[1].replica._pbft.complaints
    while not complaints.pace.slow:
        complaints.pace.tick()

    complain(cluster, 1, *(bytes([number]) * 32 for number in range(COMPLAINTS_MAX)))

    assert len(complaints.mine) == COMPLAINTS_MAX
    assert complaints.mine[0] == SLOWNESS


def test_the_pace_is_taken_while_requests_wait_and_only_then() -> None:
    """An idle chain has no ticks, and the ticks grow with the view timeout."""
    cluster = Cluster(4, LIMITS)
    assert TimerName.PACE not in cluster[1].timers

    complain(cluster, 1)
    assert cluster[1].timers[TimerName.PACE].delay_ms == LIMITS.pace_ms
    cluster.event(1, Pending(False))
    assert TimerName.PACE not in cluster[1].timers

    complain(cluster, 1)
    cluster.pass_time(PATIENCE_TICKS * LIMITS.pace_ms)
    cluster.event(1, Pending(False))
    complain(cluster, 1)
    cluster.pass_time(LIMITS.pace_ms)
    ticks = cluster[1].replica._pbft.complaints.pace._ticks
    assert list(ticks) == [(False, 0)] * (PATIENCE_TICKS + 1)  # patience begins anew

    cluster.event(1, Pending(False))
    cluster[1].replica._pbft._backoff.failed()
    complain(cluster, 1)
    assert cluster[1].timers[TimerName.PACE].delay_ms == 2 * LIMITS.pace_ms


@pytest.mark.parametrize(("sequence", "busy"), [(1, True), (2, False), (8, False)])
def test_only_the_next_height_under_way_is_work(sequence: int, busy: bool) -> None:
    """The attack: a proposal beyond a gap that the primary never fills looks like agreement."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True
    complain(cluster, 1)

    cluster.inject(0, 1, PrePrepare(0, sequence, payload_digest(b"one")), b"one")
    cluster.pass_time(LIMITS.view_timeout_ms - 1)

    ticks = cluster[1].replica._pbft.complaints.pace._ticks
    assert any(starved for starved, _ in ticks) is not busy


def test_execution_is_work_too() -> None:
    """While a block is executed here the primary may wait for the same: capacity is short."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _s, _r, _e: True
    complain(cluster, 1)
    first = Block(b"x", committed(0, 1, b"x"))

    cluster[1].step(Received(signed(0, BlockReply(None, (first,)))))  # and never executes it
    cluster.pass_time(WINDOW_TICKS * LIMITS.pace_ms)

    ticks = cluster[1].replica._pbft.complaints.pace._ticks
    assert len(ticks) == WINDOW_TICKS
    assert not any(starved for starved, _ in ticks)


def test_leaving_by_complaint_backs_off() -> None:
    """Where messages take so long that every primary seems slow, judgement slows down too."""
    cluster = Cluster(4, LIMITS)

    for index in (1, 2, 3):
        complain(cluster, index, X)
    cluster.run()

    assert [node.replica._pbft._backoff.delay_ms for node in cluster.nodes] == [4_000] * 4
