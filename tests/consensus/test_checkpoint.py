"""Checkpoints: stable only with our own header, loud when a quorum has another."""

import pytest

from consensus.checkpoint import Checkpoints
from consensus.event import Certified, Diverged, Received
from consensus.message import BlockReply, Checkpoint, Status
from tests.consensus.certificates import checkpoint
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import GENESIS_HEADER, execute, validator_set
from tests.consensus.test_catchup import block
from vm.statement import Slot, SlotKind

OTHER = b"\7" * 32
WINDOW = 8


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

    cluster.inject(1, 0, Status(0, True, 1, checkpoint(1, OTHER, (1, 2, 3)), (), (), True))

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

    cluster.inject(1, 0, Status(0, True, 1, checkpoint(1, OTHER, (1, 2)), (), (), True))

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
    assert evidence.slot == Slot(SlotKind.CHECKPOINT, 0, 1)
    assert (evidence.first.content, evidence.second.content) == (OTHER, cluster[0].header(1))


def test_votes_beyond_the_window_are_not_kept() -> None:
    """The map of votes is bounded by the window, whatever heights a validator names."""
    cluster = deaf()

    for height in [*range(2, 100), 2**53]:
        cluster.inject(1, 0, Checkpoint(height, OTHER))

    assert len(cluster[0].replica._pbft.checkpoints._votes) == 8


def test_a_certificate_ahead_of_execution_becomes_stable_when_we_get_there() -> None:
    """And then only if our header is the same."""
    header = execute(GENESIS_HEADER, 1, b"x")
    good, bad = Cluster(), Cluster()
    for cluster in (good, bad):
        cluster.lost = lambda _s, _r, _e: True
    good.inject(0, 3, Status(0, True, 1, checkpoint(1, header), (), (), True))
    bad.inject(0, 3, Status(0, True, 1, checkpoint(1, OTHER), (), (), True))
    before = good[3].replica.stable
    good.inject(0, 3, BlockReply(None, (block(1),)))
    bad.inject(0, 3, BlockReply(None, (block(1),)))

    assert before is None
    assert good[3].replica.stable == checkpoint(1, header)
    assert bad[3].halted is not None


def following(length: int) -> tuple[Checkpoints, list[bytes]]:
    """The checkpoints of a replica at the genesis, and the headers of a chain."""
    headers = [GENESIS_HEADER]
    for height in range(1, length):
        headers.append(execute(headers[-1], height, b"x"))
    return Checkpoints(validator_set(4), WINDOW, 0, GENESIS_HEADER, None), headers


def test_a_replica_that_follows_a_few_blocks_behind_has_stable_checkpoints() -> None:
    """A newer certificate does not displace the one that execution is about to reach."""
    checkpoints, headers = following(100)

    for height in range(1, 90):
        checkpoints.observe(checkpoint(height + 3, headers[height + 3]))
        checkpoints.execute(height, headers[height])
        checkpoints.settle(height)
        checkpoints.forget()
        assert height - checkpoints.low <= 3
        assert len(checkpoints._headers) <= WINDOW + 2

    assert checkpoints.known == 92


def test_headers_below_a_certificate_far_ahead_are_bounded() -> None:
    """While a replica catches up to it, the window's headers are kept and the newest one."""
    checkpoints, headers = following(300)
    checkpoints.observe(checkpoint(250, headers[250]))

    for height in range(1, 251):
        checkpoints.execute(height, headers[height])
        assert len(checkpoints._headers) <= WINDOW + 2

    assert checkpoints.low == 250


def test_a_quorum_with_another_header_is_seen_also_while_we_catch_up() -> None:
    """Whatever certificates lie ahead, votes are compared with the header that we executed."""
    checkpoints, headers = following(10)
    checkpoints.observe(checkpoint(6, headers[6]))
    for sender in (0, 1, 2):
        signature = checkpoint(1, OTHER, (sender,)).votes[0].signature
        checkpoints.vote(f"v{sender:02}", 1, OTHER, signature)

    checkpoints.execute(1, headers[1])

    with pytest.raises(Diverged):
        checkpoints.settle(1)
    assert checkpoints.stable is None


def test_a_quorum_for_a_height_whose_header_we_do_not_know_is_not_adopted() -> None:
    """A restarted replica knows its newest header only: it waits for a certificate of that."""
    header = execute(GENESIS_HEADER, 1, b"x")
    checkpoints = Checkpoints(validator_set(4), WINDOW, 2, execute(header, 2, b"x"), None)
    for sender in (0, 1, 2):
        signature = checkpoint(1, OTHER, (sender,)).votes[0].signature
        checkpoints.vote(f"v{sender:02}", 1, OTHER, signature)

    checkpoints.settle(1)

    assert checkpoints.stable is None


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
