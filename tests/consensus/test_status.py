"""Status exchange: whatever was lost is sent again, also when traffic stops."""

import pytest

from consensus.event import Limits, TimerFired, TimerName
from consensus.message import (
    PAYLOAD_BYTES_MAX,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
)
from consensus.outbox import Outbox
from tests.consensus.cluster import Cluster
from tests.consensus.node import CHAIN, KEYS


def lose_first(cluster: Cluster, kind: type[Body], receiver_lost: str | None = None) -> None:
    """Lose every message of this kind that is sent before any status period is over."""

    def lost(_sender: str, receiver: str, envelope: Envelope) -> bool:
        early = cluster.now_ms == 0
        return early and isinstance(envelope.body, kind) and receiver_lost in (None, receiver)

    cluster.lost = lost


@pytest.mark.parametrize("kind", [PrePrepare, Prepare, Commit, Checkpoint])
@pytest.mark.parametrize("receiver", [None, "v00", "v02"])
def test_lost_messages_are_sent_again_without_a_view_change(
    kind: type[Body], receiver: str | None
) -> None:
    """Every replica ends with the block and its certificate, and the primary keeps its place."""
    cluster = Cluster()
    lose_first(cluster, kind, receiver)

    cluster.propose(b"one", b"two")
    cluster.pass_time(1_900)  # less than the view timeout
    cluster.pass_time(10_000)

    for node in cluster.nodes:
        assert node.payloads == [b"one", b"two"]
        assert node.replica.stable is not None
        assert node.replica.stable.height == 2
        assert node.replica.view == 0


@pytest.mark.parametrize("kind", [ViewChange, NewView])
def test_a_lost_view_change_or_new_view_is_sent_again(kind: type[Body]) -> None:
    """The first of each kind is lost to everybody; the view starts a status period later."""
    cluster = Cluster()
    cluster.kill(0)
    cluster.lost = lambda _s, _r, e: isinstance(e.body, kind) and cluster.now_ms <= 2_000
    cluster.wait_for(requests=True)

    cluster.pass_time(3_200)

    assert [node.replica.view for node in cluster.nodes[1:]] == [1, 1, 1]
    assert all(node.replica.active for node in cluster.nodes[1:])


def test_a_status_is_answered_at_most_once() -> None:
    """An answer is not answered, so two replicas that differ do not talk for ever."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: not isinstance(envelope.body, Status)
    cluster.propose(b"one")
    before = len(cluster.sent)

    cluster.pass_time(500)

    statuses = [e.body for _, _, e in cluster.sent[before:] if isinstance(e.body, Status)]
    assert len(statuses) <= 2 * 4 * 3
    assert any(status.answer for status in statuses)


def test_a_peer_that_repeats_its_status_is_answered_once_in_a_period() -> None:
    """A small message that brings large ones back is no way to make a replica send all day."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, PrePrepare)
    cluster.propose(b"one")
    cluster.pass_time(600)
    cluster.lost = lambda _s, _r, _e: True
    cluster.pass_time(500)
    before = len(cluster.sent)

    for view in range(10):
        cluster.inject(2, 0, Status(0, True, 0, None, (view + 3,), (), False))
        cluster.inject(2, 0, Status(0, True, 0, None, (view + 3,), (), True))
    answers = cluster.sent[before:]
    cluster.pass_time(500)
    before = len(cluster.sent)
    cluster.inject(2, 0, Status(0, True, 0, None, (), (), False))

    proposals = [e for _, r, e in answers if r == "v02" and isinstance(e.body, PrePrepare)]
    assert len(proposals) == 2  # one for its status, one for its answer to ours
    assert len([e for _, _, e in answers if isinstance(e.body, Status)]) == 1
    assert any(isinstance(e.body, PrePrepare) for _, _, e in cluster.sent[before:])


def test_a_replica_at_rest_answers_as_often_as_a_busy_peer_asks() -> None:
    """Its own period is long then, so it has as many answers as short periods fit into that."""
    cluster = Cluster()
    cluster.propose(b"one")
    cluster.lost = lambda _s, _r, _e: True
    cluster.pass_time(5_000)
    before = len(cluster.sent)

    for _ in range(100):
        cluster.inject(2, 0, Status(0, True, 0, None, (), (), False))

    statuses = [e for _, _, e in cluster.sent[before:] if isinstance(e.body, Status)]
    assert len(statuses) == 10


def test_one_status_brings_at_most_one_full_payload() -> None:
    """What is sent again is bounded, so that a slow link is not flooded."""
    cluster = Cluster(limits=Limits(window=8))
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, PrePrepare | Status)
    half = PAYLOAD_BYTES_MAX // 2
    cluster.propose(b"1" * half, b"2" * half, b"3" * half)
    cluster.pass_time(500)
    before = len(cluster.sent)

    cluster.inject(2, 0, Status(0, True, 0, None, (), (), True))

    again = [e for _, _, e in cluster.sent[before:] if isinstance(e.body, PrePrepare)]
    assert sum(len(envelope.payload or b"") for envelope in again) == PAYLOAD_BYTES_MAX


def test_the_firing_of_an_earlier_setting_does_nothing() -> None:
    """A firing that was on its way when the timer was set again is known by its number."""
    cluster = Cluster()
    stale = cluster[1].timers[TimerName.STATUS].timer
    cluster.pass_time(5_000)

    assert cluster[1].step(TimerFired(stale)) == []


def test_a_second_message_for_one_slot_is_our_own_bug_and_stops_the_node() -> None:
    """The last line of defence against signing twice is an assertion."""
    outbox = Outbox(CHAIN, "v00", 0, KEYS[0].sign)
    outbox.say(Prepare(0, 1, b"\1" * 32))

    with pytest.raises(AssertionError, match="two messages for slot"):
        outbox.say(Prepare(0, 1, b"\2" * 32))
