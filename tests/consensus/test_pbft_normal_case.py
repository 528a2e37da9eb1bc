"""Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), section 4.2: agreeing in a view.

Each row is a rule of the section in our words, and the tests that hold it. "Ours" marks what this
protocol does otherwise, and why.

The primary gives a request the next number and multicasts a pre-prepare, the request with it.
    test_the_primary_multicasts_a_pre_prepare_with_the_payload_piggybacked
The signature covers digest, view and number, and not the request.
    test_a_pre_prepare_proves_the_order_without_the_payload
It starts at once, unless too much is under way.
    test_the_primary_orders_at_once_what_it_is_given
    test_a_full_window_waits
A backup accepts it if the signature is right (the shell's part) and d is the digest of m.
    test_a_backup_accepts_no_payload_but_the_one_of_the_digest
... and the request itself is right; ours: by rules of bytes and height.
    test_a_backup_votes_for_no_payload_that_breaks_the_rules
... and it is in the same view, from that view's primary.
    test_a_backup_accepts_no_pre_prepare_of_another_view
    test_a_backup_accepts_no_pre_prepare_from_a_backup
... and it has accepted no other digest for this view and number.
    test_a_backup_accepts_no_second_digest_for_one_view_and_number
... and the number is above h and at most H.
    test_a_backup_accepts_the_high_watermark_itself_and_nothing_at_the_low_one
    test_a_backup_accepts_no_number_above_the_high_watermark
... so that a faulty primary cannot use the numbers up.
    test_the_numbers_are_not_used_up_by_a_faulty_primary
It then multicasts a prepare and logs both; else it does nothing.
    test_a_backup_that_accepts_a_pre_prepare_multicasts_a_prepare_and_logs_both
    test_a_backup_does_nothing_with_what_it_refuses
Everybody, the primary too, logs prepares of its view between the watermarks; ours: of later views
too, which it may be about to enter.
    test_the_primary_counts_prepares_too
    test_prepares_outside_the_watermarks_are_not_logged
    test_prepares_of_a_later_view_are_logged_and_count_there_alone
Prepared: the request, its pre-prepare and 2f prepares of different backups that match in view,
number and digest.
    test_a_replica_is_prepared_by_a_quorum_with_the_primary_and_then_commits
    test_a_prepare_counts_only_if_view_number_digest_and_sender_are_new
Messages may come in any order.
    test_prepares_that_come_before_the_pre_prepare_count_when_it_comes
Two replicas without fault are never prepared with different digests in one view.
    test_an_equivocating_primary_prepares_one_digest_at_most
A replica that is prepared multicasts a commit.
    test_a_replica_is_prepared_by_a_quorum_with_the_primary_and_then_commits
"""

import pytest

from consensus.event import Propose
from consensus.journal import Said
from consensus.message import (
    NULL_DIGEST,
    Commit,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    prepare_digest,
)
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import CHAIN, KEYS, LIMITS
from tests.consensus.paper import ONE, TWO, quiet, said
from vm.keys import verify
from vm.refusal import Refused
from vm.statement import Slot, SlotKind


def test_the_primary_multicasts_a_pre_prepare_with_the_payload_piggybacked() -> None:
    """4.2: it assigns the next number and sends <<PRE-PREPARE, v, n, d>, m> to all backups."""
    cluster = quiet()

    cluster.event(0, Propose(b"one"))
    cluster.event(0, Propose(b"two"))

    assert said(cluster, 0, PrePrepare) == [PrePrepare(0, 1, ONE), PrePrepare(0, 2, TWO)]
    assert {receiver for _, receiver, _ in cluster.sent if receiver != "v00"} == {
        "v01",
        "v02",
        "v03",
    }
    assert [envelope.payload for envelope in cluster.sent_by(0, PrePrepare)] == [
        b"one",
        b"one",
        b"one",
        b"two",
        b"two",
        b"two",
    ]


def test_a_pre_prepare_proves_the_order_without_the_payload() -> None:
    """4.2: view changes carry the pre-prepare alone, so its signature covers the digest only."""
    cluster = quiet()
    cluster.event(0, Propose(b"one"))

    envelope = cluster.sent_by(0, PrePrepare)[0]

    digest = prepare_digest(CHAIN, 0, 0, 1, ONE)
    assert verify(KEYS[0].public, digest, envelope.seal)
    assert envelope.seal == signed(0, PrePrepare(0, 1, ONE)).seal


