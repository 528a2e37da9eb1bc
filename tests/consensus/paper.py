"""What the tests of the paper's sections share."""

from consensus.message import Body, payload_digest
from tests.consensus.cluster import Cluster
from vm.certificate import CheckpointCertificate

ONE = payload_digest(b"one")
TWO = payload_digest(b"two")
THREE = payload_digest(b"three")


def quiet(n: int = 4) -> Cluster:
    """A cluster in which nothing that replicas send arrives: each hears what the test injects."""
    cluster = Cluster(n)
    cluster.lost = lambda _sender, _receiver, _envelope: True
    return cluster


def said(cluster: Cluster, index: int, kind: type[Body]) -> list[Body]:
    """The distinct messages of one kind that a node broadcast."""
    return list(dict.fromkeys(envelope.body for envelope in cluster.sent_by(index, kind)))


def stable(cluster: Cluster, index: int) -> CheckpointCertificate:
    """The node's stable checkpoint, which it must have."""
    found = cluster[index].replica.stable
    assert found is not None, f"v{index:02} has no stable checkpoint"
    return found
