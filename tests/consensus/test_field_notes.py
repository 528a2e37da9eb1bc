"""How other BFT systems broke, replayed on ours: one scenario for each row that applies here.

The letter and number are the row of the project's table of field notes; the source is the issue in
which others met it. Rows that other files carry: A9 in test_catchup, A17 in test_viewchange, A20 in
test_journal.
"""

from itertools import product

import pytest

from consensus.event import Limits, Pending, Propose, Received, TimerName
from consensus.message import (
    Block,
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
    decode_envelope,
    encode_envelope,
    payload_digest,
    signing_digest,
)
from consensus.timer import Backoff
from tests.consensus.certificates import checkpoint, committed
from tests.consensus.cluster import Cluster, Lost, signed
from tests.consensus.node import CHAIN
from vm.keys import verify
from vm.refusal import Refused

ONE = payload_digest(b"one")


def isolated(name: str) -> Lost:
    """Nothing reaches or leaves this node."""
    return lambda sender, receiver, _envelope: name in (sender, receiver)


def test_a1_view_changes_with_different_checkpoints_still_start_a_view() -> None:
    """A1 (fabric#1111): choosing among matching checkpoints only gave endless view changes."""
    cluster = Cluster()
    cluster.propose(b"one")
    cluster.kill(3)
    cluster.propose(b"two")
    cluster.restart(3)  # behind by a checkpoint
    cluster.kill(0)

    cluster.wait_for(requests=True)
    cluster.pass_time(3_000)
    cluster.propose(b"three")

    assert [node.payloads for node in cluster.nodes[1:]] == [[b"one", b"two", b"three"]] * 3
    assert cluster[1].replica.view == 1


def test_a2_backups_that_hear_of_a_request_time_the_primary() -> None:
    """A2 (fabric#754): only the primary saw the request, so nobody timed it when it died."""
    cluster = Cluster()
    cluster.kill(0)

    cluster.wait_for(requests=True)
    cluster.pass_time(2_500)

    assert {node.replica.view for node in cluster.nodes[1:]} == {1}
    assert all(node.replica.active for node in cluster.nodes[1:])


