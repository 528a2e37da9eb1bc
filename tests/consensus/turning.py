"""Clusters whose validators change, for tests of what happens as epochs turn."""

from consensus.event import Limits
from consensus.message import (
    Body,
    Prepare,
    PrePrepare,
    signing_digest,
    slot_of,
)
from tests.consensus.cluster import Cluster
from tests.consensus.node import CHAIN, seats

WINDOW = 4
LAST = 1 + WINDOW  # of epoch 0, where the first block changes the validators
FIVE = seats(0, 1, 2, 3, 4)


def cluster_of(n: int, seated: int = 4) -> Cluster:
    """A cluster with a short window, so that changes are in force soon."""
    return Cluster(n, Limits(window=WINDOW), seated=seated)


def fill(cluster: Cluster, count: int, name: str = "x") -> None:
    """Order so many blocks."""
    for i in range(count):
        cluster.propose(b"%s%d" % (name.encode(), i))


def numbers(cluster: Cluster) -> list[int]:
    """The epochs that the nodes are in."""
    return [node.replica.epoch.number for node in cluster.nodes]


def agreed(cluster: Cluster) -> list[bytes]:
    """The payloads of the longest chain, of which every other node has a beginning."""
    longest = max((node.payloads for node in cluster.nodes), key=len)
    for node in cluster.nodes:
        assert node.halted is None
        assert node.payloads == longest[: len(node.payloads)]
    return longest


def vote(body: PrePrepare) -> Prepare:
    """The Prepare for a proposal."""
    return Prepare(body.view, body.sequence, body.digest)


def digest_of(epoch: int, body: Body) -> bytes:
    """What a message of this epoch signs."""
    return signing_digest(CHAIN, epoch, body)


def signed_once(cluster: Cluster) -> None:
    """No node has ever signed two messages for one slot of an epoch."""
    said: dict[object, Body] = {}
    for sender, _, envelope in cluster.sent:
        slot = slot_of(envelope.body)
        if slot is not None and sender == envelope.sender:
            key = (sender, envelope.epoch, slot)
            assert said.setdefault(key, envelope.body) == envelope.body
