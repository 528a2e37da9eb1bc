"""The normal case, start and recovery of a replica, as dialogues of real replicas."""

import pytest

from consensus.event import Certified, Deliver, Executed, Propose
from consensus.journal import Entry, Said, frame
from consensus.message import Checkpoint, Commit, Prepare, PrePrepare
from tests.consensus.cluster import Cluster
from tests.consensus.node import GENESIS_HEADER, execute


@pytest.mark.parametrize("n", range(4, 17))
def test_every_replica_delivers_what_the_primary_proposes_in_order(n: int) -> None:
    """With n replicas and none faulty, all execute the same payloads and certify their headers."""
    cluster = Cluster(n)

    cluster.propose(b"one", b"two", b"three")

    for node in cluster.nodes:
        assert node.payloads == [b"one", b"two", b"three"]
        assert node.replica.stable is not None
        assert node.replica.stable.height == 3
        assert node.header(3) == cluster[0].header(3)
        assert node.rejected == []


def test_a_replica_killed_after_voting_delivers_again_what_its_journal_decided() -> None:
    """The store may sync later than the journal: recovery re-delivers and re-executes."""
    cluster = Cluster()
    cluster.propose(b"one", b"two")
    cluster[1].sync()

    cluster.kill(1)
    assert cluster[1].payloads == []
    cluster.up[cluster[1].name] = True
    cluster.apply(cluster[1], cluster[1].recover())

    assert cluster[1].payloads == [b"one", b"two"]
    assert cluster[1].header(2) == cluster[0].header(2)


def test_a_replica_that_was_down_catches_up_by_blocks_and_takes_part_again() -> None:
    """Blocks below the others' watermark come with commit certificates; then it votes again."""
    cluster = Cluster()
    cluster.kill(3)
    for i in range(40):
        cluster.propose(b"%d" % i)
    assert len(cluster[0].payloads) == 40

    cluster.restart(3)
    cluster.pass_time(1_000)
    cluster.kill(2)
    cluster.propose(b"last")

    assert cluster[3].payloads == [*(b"%d" % i for i in range(40)), b"last"]
    assert cluster[3].replica.stable == cluster[0].replica.stable


def test_a_window_of_proposals_is_in_flight_at_once() -> None:
    """The primary may propose up to the high watermark without waiting for any commit."""
    cluster = Cluster()

    room = []
    for i in range(8):
        room.append(cluster[0].replica.may_propose)
        cluster.event(0, Propose(b"%d" % i))
    room.append(cluster[0].replica.may_propose)
    cluster.run()

    assert room == [True] * 8 + [False]
    assert cluster[0].replica.may_propose
    assert cluster[2].payloads == [b"%d" % i for i in range(8)]


def test_a_vote_is_journaled_before_it_leaves() -> None:
    """Every Prepare, Commit and Checkpoint stands in the synced journal before it is sent."""
    cluster = Cluster()
    cluster.propose(b"one")

    promised = [e.envelope for e in cluster[1].entries() if hasattr(e, "envelope")]

    assert cluster.sent_by(1, Prepare)[0] in promised
    assert cluster.sent_by(1, Commit)[0] in promised
    assert cluster.sent_by(0, PrePrepare)


def test_executing_a_height_differently_after_a_restart_halts_the_replica() -> None:
    """A header other than the one signed before the crash is our own fault: stop loudly."""
    cluster = Cluster()
    cluster.lost = lambda sender, receiver, envelope: envelope.body.TAG == "checkpoint"
    cluster.propose(b"one")
    cluster[1].crash()

    for effect in cluster[1].recover():
        cluster[1].apply(effect)
    cluster[1].answers.clear()
    cluster.event(1, Executed(1, b"\1" * 32, None))

    assert cluster[1].halted == "execution of height 1 gave another header than before"
    assert cluster[1].step(Propose(b"two")) == []


def test_a_checkpoint_never_said_before_a_crash_is_said_after_it() -> None:
    """The store may be ahead of the journal: a block is there, the vote for its header is not."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Checkpoint)
    cluster.propose(b"one")
    for i in (0, 1):  # without their votes there is no quorum of four
        cluster[i].flush()
        cluster[i].disk.journal = bytearray(
            b"".join(frame(entry) for entry in cluster[i].entries() if not _is_checkpoint(entry))
        )
        cluster.kill(i)

    cluster.lost = lambda _s, _r, _e: False
    for i in (0, 1):
        cluster.restart(i)
    cluster.pass_time(10_000)

    for node in cluster.nodes:
        assert node.payloads == [b"one"]
        assert node.replica.stable is not None


def test_a_certificate_that_the_store_lost_is_reported_again_after_a_restart() -> None:
    """Its write was never synced, but the journal knows the stable checkpoint."""
    cluster = Cluster()
    cluster.propose(b"one")
    for i in range(4):
        cluster[i].sync()
        cluster.kill(i)
        assert cluster[i].disk.stable is None
    certified = []
    for i in range(4):
        cluster.restart(i)
        certified.append(cluster[i].disk.stable)

    assert [None if c is None else c.height for c in certified] == [1, 1, 1, 1]


def test_a_restored_certificate_is_reported_once_the_store_is_at_its_height() -> None:
    """Not before: a client is shown the certificate of a block that is there."""
    cluster = Cluster()
    cluster.propose(b"one")
    cluster[1].sync()
    cluster[1].crash()
    first = cluster[1].recover()
    deliveries = [effect for effect in first if isinstance(effect, Deliver)]

    effects = cluster[1].step(Executed(1, execute(GENESIS_HEADER, 1, b"one"), None))

    assert len(deliveries) == 1
    assert not [effect for effect in first if isinstance(effect, Certified)]
    assert [e.certificate.height for e in effects if isinstance(e, Certified)] == [1]


def test_a_certificate_that_the_store_kept_is_not_reported_again() -> None:
    """A restart without loss has nothing to tell."""
    cluster = Cluster()
    cluster.propose(b"one")
    cluster[1].flush()
    cluster[1].sync()
    cluster[1].crash()

    effects = cluster[1].recover()

    assert not [effect for effect in effects if isinstance(effect, Certified)]


def _is_checkpoint(entry: Entry) -> bool:
    return isinstance(entry, Said) and isinstance(entry.envelope.body, Checkpoint)


def test_a_payload_proposed_again_survives_a_restart_between_two_stores() -> None:
    """A payload is kept while any open number names it, also if the store is ahead of the journal.

    The journal still tells of checkpoints below the one in the store; replaying those must not
    drop the payload that a later entry names again (found by the simulator, seed 11).
    """
    cluster = Cluster()
    cluster.propose(b"one", b"again")
    cluster.lost = lambda _sender, _receiver, _envelope: True
    cluster.event(0, Propose(b"new"))
    cluster.propose(b"again")
    cluster[0].sync()
    cluster[0].flush()

    cluster.kill(0)
    cluster.lost = lambda _sender, _receiver, _envelope: False
    cluster.restart(0)
    cluster.pass_time(2_000)

    assert cluster[2].payloads == [b"one", b"again", b"new", b"again"]
    assert cluster[2].replica.view == 0
