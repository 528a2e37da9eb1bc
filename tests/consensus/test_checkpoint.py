"""Checkpoints: stable only with our own header, loud when a quorum has another."""

from consensus.event import Certified, Received
from consensus.message import BlockReply, Checkpoint, Status
from tests.consensus.certificates import checkpoint
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import GENESIS_HEADER, execute
from tests.consensus.test_catchup import block

OTHER = b"\7" * 32


def deaf() -> Cluster:
    """One block was executed everywhere; no checkpoint message has arrived anywhere."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Checkpoint)
    cluster.propose(b"one")
    cluster.lost = lambda _s, _r, _e: True
    return cluster


def test_a_quorum_with_another_header_halts_the_replica() -> None:
    """It executed something that the others did not: it stops and serves nothing."""
    cluster = deaf()

    for sender in (1, 2, 3):
        cluster.inject(sender, 0, Checkpoint(1, OTHER))

    assert cluster[0].halted == "a quorum signed another header at height 1"
    assert not cluster[0].replica.may_propose


def test_a_certificate_for_another_header_in_a_status_halts_the_replica() -> None:
    """The same when the votes come as one certificate."""
    cluster = deaf()

    cluster.inject(1, 0, Status(0, True, 1, checkpoint(1, OTHER, (1, 2, 3)), (), True))

    assert cluster[0].halted is not None


def test_less_than_a_quorum_with_another_header_changes_nothing() -> None:
    """Those who signed it are faulty, not we."""
    cluster = deaf()

    for sender in (1, 2):
        cluster.inject(sender, 0, Checkpoint(1, OTHER))

    assert cluster[0].halted is None
    assert cluster[0].replica.stable is None


def test_a_forged_certificate_in_a_status_is_refused() -> None:
    """Two votes of four are not a quorum, whoever sends them."""
    cluster = deaf()

    cluster.inject(1, 0, Status(0, True, 1, checkpoint(1, OTHER, (1, 2)), (), True))

    assert cluster[0].rejected[0].code == "certificate.no_quorum"
    assert cluster[0].halted is None


def test_votes_for_two_headers_of_one_height_are_evidence() -> None:
    """A checkpoint's slot is its height."""
    cluster = deaf()

    cluster.inject(1, 0, Checkpoint(1, OTHER))
    cluster.inject(1, 0, Checkpoint(1, cluster[0].header(1)))
    cluster.inject(1, 0, Checkpoint(2, OTHER))
    cluster.inject(1, 0, Checkpoint(2, cluster[0].header(1)))

    (evidence,) = cluster[0].faults  # once for each validator is enough
    assert evidence.first.body == Checkpoint(1, OTHER)
    assert evidence.second.body == Checkpoint(1, cluster[0].header(1))


def test_votes_beyond_the_window_are_not_kept() -> None:
    """The map of votes is bounded by the window, whatever heights a validator names."""
    cluster = deaf()

    for height in [*range(2, 100), 2**53]:
        cluster.inject(1, 0, Checkpoint(height, OTHER))

    assert len(cluster[0].replica._checkpoints._votes) == 8


def test_a_certificate_ahead_of_execution_becomes_stable_when_we_get_there() -> None:
    """And then only if our header is the same."""
    header = execute(GENESIS_HEADER, 1, b"x")
    good, bad = Cluster(), Cluster()
    for cluster in (good, bad):
        cluster.lost = lambda _s, _r, _e: True
    good.inject(0, 3, Status(0, True, 1, checkpoint(1, header), (), True))
    bad.inject(0, 3, Status(0, True, 1, checkpoint(1, OTHER), (), True))
    before = good[3].replica.stable
    good.inject(0, 3, BlockReply((block(1),)))
    bad.inject(0, 3, BlockReply((block(1),)))

    assert before is None
    assert good[3].replica.stable == checkpoint(1, header)
    assert bad[3].halted is not None


def test_a_stable_checkpoint_is_reported_once() -> None:
    """The shell stores each certificate as it comes."""
    cluster = deaf()
    header = cluster[0].header(1)
    cluster.inject(1, 0, Checkpoint(1, header))

    reports = []
    for sender in (2, 3, 2):
        message = Received(signed(sender, Checkpoint(1, header)))
        effects = cluster[0].step(message)
        reports.append([e.certificate.height for e in effects if isinstance(e, Certified)])

    assert reports == [[1], [], []]