def test_the_primary_orders_at_once_what_it_is_given() -> None:
    """4.2: it starts the three phases without waiting for those before to end."""
    cluster = quiet()

    for payload in (b"one", b"two"):
        cluster.event(0, Propose(payload))

    assert cluster[0].replica.next_sequence == 3
    assert cluster[0].payloads == []


def test_a_full_window_waits() -> None:
    """4.2: with too much under way requests are buffered and go in one batch later.

    The buffer is the mempool's; the replica says when another batch is welcome.
    """
    cluster = quiet()
    for number in range(LIMITS.window):
        assert cluster[0].replica.may_propose
        cluster.event(0, Propose(b"%d" % number))

    assert not cluster[0].replica.may_propose


def test_a_backup_that_accepts_a_pre_prepare_multicasts_a_prepare_and_logs_both() -> None:
    """4.2: it enters the prepare phase, and both messages are in its log."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, Prepare) == [Prepare(0, 1, ONE)]
    logged = [entry.envelope.body for entry in cluster[1].entries() if isinstance(entry, Said)]
    assert logged == [PrePrepare(0, 1, ONE), Prepare(0, 1, ONE)]


def test_a_backup_does_nothing_with_what_it_refuses() -> None:
    """4.2: otherwise it does nothing: no message leaves and none is logged."""
    cluster = quiet()
    before, sent = cluster[1].entries(), len(cluster.sent)

    cluster.inject(2, 1, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"two")

    assert cluster[1].entries() == before
    assert len(cluster.sent) == sent
    assert cluster[1].timers.keys() == {"status"}


def test_a_backup_accepts_no_pre_prepare_of_another_view() -> None:
    """4.2: it must be in the view of the pre-prepare."""
    cluster = quiet()

    cluster.inject(1, 2, PrePrepare(1, 1, ONE), b"one")

    assert said(cluster, 2, Prepare) == []


def test_a_backup_accepts_no_pre_prepare_from_a_backup() -> None:
    """4.2: only the primary assigns sequence numbers."""
    cluster = quiet()

    cluster.inject(2, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, Prepare) == []
    assert cluster[1].rejected[0].code == "consensus.not_primary"


def test_a_backup_accepts_no_second_digest_for_one_view_and_number() -> None:
    """4.2: of two pre-prepares for one view and number it takes the first; both are evidence."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(0, 1, PrePrepare(0, 1, TWO), b"two")

    assert said(cluster, 1, Prepare) == [Prepare(0, 1, ONE)]
    evidence = cluster[1].faults[0]
    assert evidence.slot == Slot(SlotKind.PREPARE, 0, 1)
    assert (evidence.first.content, evidence.second.content) == (ONE, TWO)


@pytest.mark.parametrize("sequence", [9, 2**53])
def test_a_backup_accepts_no_number_above_the_high_watermark(sequence: int) -> None:
    """4.2: numbers lie between the low and the high watermark; the window here is 8."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, sequence, ONE), b"one")

    assert said(cluster, 1, Prepare) == []
    assert cluster[1].rejected[0].code == "consensus.out_of_watermarks"


def test_a_backup_accepts_the_high_watermark_itself_and_nothing_at_the_low_one() -> None:
    """4.2: h < n <= H."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 8, ONE), b"one")
    cluster.inject(0, 1, PrePrepare(0, 0, TWO), b"two")

    assert said(cluster, 1, Prepare) == [Prepare(0, 8, ONE)]


def test_the_numbers_are_not_used_up_by_a_faulty_primary() -> None:
    """4.2: it cannot choose a very large one; ours also leaves no gap, a new view fills it."""
    cluster = Cluster()
    cluster.inject(0, 1, PrePrepare(0, 2**53, ONE), b"one")
    cluster.inject(0, 1, PrePrepare(0, 8, TWO), b"two")

    cluster.kill(0)
    cluster.wait_for(requests=True)
    cluster.pass_time(4_000)
    cluster.propose(b"three")

    assert cluster[1].payloads[-1] == b"three"
    assert len(cluster[1].payloads) <= 9