def test_a2_a_proposal_in_flight_is_timed_also_where_the_request_was_never_seen() -> None:
    """A2: a backup that accepted a proposal waits for its delivery, request or not."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert TimerName.VIEW in cluster[1].timers


def test_a6_what_the_old_primary_had_in_flight_is_cancelled_by_the_view_change() -> None:
    """A6 (sawtooth-pbft#140): it kept its block, and published it in a view that was over."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    cluster.event(0, Propose(b"never seen"))
    cluster.run()
    cluster.lost = isolated("v00")
    for i in (1, 2, 3):
        cluster.event(i, Pending(True))
    cluster.pass_time(2_500)
    cluster.lost = lambda _s, _r, _e: False
    cluster.propose(b"new")
    cluster.pass_time(6_000)

    assert [node.payloads for node in cluster.nodes] == [[b"new"]] * 4
    assert not cluster[0].replica.may_propose
    assert cluster[0].replica.view == cluster[1].replica.view


def test_a7_a_replica_alone_in_a_view_change_follows_commits_and_comes_back() -> None:
    """A7 (sawtooth-pbft#90): a commit by catch-up left the node in "view changing" for good."""
    cluster = Cluster()
    cluster.lost = isolated("v03")
    cluster.event(3, Pending(True))
    cluster.pass_time(2_000)
    cluster.propose(b"one")
    cluster.lost = lambda _s, _r, _e: False

    cluster.propose(b"two")
    cluster.pass_time(5_000)
    assert cluster[3].payloads == [b"one", b"two"]
    assert TimerName.VIEW not in cluster[3].timers  # it waits without running ahead

    cluster.kill(0)
    cluster.wait_for(requests=True)
    cluster.pass_time(2_500)
    cluster.propose(b"three")
    assert [node.payloads for node in cluster.nodes[1:]] == [[b"one", b"two", b"three"]] * 3


def test_a8_an_early_join_starts_one_new_view() -> None:
    """A8 (sawtooth-pbft#98): with n = 4, f + 1 equals 2f and the new view was sent twice."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True

    for sender in (2, 3, 0, 2, 3):
        cluster.inject(sender, 1, ViewChange(1, None, ()))

    new_views = cluster.sent_by(1, NewView)
    assert len(new_views) == 3  # one for each of the others
    assert len({encode_envelope(envelope) for envelope in new_views}) == 1
    assert len(cluster.sent_by(1, ViewChange)) == 3


def test_a10_an_isolated_replica_that_heals_again_and_again_stops_nobody() -> None:
    """A10 (bft-smart#19): isolating one node in turn ended in a livelock."""
    cluster = Cluster()
    for turn in range(8):
        cluster.lost = isolated(f"v{turn % 4:02}")
        cluster.wait_for(requests=True)
        cluster.pass_time(2_500)
    cluster.lost = lambda _s, _r, _e: False

    cluster.pass_time(20_000)
    cluster.propose(b"one")
    cluster.pass_time(5_000)

    assert [node.payloads[-1] for node in cluster.nodes] == [b"one"] * 4
    assert len({tuple(node.payloads) for node in cluster.nodes}) == 1


def test_a12_a_replica_that_had_committed_says_so_after_a_crash() -> None:
    """A12 (neo-modules#780): a node changed view after a crash although it held commit votes."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Commit)
    cluster.propose(b"one")
    for i in (1, 2):
        cluster.kill(i)
        cluster.restart(i)
    cluster.kill(0)
    cluster.lost = lambda _s, _r, e: isinstance(e.body, Commit) and e.body.view == 0

    cluster.wait_for(requests=True)
    cluster.pass_time(5_000)

    first = cluster.sent_by(2, ViewChange)[0].body
    assert isinstance(first, ViewChange)
    assert [certificate.digest for certificate in first.prepared] == [ONE]
    assert [node.payloads[0] for node in cluster.nodes[1:]] == [b"one"] * 3


def test_a14_a_proposal_that_was_never_committed_leaves_no_trace_in_the_state() -> None:
    """A14 (besu#7204): state of a proposed, never committed block was persisted."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, (Prepare, Commit))
    cluster.propose(b"one")
    cluster[1].sync()

    cluster.kill(1)
    cluster.restart(1)

    assert cluster[1].disk.store == []
    assert cluster[1].replica.executed == cluster[1].replica.delivered == 0


def test_a16_the_backoff_has_a_cap_and_shrinks_with_progress() -> None:
    """A16 (besu#7642): a doubled timeout reached an hour, and only restarting everyone helped."""
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


def test_a16_deliveries_bring_the_timer_of_a_replica_back_to_its_base() -> None:
    """A16: after an outage the next failure is noticed as fast as the first one."""
    cluster = Cluster()
    cluster.kill(0)
    cluster.wait_for(requests=True)
    cluster.pass_time(2_500)
    grown = cluster[2].timers[TimerName.VIEW].delay_ms

    cluster.propose(b"one", b"two")

    assert grown == 4_000
    assert cluster[2].timers[TimerName.VIEW].delay_ms == 2_000


def test_a16_a_replica_far_behind_in_views_jumps_on_evidence_of_f_plus_one() -> None:
    """A16: it does not count through the views between."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True

    for sender in (1, 2):
        cluster.inject(sender, 3, ViewChange(40, None, ()))

    assert cluster[3].replica.view == 40
    assert {envelope.body for envelope in cluster.sent_by(3, ViewChange)} == {
        ViewChange(40, None, ())
    }


def test_a18_an_idle_network_makes_no_blocks_and_no_view_changes_and_wakes_at_once() -> None:
    """A18 (besu#10917): an empty-block period together with a round change froze the chain."""
    cluster = Cluster()
    cluster.propose(b"one")

    cluster.pass_time(3_600_000)
    kinds = {type(envelope.body) for _, _, envelope in cluster.sent[-100:]}
    before = cluster.now_ms
    cluster.propose(b"two")

    assert kinds == {Status}
    assert {node.replica.view for node in cluster.nodes} == {0}
    assert cluster[2].payloads == [b"one", b"two"]
    assert cluster.now_ms == before


def test_a18_an_idle_network_finds_out_what_a_replica_missed() -> None:
    """A18: the last certificate before a pause reaches everybody without new traffic."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, _e: receiver == "v03"
    cluster.propose(b"one")
    cluster.lost = lambda _s, _r, _e: False

    cluster.pass_time(12_000)

    assert cluster[3].payloads == [b"one"]
    assert cluster[3].replica.stable is not None


def test_a22_a_certificate_for_the_height_we_are_at_changes_no_counter() -> None:
    """A22 (SmartBFT#663): a sync at the same height zeroed one, and proposals were refused."""
    cluster = Cluster()
    cluster.propose(b"one")
    certificate = cluster[1].replica.stable

    for _ in range(3):
        cluster.inject(1, 0, Status(0, True, 1, certificate, (), True))
        cluster.inject(1, 2, Status(0, True, 1, certificate, (), True))
    cluster.propose(b"two")

    assert cluster[2].payloads == [b"one", b"two"]
    assert cluster[2].rejected == []


def test_a24_a_malformed_message_is_refused_and_harms_nobody() -> None:
    """A24 (LOKI): fuzzed messages crashed nodes; here every byte is bounded before use."""
    cluster = Cluster()
    cluster.propose(b"one")
    good = encode_envelope(signed(0, PrePrepare(0, 2, payload_digest(b"two")), b"two"))
    refused = forged = 0

    for position, value in product(range(len(good)), (0x00, 0x7F, 0x93, 0xC0, 0xDD, 0xFF)):
        data = good[:position] + bytes([value]) + good[position + 1 :]
        try:
            envelope: Envelope = decode_envelope(data)
        except Refused:
            refused += 1
            continue
        assert encode_envelope(envelope) == data
        if data != good and _is_signed(cluster, envelope):  # as the shell checks it
            forged += 1
            cluster.event(1, Received(envelope))
    rejected = [item.code for item in cluster[1].rejected]
    cluster.propose(b"two")

    assert refused > len(good)
    assert rejected == ["consensus.payload_mismatch"] * forged  # what no signature covers
    assert forged >= len(b"two")
    for node in cluster.nodes:
        assert node.payloads == [b"one", b"two"]
        assert node.replica.stable is not None
        assert node.replica.stable.height == 2


HOSTILE: tuple[Body, ...] = (
    PrePrepare(2**53, 2**53, ONE),
    Prepare(0, 1, ONE),
    Prepare(2**53, 1, ONE),
    Commit(0, 1, ONE),
    Commit(2**53, 1, ONE),
    Checkpoint(1, b"\1" * 32),
    Checkpoint(2**53, b"\1" * 32),
    ViewChange(2**53, None, ()),
    ViewChange(0, None, ()),
    NewView(2**53, (), ()),
    NewView(0, (), ()),
    Status(2**53, True, 2**53, None, tuple(range(64)), False),
    Status(0, False, 0, checkpoint(2**53, b"\1" * 32, (3,)), (2**53,), False),
    PayloadRequest(ONE),
    PayloadReply(ONE),
    BlockRequest(0),
    BlockRequest(2**53),
    BlockReply(()),
    BlockReply((Block(b"x", committed(0, 1, b"x", (3,))),)),
)


@pytest.mark.parametrize("state", ["at the start", "at work", "between views"])
def test_a24_every_message_survives_every_state(state: str) -> None:
    """A24: hostile but well-formed messages of one validator stop nobody, whatever they meet."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    if state != "at the start":
        cluster.propose(b"in flight")
    if state == "between views":
        cluster.wait_for(requests=True)
        cluster.pass_time(2_500)
        assert not any(node.replica.active for node in cluster.nodes[1:])

    for receiver, body in product((0, 1, 2), HOSTILE):
        cluster.inject(3, receiver, body)
    cluster.lost = lambda _s, _r, _e: False
    cluster.pass_time(20_000)
    cluster.propose(b"two")
    cluster.pass_time(20_000)

    for node in cluster.nodes[:3]:
        assert node.payloads[-1:] == [b"two"]
        assert node.replica.stable is not None
        assert node.replica.stable.height == len(node.payloads)


def _is_signed(cluster: Cluster, envelope: Envelope) -> bool:
    seat = cluster.validators.get(envelope.sender)
    digest = signing_digest(CHAIN, envelope.body)
    return seat is not None and verify(seat.key, digest, envelope.signature)
