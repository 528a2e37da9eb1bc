"""Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), sentence by sentence.

Sections are those of the paper; where this protocol says it otherwise, the docstring tells.
"""

import pytest

from consensus.event import Pending, Propose, TimerName
from consensus.message import (
    NULL_DIGEST,
    Body,
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    ViewChange,
    payload_digest,
)
from tests.consensus.cluster import Cluster
from tests.consensus.node import execute
from vm.refusal import Refused

ONE = payload_digest(b"one")
TWO = payload_digest(b"two")


def quiet(n: int = 4) -> Cluster:
    """A cluster in which nothing that replicas send arrives: each hears what the test injects."""
    cluster = Cluster(n)
    cluster.lost = lambda _sender, _receiver, _envelope: True
    return cluster


def said(cluster: Cluster, index: int, kind: type[Body]) -> list[Body]:
    """The distinct messages of one kind that a node broadcast."""
    return list(dict.fromkeys(envelope.body for envelope in cluster.sent_by(index, kind)))


# 4.2 Normal-case operation


def test_the_primary_multicasts_a_pre_prepare_with_the_payload_piggybacked() -> None:
    """4.2: <<PRE-PREPARE, v, n, d>, m>; the signature covers the digest only."""
    cluster = quiet()

    cluster.event(0, Propose(b"one"))

    assert said(cluster, 0, PrePrepare) == [PrePrepare(0, 1, ONE)]
    assert {envelope.payload for envelope in cluster.sent_by(0, PrePrepare)} == {b"one"}


def test_a_backup_that_accepts_a_pre_prepare_multicasts_a_prepare_and_logs_both() -> None:
    """4.2: it enters the prepare phase, and both messages are in its log."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, Prepare) == [Prepare(0, 1, ONE)]
    logged = [entry.envelope.body for entry in cluster[1].entries() if hasattr(entry, "envelope")]
    assert logged == [PrePrepare(0, 1, ONE), Prepare(0, 1, ONE)]


def test_a_backup_accepts_no_pre_prepare_of_another_view() -> None:
    """4.2: "it is in view v"."""
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
    """4.2: "it has not accepted a pre-prepare for view v and n containing a different digest"."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(0, 1, PrePrepare(0, 1, TWO), b"two")

    assert said(cluster, 1, Prepare) == [Prepare(0, 1, ONE)]
    evidence = cluster[1].faults[0]
    assert (evidence.first.body, evidence.second.body) == (
        PrePrepare(0, 1, ONE),
        PrePrepare(0, 1, TWO),
    )


@pytest.mark.parametrize("sequence", [9, 2**53])
def test_a_backup_accepts_no_number_above_the_high_watermark(sequence: int) -> None:
    """4.2: "between a low water mark, h, and a high water mark, H"; the window here is 8."""
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


