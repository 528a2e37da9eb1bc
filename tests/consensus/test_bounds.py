"""Whatever a validator sends, what a replica remembers of it is bounded; each test fills a map."""

from collections import Counter
from itertools import product

import pytest

from consensus.catchup import (
    CERTIFICATE_BYTES_MAX,
    GIVEN_BYTES_MAX,
    GIVEN_TO_ALL_BYTES_MAX,
    OWED_MAX,
    PEERS_MAX,
    CatchUp,
)
from consensus.certificate import REMEMBERED_MAX, Verifier
from consensus.event import Limits, Send
from consensus.journal import Held, Said
from consensus.message import (
    PAYLOAD_BYTES_MAX,
    WINDOW_MAX,
    Block,
    BlockReply,
    BlockRequest,
    Checkpoint,
    Commit,
    PayloadRequest,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
    payload_digest,
)
from consensus.outbox import Outbox
from consensus.replica import Replica, Start
from consensus.start import History
from consensus.window import window_max
from tests.consensus.certificates import checkpoint, committed
from tests.consensus.cluster import Cluster
from tests.consensus.node import (
    CHAIN,
    GENESIS_HEADER,
    KEYS,
    accept_all,
    genesis_epoch,
    key_of,
    validator_set,
)
from vm.quorum import Validator, ValidatorSet
from vm.refusal import Refused

ONE = payload_digest(b"one")


def deaf(limits: Limits | None = None) -> Cluster:
    """A cluster in which nothing arrives but what a test injects."""
    cluster = Cluster(limits=limits or Limits(window=8))
    cluster.lost = lambda _s, _r, _e: True
    return cluster


def test_the_log_has_one_instance_for_each_number_of_the_window() -> None:
    """Votes for other numbers leave nothing behind."""
    cluster = deaf()

    for sequence in [*range(100), 2**53]:
        cluster.inject(2, 1, Prepare(0, sequence, ONE))
        cluster.inject(2, 1, Commit(7, sequence, ONE))

    assert sorted(cluster[1].replica._pbft.ordering._instances) == list(range(1, 9))


def test_an_instance_has_one_vote_of_each_kind_for_each_sender() -> None:
    """A later view replaces an earlier one, however many views a sender names."""
    cluster = deaf()

    for view in [*range(50), 2**53]:
        cluster.inject(2, 1, Prepare(view, 1, ONE))
        cluster.inject(2, 1, Commit(view, 1, ONE))

    instance = cluster[1].replica._pbft.ordering._instances[1]
    assert (len(instance.prepares), len(instance.commits)) == (1, 1)
    assert instance.commits["v02"].view == 2**53


def test_one_view_change_and_one_height_are_kept_for_each_sender() -> None:
    """The newest replaces the one before."""
    cluster = deaf()

    for view in range(1, 50):
        cluster.inject(2, 1, ViewChange(view, None, ()))
        cluster.inject(2, 1, Status(view, True, view, None, (), (), True))

    assert list(cluster[1].replica._pbft._views._heard) == ["v02"]
    assert sorted(cluster[1].replica._catch_up._heights) == ["v00", "v02", "v03"]
    assert cluster[1].replica._catch_up._heights["v02"] == 49


def test_what_was_given_is_remembered_once_for_each_peer() -> None:
    """A digest that we do not hold and a height that we do not have leave nothing behind."""
    cluster = Cluster()
    cluster.propose(b"one")
    cluster.lost = lambda _s, _r, _e: True

    for i in range(50):
        cluster.inject(2, 1, PayloadRequest(payload_digest(b"%d" % i)))
        cluster.inject(2, 1, BlockRequest(i))
        cluster.inject(2, 1, BlockReply(None, ()))
        cluster.inject(2, 1, Status(0, True, i, None, (), (), bool(i % 2)))

    replica = cluster[1].replica
    assert replica._pbft.ordering._given == set()
    assert replica._catch_up._given == {"v02": 1}
    assert replica._catch_up._doubted <= {"v02"}
    assert {peer for peer, _ in replica._pbft.status._answered} == {"v00", "v02", "v03"}
    assert len(replica._pbft.status._answered) <= 2 * 3


