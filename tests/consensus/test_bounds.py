"""Whatever a validator sends, what a replica remembers of it is bounded; each test fills a map."""

import pytest

from consensus.certificate import REMEMBERED_MAX, Verifier
from consensus.event import Limits
from consensus.journal import Held
from consensus.message import (
    BlockReply,
    BlockRequest,
    Commit,
    PayloadRequest,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
    payload_digest,
)
from consensus.replica import History, Replica, Start
from consensus.window import window_max
from tests.consensus.certificates import checkpoint
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

    assert sorted(cluster[1].replica._ordering._instances) == list(range(1, 9))


def test_an_instance_has_one_vote_of_each_kind_for_each_sender() -> None:
    """A later view replaces an earlier one, however many views a sender names."""
    cluster = deaf()

    for view in [*range(50), 2**53]:
        cluster.inject(2, 1, Prepare(view, 1, ONE))
        cluster.inject(2, 1, Commit(view, 1, ONE))

    instance = cluster[1].replica._ordering._instances[1]
    assert (len(instance.prepares), len(instance.commits)) == (1, 1)
    assert instance.commits["v02"].view == 2**53


def test_one_view_change_and_one_height_are_kept_for_each_sender() -> None:
    """The newest replaces the one before."""
    cluster = deaf()

    for view in range(1, 50):
        cluster.inject(2, 1, ViewChange(view, None, ()))
        cluster.inject(2, 1, Status(view, True, view, None, (), (), True))

    assert list(cluster[1].replica._views._heard) == ["v02"]
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
    assert replica._ordering._given == set()
    assert replica._catch_up._given == {"v02": 1}
    assert replica._catch_up._doubted <= {"v02"}
    assert {peer for peer, _ in replica._status._answered} == {"v00", "v02", "v03"}
    assert len(replica._status._answered) <= 2 * 3


def test_payloads_beyond_their_bytes_are_refused_until_a_checkpoint() -> None:
    """A primary cannot fill the memory with proposals that it never lets commit."""
    cluster = deaf(Limits(window=8, payload_bytes_max=10))

    for sequence in (1, 2, 3):
        payload = b"%d" % sequence * 4
        cluster.inject(0, 1, PrePrepare(0, sequence, payload_digest(payload)), payload)

    assert cluster[1].replica._ordering.payloads.bytes_held == 8
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
    assert cluster[2].replica._ordering.payloads.bytes_held == 0


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
        assert replica._ordering.empty
        assert replica._ordering.payloads.bytes_held == 0
        assert not replica._unexecuted
        assert not replica._checkpoints._votes
        assert len(replica._checkpoints._headers) == 1
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