@pytest.mark.parametrize("payload", [None, b"", b"another"])
def test_a_backup_accepts_no_payload_but_the_one_of_the_digest(payload: bytes | None) -> None:
    """4.2: "d is the digest for m"."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), payload)

    assert said(cluster, 1, Prepare) == []
    assert cluster[1].rejected[0].code == "consensus.payload_mismatch"


def test_a_primary_cannot_order_null_requests_of_its_own() -> None:
    """An idle chain makes no blocks, whatever the primary likes."""
    cluster = quiet()

    cluster.inject(0, 1, PrePrepare(0, 1, NULL_DIGEST), b"")

    assert said(cluster, 1, Prepare) == []
    assert cluster[1].rejected[0].code == "consensus.null_request"


def test_a_backup_votes_for_no_payload_that_breaks_the_rules() -> None:
    """What bytes and height decide is checked before a fresh proposal is accepted (design 3)."""

    def check(height: int, payload: bytes) -> None:
        raise Refused("payload.bad", f"found {payload!r} at {height}")

    cluster = Cluster(check=check)

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, Prepare) == []
    assert cluster[1].rejected[0].message == "found b'one' at 1"


def test_a_replica_is_prepared_by_a_quorum_with_the_primary_and_then_commits() -> None:
    """4.2: prepared(m, v, n, i): the pre-prepare and 2f prepares from different backups."""
    cluster = quiet()
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    assert said(cluster, 1, Commit) == []  # with its own prepare: one of two

    cluster.inject(2, 1, Prepare(0, 1, ONE))

    assert said(cluster, 1, Commit) == [Commit(0, 1, ONE)]


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
    """4.2: they match the pre-prepare in view, number and digest, from different backups."""
    cluster = quiet()
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    cluster.inject(sender, 1, vote)
    cluster.inject(sender, 1, vote)

    assert said(cluster, 1, Commit) == []


def test_prepares_that_come_before_the_pre_prepare_count_when_it_comes() -> None:
    """4.2: the log accepts them in any order."""
    cluster = quiet()
    cluster.inject(2, 1, Prepare(0, 1, ONE))
    cluster.inject(3, 1, Prepare(0, 1, ONE))
    assert said(cluster, 1, Commit) == []

    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, Commit) == [Commit(0, 1, ONE)]


@pytest.mark.parametrize("n", range(4, 17))
def test_a_block_is_committed_by_exactly_a_quorum_of_commits(n: int) -> None:
    """4.2: committed-local with 2f + 1 commits; here ceil((n + f + 1) / 2) of any n."""
    cluster = quiet(n)
    quorum = cluster.validators.quorum
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    for sender in range(2, quorum + 1):
        cluster.inject(sender, 1, Prepare(0, 1, ONE))
        cluster.inject(sender, 1, Commit(0, 1, ONE))
    assert (n - quorum, cluster[1].payloads) == (n - quorum, [b"one"])
    block, _ = cluster[1].disk.store[0]
    assert len(block.certificate.votes) == quorum


@pytest.mark.parametrize("n", range(4, 17))
def test_one_commit_less_than_a_quorum_delivers_nothing(n: int) -> None:
    """4.2: one vote short, whatever else has come."""
    cluster = quiet(n)
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    for sender in range(2, cluster.validators.quorum):
        cluster.inject(sender, 1, Prepare(0, 1, ONE))
        cluster.inject(sender, 1, Commit(0, 1, ONE))
        cluster.inject(sender, 1, Commit(0, 1, ONE))

    assert cluster[1].payloads == []


def test_requests_execute_only_after_all_with_lower_numbers() -> None:
    """4.2: "after i's state reflects the sequential execution of all requests with lower n"."""
    cluster = Cluster()
    held_back = [1]
    cluster.lost = lambda _s, _r, envelope: getattr(envelope.body, "sequence", 0) in held_back
    cluster.propose(b"one", b"two")
    assert cluster[1].payloads == []

    held_back.clear()
    cluster.wait_for(requests=True)
    cluster.pass_time(1_500)

    assert cluster[1].payloads[:2] == [b"one", b"two"]


# 4.3 Garbage collection


def test_a_replica_multicasts_a_checkpoint_after_execution() -> None:
    """4.3: <CHECKPOINT, n, d>; here after every block, and d is the digest of its header."""
    cluster = Cluster()

    cluster.propose(b"one")

    assert said(cluster, 2, Checkpoint) == [Checkpoint(1, cluster[2].header(1))]


def test_a_quorum_of_checkpoints_is_stable_and_its_log_is_discarded() -> None:
    """4.3: it discards the messages with numbers up to n, and earlier checkpoints."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Checkpoint)
    cluster.propose(b"one")
    header = cluster[0].header(1)
    assert len(cluster[0].replica.entries()) > 1

    cluster.inject(1, 0, Checkpoint(1, header))
    after_two = cluster[0].replica.stable
    cluster.inject(2, 0, Checkpoint(1, header))
    after_three = cluster[0].replica.stable

    assert after_two is None
    assert after_three is not None
    assert (after_three.height, len(after_three.votes)) == (1, 3)
    assert len(cluster[0].replica.entries()) == 1


