"""Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), section 4.3: garbage collection.

Messages stay until the requests are executed at f + 1 without fault and that can be proven.
    test_nothing_is_discarded_before_a_quorum_has_executed
Who misses what everybody has discarded is brought up to date, with proof.
    test_who_missed_what_all_have_discarded_gets_it_with_proof
The proof is made at regular numbers; ours: for every one.
    test_a_replica_multicasts_a_checkpoint_after_execution
A replica keeps its last stable checkpoint, later ones and its state; ours: their headers.
    test_later_checkpoints_stay_when_an_earlier_one_is_stable
It multicasts <CHECKPOINT, n, d> with the digest of its state; ours: of the block's header.
    test_a_replica_multicasts_a_checkpoint_after_execution
A quorum of equal ones by different replicas, its own perhaps among them, is the proof.
    test_a_quorum_of_checkpoints_is_stable_and_its_log_is_discarded
    test_checkpoints_count_only_if_they_are_of_different_replicas_and_equal
Ours: a replica takes part only once it has executed the same itself.
    test_a_certificate_is_stable_here_once_our_own_execution_agrees
A stable checkpoint discards every message up to its number, and earlier checkpoints.
    test_a_quorum_of_checkpoints_is_stable_and_its_log_is_discarded
    test_votes_below_a_stable_checkpoint_are_not_logged_again
H is the number of the last stable checkpoint.
    test_the_low_watermark_is_the_stable_checkpoint
H is h plus the window.
    test_the_high_watermark_moves_with_the_low_one
The window is large enough not to wait for a checkpoint; ours: a whole window is under way.
    test_a_window_is_under_way_without_any_checkpoint
"""

import pytest

from consensus.journal import Section, Stable
from consensus.message import (
    Block,
    BlockReply,
    Checkpoint,
    Commit,
    CommitCertificate,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    payload_digest,
)
from tests.consensus.certificates import committed
from tests.consensus.cluster import Cluster
from tests.consensus.node import LIMITS, execute
from tests.consensus.paper import ONE, quiet, said, stable


def without_checkpoints() -> Cluster:
    """A cluster that orders and executes, and in which no checkpoint arrives."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Checkpoint)
    return cluster


def test_a_replica_multicasts_a_checkpoint_after_execution() -> None:
    """4.3: <CHECKPOINT, n, d>; ours after every block, and d is the digest of its header."""
    cluster = Cluster()

    cluster.propose(b"one", b"two")

    assert said(cluster, 2, Checkpoint) == [
        Checkpoint(height, cluster[2].header(height)) for height in (1, 2)
    ]


def test_nothing_is_discarded_before_a_quorum_has_executed() -> None:
    """4.3: a later view may have to order it again, and that needs the certificate."""
    cluster = without_checkpoints()
    cluster.propose(b"one")
    before = cluster[0].replica.entries()

    cluster.inject(1, 0, Checkpoint(1, cluster[0].header(1)))

    assert cluster[0].replica.entries() == before
    assert [type(item) for item in before[-2:]] == [PreparedCertificate, CommitCertificate]


def test_a_quorum_of_checkpoints_is_stable_and_its_log_is_discarded() -> None:
    """4.3: it discards the messages with numbers up to n, and earlier checkpoints."""
    cluster = without_checkpoints()
    cluster.propose(b"one")
    header = cluster[0].header(1)
    assert len(cluster[0].replica.entries()) > 2

    cluster.inject(1, 0, Checkpoint(1, header))
    after_two = cluster[0].replica.stable
    cluster.inject(2, 0, Checkpoint(1, header))

    assert after_two is None
    assert (stable(cluster, 0).height, len(stable(cluster, 0).votes)) == (1, 3)
    assert cluster[0].replica.entries() == [Section(0), Stable(stable(cluster, 0))]


@pytest.mark.parametrize("n", range(4, 17))
def test_checkpoints_count_only_if_they_are_of_different_replicas_and_equal(n: int) -> None:
    """4.3: the same number and digest, by a quorum of different replicas."""
    cluster = Cluster(n)
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Checkpoint)
    cluster.propose(b"one")
    header, quorum = cluster[0].header(1), cluster.validators.quorum

    for sender in range(1, quorum - 1):
        cluster.inject(sender, 0, Checkpoint(1, header))
        cluster.inject(sender, 0, Checkpoint(1, header))
    cluster.inject(quorum, 0, Checkpoint(1, b"\1" * 32))
    cluster.inject(quorum, 0, Checkpoint(2, header))
    assert cluster[0].replica.stable is None

    cluster.inject(quorum - 1, 0, Checkpoint(1, header))

    assert len(stable(cluster, 0).votes) == quorum


def test_a_certificate_is_stable_here_once_our_own_execution_agrees() -> None:
    """4.3 lets a replica fetch state by the proof; ours executes, and takes no other's word."""
    cluster = quiet()
    header = execute(cluster[0].header(0), 1, b"one")
    for sender in (0, 2, 3):
        cluster.inject(sender, 1, Checkpoint(1, header))
    assert cluster[1].replica.stable is None

    cluster.inject(0, 1, BlockReply(None, (Block(b"one", committed(0, 1, b"one")),)))

    assert stable(cluster, 1).height == 1


