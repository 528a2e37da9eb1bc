"""Hostile messages: whatever one validator says to whomever in whatever state, nobody stops."""

from itertools import product

import pytest

from consensus.message import (
    Block,
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
    payload_digest,
)
from tests.consensus.certificates import checkpoint, committed
from tests.consensus.cluster import Cluster

ONE = payload_digest(b"one")

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
    Status(2**53, True, 2**53, None, tuple(range(64)), (), False),
    Status(0, False, 0, checkpoint(2**53, b"\1" * 32, (3,)), (2**53,), (), False),
    PayloadRequest(ONE),
    PayloadReply(ONE),
    BlockRequest(0),
    BlockRequest(2**53),
    BlockReply(None, ()),
    BlockReply(None, (Block(b"x", committed(0, 1, b"x", (3,))),)),
)


@pytest.mark.parametrize("state", ["at the start", "at work", "between views"])
def test_every_message_survives_every_state(state: str) -> None:
    """Well-formed nonsense of one validator stops nobody, whatever it meets (LOKI, NDSS'23)."""
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