def test_blocks_to_one_peer_are_bounded_in_bytes_for_a_status_period() -> None:
    """Who asks for the whole chain at once gets so much of it, and the rest from then on."""
    cluster = Cluster()
    payload = b"x" * PAYLOAD_BYTES_MAX
    chain = [Block(payload, committed(0, 1, payload))] * 100
    history = History(lambda first, last: chain[first:last], lambda _: None, cluster[0].epoch_at)
    outbox = Outbox(CHAIN, "v00", 0, None)
    giver = CatchUp(outbox, history, WINDOW_MAX)

    def given() -> int:
        for first in range(1, 100):
            giver._given.clear()  # as if each answer had been of other blocks
            giver.on_block_request("v03", BlockRequest(first), 100)
        replies = [e.envelope.body for e in outbox.take() if isinstance(e, Send)]
        blocks = [reply.blocks for reply in replies if isinstance(reply, BlockReply)]
        return sum(len(block.payload) for found in blocks for block in found)

    before = given()
    giver.tick(100)

    assert GIVEN_BYTES_MAX - PAYLOAD_BYTES_MAX <= before <= GIVEN_BYTES_MAX
    assert given() == before


def test_blocks_to_all_peers_are_bounded_in_bytes_for_a_status_period() -> None:
    """However many ask without end, so much is read; who got nothing of it is first in the next."""
    cluster = Cluster()
    payload = b"x" * PAYLOAD_BYTES_MAX
    chain = [Block(payload, committed(0, 1, payload))] * 100
    history = History(lambda first, last: chain[first:last], lambda _: None, cluster[0].epoch_at)
    outbox = Outbox(CHAIN, "v00", 0, None)
    giver = CatchUp(outbox, history, WINDOW_MAX)
    peers = [f"guest-{number:02}" for number in range(20)]

    def given(peers: list[str]) -> Counter[str]:
        found = Counter[str]()
        for first, peer in product(range(1, 9), peers):
            giver._given.clear()  # as if each answer had been of other blocks
            giver.on_block_request(peer, BlockRequest(first), 100)
        for effect in outbox.take():
            if isinstance(effect, Send) and isinstance(effect.envelope.body, BlockReply):
                found[effect.to] += PAYLOAD_BYTES_MAX * len(effect.envelope.body.blocks)
        return found

    before = given(peers)
    owed = set(list(giver._refused)[:OWED_MAX])
    giver.tick(100)
    after = given(peers)

    for found in (before, after):
        assert GIVEN_TO_ALL_BYTES_MAX // 2 < found.total() <= GIVEN_TO_ALL_BYTES_MAX
        assert max(found.values()) <= GIVEN_BYTES_MAX
    assert len(owed) == OWED_MAX
    assert not owed & before.keys()
    assert owed <= after.keys()