@pytest.mark.parametrize("payload", [None, b"", b"another"])
def test_a_backup_accepts_no_payload_but_the_one_of_the_digest(payload: bytes | None) -> None:
    """4.2: d is the digest of m."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), payload)

    assert said(cluster, 1, Prepare) == []
    assert cluster[1].rejected[0].code == "consensus.payload_mismatch"


def test_a_backup_votes_for_no_payload_that_breaks_the_rules() -> None:
    """4.2: the request must be right; what bytes and height decide is checked before a vote."""

    def check(height: int, payload: bytes) -> None:
        raise Refused("payload.bad", f"found {payload!r} at {height}")

    cluster = Cluster(check=check)

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(0, 1, PrePrepare(0, 1, NULL_DIGEST), b"")

    assert said(cluster, 1, Prepare) == []
    assert cluster[1].rejected[0].message == "found b'one' at 1"
    assert cluster[1].rejected[1].code == "consensus.null_request"  # it only fills holes


def test_a_replica_is_prepared_by_a_quorum_with_the_primary_and_then_commits() -> None:
    """4.2: the pre-prepare and 2f prepares of different backups; then it multicasts a commit."""
    cluster = quiet()
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    assert said(cluster, 1, Commit) == []  # with its own prepare: one of two

    cluster.inject(2, 1, Prepare(0, 1, ONE))

    assert said(cluster, 1, Commit) == [Commit(0, 1, ONE)]
    (proof,) = (entry for entry in cluster[1].entries() if isinstance(entry, PreparedCertificate))
    assert [vote.validator for vote in proof.votes] == ["v00", "v01", "v02"]


def test_the_primary_counts_prepares_too() -> None:
    """4.2: it sends none, and logs those of the backups."""
    cluster = quiet()
    cluster.event(0, Propose(b"one"))
    cluster.inject(1, 0, Prepare(0, 1, ONE))
    assert said(cluster, 0, Commit) == []

    cluster.inject(2, 0, Prepare(0, 1, ONE))

    assert said(cluster, 0, Commit) == [Commit(0, 1, ONE)]
    assert said(cluster, 0, Prepare) == []


@pytest.mark.parametrize(
    ("sender", "vote"),
    [
        (0, Prepare(0, 1, ONE)),  # the primary's vote is its pre-prepare, and counts once
        (1, Prepare(0, 1, ONE)),  # its own counts once
        (2, Prepare(0, 1, TWO)),
        (2, Prepare(1, 1, ONE)),
        (2, Prepare(0, 2, ONE)),
        (2, Commit(0, 1, ONE)),
    ],
)
def test_a_prepare_counts_only_if_view_number_digest_and_sender_are_new(
    sender: int, vote: Prepare | Commit
) -> None:
    """4.2: they match the pre-prepare in view, number and digest, and come from 2f backups."""
    cluster = quiet()
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    cluster.inject(sender, 1, vote)
    cluster.inject(sender, 1, vote)

    assert said(cluster, 1, Commit) == []


def test_prepares_that_come_before_the_pre_prepare_count_when_it_comes() -> None:
    """4.2: the protocol relies on no order of messages."""
    cluster = quiet()
    cluster.inject(2, 1, Prepare(0, 1, ONE))
    cluster.inject(3, 1, Prepare(0, 1, ONE))
    assert said(cluster, 1, Commit) == []

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, Commit) == [Commit(0, 1, ONE)]


@pytest.mark.parametrize("sequence", [0, 9])
def test_prepares_outside_the_watermarks_are_not_logged(sequence: int) -> None:
    """4.2: h < n <= H for prepares as well."""
    cluster = quiet()
    before = cluster[1].replica.entries()

    for sender in (0, 2, 3):
        cluster.inject(sender, 1, Prepare(0, sequence, ONE))

    assert cluster[1].replica.entries() == before
    assert said(cluster, 1, Commit) == []


def test_prepares_of_a_later_view_are_logged_and_count_there_alone() -> None:
    """4.2 logs those of the current view; ours keeps the newest, for the view may begin here last.

    Of an earlier view none is of use any more: it does not displace the newer one.
    """
    cluster = quiet()
    for sender in (2, 3):
        cluster.inject(sender, 1, Prepare(5, 1, ONE))
        cluster.inject(sender, 1, Prepare(0, 1, ONE))

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, Prepare) == [Prepare(0, 1, ONE)]
    assert said(cluster, 1, Commit) == []


def test_an_equivocating_primary_prepares_one_digest_at_most() -> None:
    """4.2: two quorums share one without fault, which votes once in a view for a number."""
    cluster = quiet()
    for receiver, digest, payload in ((1, ONE, b"one"), (2, TWO, b"two"), (3, ONE, b"one")):
        cluster.inject(0, receiver, PrePrepare(0, 1, digest), payload)

    for receiver in (1, 2, 3):
        for sender, digest in ((1, ONE), (2, TWO), (3, ONE)):
            if sender != receiver:
                cluster.inject(sender, receiver, Prepare(0, 1, digest))

    assert [said(cluster, i, Commit) for i in (1, 2, 3)] == [
        [Commit(0, 1, ONE)],
        [],
        [Commit(0, 1, ONE)],
    ]