def test_the_watermarks_advance_with_the_stable_checkpoint() -> None:
    """4.3: "the checkpoint protocol is used to advance the low and high water marks"."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Checkpoint)
    cluster.propose(*(b"%d" % i for i in range(8)))
    stuck = cluster[0].replica.may_propose

    for sender in (1, 2):
        cluster.inject(sender, 0, Checkpoint(3, cluster[0].header(3)))

    assert not stuck
    assert cluster[0].replica.may_propose


# 4.4 View changes, 4.5.2 Liveness


def test_a_backup_times_the_primary_while_it_waits_and_only_then() -> None:
    """4.4: it starts a timer when it receives a request, and stops it when it no longer waits."""
    cluster = quiet()

    cluster.event(1, Pending(True))
    assert TimerName.VIEW in cluster[1].timers
    cluster.event(0, Pending(True))
    assert TimerName.VIEW not in cluster[0].timers  # the primary does not time itself

    cluster.event(1, Pending(False))
    assert TimerName.VIEW not in cluster[1].timers


def test_the_timer_starts_again_when_a_block_is_delivered() -> None:
    """4.4: "but restarts it if at that point it is waiting to execute some other request"."""
    cluster = Cluster()
    cluster.event(1, Pending(True))
    first = cluster[1].timers[TimerName.VIEW].timer

    cluster.propose(b"one")

    assert cluster[1].timers[TimerName.VIEW].timer.setting > first.setting


def test_a_backup_whose_timer_expires_asks_for_the_next_view_and_stops_accepting() -> None:
    """4.4: it accepts nothing but checkpoint, view-change and new-view messages then."""
    cluster = quiet()
    cluster.event(1, Pending(True))

    cluster.pass_time(2_000)
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    assert said(cluster, 1, ViewChange) == [ViewChange(1, None, ())]
    assert not cluster[1].replica.active
    assert said(cluster, 1, Prepare) == []


def test_a_view_change_carries_a_certificate_for_everything_prepared() -> None:
    """4.4: P has for each prepared request the pre-prepare and 2f matching prepares."""
    cluster = quiet()
    for n, payload in ((1, b"one"), (3, b"two")):
        cluster.inject(0, 1, PrePrepare(0, n, payload_digest(payload)), payload)
        cluster.inject(2, 1, Prepare(0, n, payload_digest(payload)))
    cluster.inject(0, 1, PrePrepare(0, 2, ONE), b"one")  # accepted, not prepared

    cluster.pass_time(2_000)

    (message,) = said(cluster, 1, ViewChange)
    assert isinstance(message, ViewChange)
    assert [certificate.sequence for certificate in message.prepared] == [1, 3]
    assert all(len(certificate.votes) == 3 for certificate in message.prepared)


def test_the_new_primary_fills_gaps_with_null_requests() -> None:
    """4.4: for a number that no certificate names it proposes the null request."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: (
        isinstance(envelope.body, PrePrepare) and envelope.body.sequence == 1
    )
    cluster.propose(b"one", b"two")
    cluster.kill(0)
    cluster.lost = lambda _s, _r, _e: False

    cluster.wait_for(requests=True)
    cluster.pass_time(2_500)

    (message,) = said(cluster, 1, NewView)
    assert isinstance(message, NewView)
    assert [item.message for item in message.pre_prepares] == [
        PrePrepare(1, 1, NULL_DIGEST),
        PrePrepare(1, 2, TWO),
    ]
    assert cluster[2].payloads[:2] == [b"", b"two"]


def test_the_new_view_holds_a_quorum_of_view_changes() -> None:
    """4.4: 2f valid view-change messages from others and its own."""
    cluster = quiet()
    cluster.inject(2, 1, ViewChange(1, None, ()))
    assert said(cluster, 1, ViewChange) == []

    cluster.inject(3, 1, ViewChange(1, None, ()))

    (message,) = said(cluster, 1, NewView)
    assert isinstance(message, NewView)
    assert [change.sender for change in message.view_changes] == ["v01", "v02", "v03"]
    assert cluster[1].replica.may_propose


def test_f_plus_one_view_changes_are_joined_at_the_smallest_view() -> None:
    """4.5.2: even if its timer has not expired."""
    cluster = quiet(7)
    cluster.inject(4, 3, ViewChange(9, None, ()))
    cluster.inject(5, 3, ViewChange(2, None, ()))
    assert cluster[3].replica.view == 0

    cluster.inject(6, 3, ViewChange(4, None, ()))

    assert said(cluster, 3, ViewChange) == [ViewChange(2, None, ())]


def test_a_replica_alone_in_a_view_change_does_not_run_ahead() -> None:
    """4.5.2: the timer for the next view starts only with 2f + 1 view changes."""
    cluster = quiet()
    cluster.event(1, Pending(True))
    cluster.pass_time(60_000)
    assert cluster[1].replica.view == 1

    cluster.inject(2, 1, ViewChange(5, None, ()))
    assert TimerName.VIEW not in cluster[1].timers


def test_the_timer_doubles_with_each_view_that_fails() -> None:
    """4.5.2: it waits 2T before it asks for view v + 2."""
    cluster = quiet()
    cluster.event(1, Pending(True))
    delays = [cluster[1].timers[TimerName.VIEW].delay_ms]

    for view in (1, 2, 3):
        cluster.inject(2, 1, ViewChange(view + 1, None, ()))  # reaches f + 1 with the next
        cluster.inject(3, 1, ViewChange(view + 1, None, ()))
        timer = cluster[1].timers.get(TimerName.VIEW)
        delays.append(timer.delay_ms if timer else 0)

    assert delays == [2_000, 4_000, 8_000, 16_000]


def test_no_block_changes_when_the_primary_dies_in_the_middle() -> None:
    """4.4: what committed anywhere keeps its number in every later view."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, envelope: (
        isinstance(envelope.body, Commit) and receiver != "v03"
    )
    cluster.propose(b"one", b"two")
    assert (cluster[3].payloads, cluster[1].payloads) == ([b"one", b"two"], [])
    cluster.kill(0)
    cluster.lost = lambda _s, _r, _e: False

    cluster.wait_for(requests=True)
    cluster.pass_time(4_000)

    assert [node.payloads[:2] for node in cluster.nodes[1:]] == [[b"one", b"two"]] * 3
    assert cluster[1].header(1) == execute(cluster[1].header(0), 1, b"one")