def test_empty_answers_are_bounded_too() -> None:
    """A certificate beside no block at all is a large answer to a small request."""
    cluster = Cluster()
    cluster.propose(b"one")
    cluster.lost = lambda _s, _r, _e: True
    before = len(cluster.sent)

    for _ in range(GIVEN_BYTES_MAX // CERTIFICATE_BYTES_MAX + 100):
        cluster.inject(3, 0, BlockRequest(2))

    assert len(cluster.sent) - before == GIVEN_BYTES_MAX // CERTIFICATE_BYTES_MAX + 1


def test_heights_are_noted_of_a_bounded_number_of_peers() -> None:
    """The one not heard for longest is dropped, and what is held against it."""
    cluster = Cluster()
    catch_up = cluster[0].replica._catch_up

    for i in range(PEERS_MAX + 10):
        catch_up.heard(f"guest-{i}", 7)
        catch_up._doubted.add(f"guest-{i}")

    assert len(catch_up._heights) == PEERS_MAX
    assert catch_up._doubted == {f"guest-{i}" for i in range(10, PEERS_MAX + 10)}


def test_what_is_said_of_checkpoints_far_ahead_of_a_certificate_is_bounded() -> None:
    """Who catches up from peers that give no certificates keeps a window of votes and headers."""
    cluster = deaf()
    for first in range(1, 100, 8):
        blocks = tuple(
            Block(b"x", committed(0, height, b"x")) for height in range(first, first + 8)
        )
        cluster.inject(0, 3, BlockReply(None, blocks))

    replica = cluster[3].replica
    assert replica.executed == 104
    assert replica.stable is None
    said = [e.envelope.body for e in replica.entries() if isinstance(e, Said)]
    assert [body.height for body in said if isinstance(body, Checkpoint)] == list(range(96, 105))
    assert len(replica._pbft.checkpoints._headers) == 9


def test_who_is_far_ahead_of_a_certificate_takes_one_of_the_last_window() -> None:
    """The headers that it kept are enough to go on from there."""
    cluster = deaf()
    blocks = tuple(Block(b"x", committed(0, height, b"x")) for height in range(1, 25))
    for first in range(0, 24, 8):
        cluster.inject(0, 3, BlockReply(None, blocks[first : first + 8]))
    header = cluster[3].header(20)

    cluster.inject(0, 3, Status(0, True, 24, checkpoint(20, header), (), (), True))

    assert cluster[3].replica.stable == checkpoint(20, header)


def test_payloads_beyond_their_bytes_are_refused_until_a_checkpoint() -> None:
    """A primary cannot fill the memory with proposals that it never lets commit."""
    cluster = deaf(Limits(window=8, payload_bytes_max=10))

    for sequence in (1, 2, 3):
        payload = b"%d" % sequence * 4
        cluster.inject(0, 1, PrePrepare(0, sequence, payload_digest(payload)), payload)

    assert cluster[1].replica._pbft.ordering.payloads.bytes_held == 8
    assert [rejected.code for rejected in cluster[1].rejected] == ["consensus.payloads_full"]


def test_payloads_that_never_prepare_leave_room_for_the_next_views_primaries() -> None:
    """Proposals of a view that is over do not count: one faulty primary stops nobody for good."""
    payload_bytes = 64
    cluster = Cluster(limits=Limits(window=8, payload_bytes_max=8 * payload_bytes))
    cluster.kill(0)
    for receiver in (1, 2, 3):
        for sequence in range(1, 9):  # to each another one, so that no quorum agrees
            payload = bytes([receiver, sequence]) * (payload_bytes // 2)
            proposal = PrePrepare(0, sequence, payload_digest(payload))
            cluster.inject(0, receiver, proposal, payload)
    cluster.run()

    cluster.wait_for(requests=True)
    cluster.pass_time(3_000)
    cluster.propose(b"honest")

    for node in cluster.nodes[1:]:
        assert node.payloads == [b"honest"]
        assert node.replica.view == 1
        assert node.rejected == []
    assert not [entry for entry in cluster[1].replica.entries() if isinstance(entry, Held)]


def test_payloads_that_never_prepared_are_dropped_again_after_a_restart() -> None:
    """The journal may still hold those of an earlier view; memory and the next journal do not."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Prepare)
    cluster.propose(b"never prepared")
    cluster.kill(0)
    cluster.wait_for(requests=True)
    cluster.pass_time(3_000)
    cluster[2].sync()

    cluster.kill(2)
    cluster.restart(2)

    assert cluster[2].replica.view == 1
    assert Held(1, b"never prepared") in cluster[2].entries()
    assert cluster[2].replica._pbft.ordering.payloads.bytes_held == 0


def test_verified_statements_are_remembered_up_to_a_bound() -> None:
    """The oldest is dropped and would be verified again."""
    verifier = Verifier(CHAIN, genesis_epoch(validator_set(4)))
    verifier.checkpoint(checkpoint(1, ONE))
    first = next(iter(verifier._verified))

    for i in range(REMEMBERED_MAX):
        verifier._remember(i.to_bytes(32, "big"), ())

    assert len(verifier._verified) == REMEMBERED_MAX
    assert first not in verifier._verified


def test_a_long_run_leaves_no_more_behind_than_a_short_one() -> None:
    """At a stable checkpoint everything below it is gone, in memory and for the journal."""
    cluster = Cluster()
    for i in range(100):
        cluster.propose(b"%d" % i)

    for node in cluster.nodes:
        replica = node.replica
        assert replica._outbox.everything() == []
        assert replica._pbft.ordering.empty
        assert replica._pbft.ordering.payloads.bytes_held == 0
        assert not replica._unexecuted
        assert not replica._pbft.checkpoints._votes
        assert len(replica._pbft.checkpoints._headers) == 1
        assert len(replica.entries()) == 2  # the epoch and its stable checkpoint


def test_a_window_whose_new_view_would_not_fit_an_envelope_is_refused_at_the_start() -> None:
    """Genesis fixes set and window together, and the largest window that fits is told."""
    seats = tuple(Validator(f"v{i:02}", f"h{i:02}", key_of(i).public) for i in range(64))

    epoch = genesis_epoch(ValidatorSet(seats))

    def start(window: int) -> Replica:
        return Replica(
            chain=CHAIN,
            me="v00",
            signer=lambda _key: KEYS[0].sign,
            check=accept_all,
            history=History(lambda _first, _last: (), lambda _at_most: None, lambda _height: epoch),
            start=Start(0, GENESIS_HEADER, None, (epoch,)),
            limits=Limits(window=window),
        )

    assert start(window_max(64)).may_propose
    with pytest.raises(Refused, match="at most 20 for 64 validators, found 21"):
        start(window_max(64) + 1)