def test_later_checkpoints_stay_when_an_earlier_one_is_stable() -> None:
    """4.3: a replica keeps its later checkpoints beside the stable one, for their turn."""
    cluster = without_checkpoints()
    cluster.propose(b"one", b"two")
    for sender in (1, 2):
        cluster.inject(sender, 0, Checkpoint(1, cluster[0].header(1)))
    assert stable(cluster, 0).height == 1

    for sender in (1, 2):
        cluster.inject(sender, 0, Checkpoint(2, cluster[0].header(2)))

    assert stable(cluster, 0).height == 2


def test_votes_below_a_stable_checkpoint_are_not_logged_again() -> None:
    """4.3: what was discarded stays so, whoever sends it once more."""
    cluster = Cluster()
    cluster.propose(b"one")
    before = cluster[1].replica.entries()

    for sender in (0, 2, 3):
        cluster.inject(sender, 1, Prepare(0, 1, ONE))
        cluster.inject(sender, 1, Commit(0, 1, ONE))
        cluster.inject(sender, 1, Checkpoint(1, cluster[1].header(1)))

    assert cluster[1].replica.entries() == before


def test_who_missed_what_all_have_discarded_gets_it_with_proof() -> None:
    """4.3: messages are gone, so it is brought up to date by what is kept; ours: blocks."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, _e: receiver == "v03"
    cluster.propose(b"one", b"two")
    assert all(len(node.replica.entries()) == 2 for node in cluster.nodes[:3])

    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, (PrePrepare, Commit))
    cluster.pass_time(12_000)

    assert cluster[3].payloads == [b"one", b"two"]
    assert stable(cluster, 3).height == 2


def test_the_low_watermark_is_the_stable_checkpoint() -> None:
    """4.3: a pre-prepare at or below it is not taken, one above it is."""
    cluster = without_checkpoints()
    cluster.propose(b"1", b"2", b"3")
    for sender in (0, 2):
        cluster.inject(sender, 1, Checkpoint(3, cluster[1].header(3)))
    cluster.lost = lambda _s, _r, _e: True
    before = said(cluster, 1, Prepare)

    cluster.inject(0, 1, PrePrepare(0, 3, ONE), b"one")
    assert said(cluster, 1, Prepare) == before

    cluster.inject(0, 1, PrePrepare(0, 4, ONE), b"one")
    assert said(cluster, 1, Prepare)[-1] == Prepare(0, 4, ONE)


def test_the_high_watermark_moves_with_the_low_one() -> None:
    """4.3: H = h + k, so a stable checkpoint makes room."""
    cluster = without_checkpoints()
    cluster.propose(*(b"%d" % i for i in range(LIMITS.window)))
    before = cluster[0].replica.may_propose

    for sender in (1, 2):
        cluster.inject(sender, 0, Checkpoint(3, cluster[0].header(3)))
        cluster.inject(sender, 3, Checkpoint(3, cluster[0].header(3)))
    top = LIMITS.window + 3
    cluster.inject(0, 3, PrePrepare(0, top, ONE), b"one")
    cluster.inject(0, 3, PrePrepare(0, top + 1, ONE), b"one")

    assert (before, cluster[0].replica.may_propose) == (False, True)
    assert Prepare(0, top, ONE) in said(cluster, 3, Prepare)
    assert Prepare(0, top + 1, ONE) not in said(cluster, 3, Prepare)


def test_a_window_is_under_way_without_any_checkpoint() -> None:
    """4.3: the window is large enough that ordering need not wait for a checkpoint."""
    cluster = without_checkpoints()
    payloads = [b"%d" % i for i in range(LIMITS.window)]

    cluster.propose(*payloads)

    assert [node.payloads for node in cluster.nodes] == [payloads] * 4
    assert {payload_digest(payload) for payload in payloads} == {
        body.digest for body in said(cluster, 0, PrePrepare) if isinstance(body, PrePrepare)
    }
