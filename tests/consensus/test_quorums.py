"""Quorums at work, for every size from 4 to 16: large enough to be safe, and always to be had.

2f + 1 of any n would fork at n = 5 and 6; here a quorum is ceil((n + f + 1) / 2).
"""

import pytest

from consensus.event import Pending, Received, TimerName
from consensus.message import Commit, Prepare, PrePrepare, payload_digest
from tests.consensus.cluster import Cluster, signed

SIZES = range(4, 17)
ONE, TWO = payload_digest(b"one"), payload_digest(b"two")


@pytest.mark.parametrize("n", SIZES)
def test_with_f_down_the_others_go_on(n: int) -> None:
    """Whoever they are: here the last ones."""
    cluster = Cluster(n)
    f = cluster.validators.f
    for index in range(n - f, n):
        cluster.kill(index)

    cluster.propose(b"one")

    assert [node.payloads for node in cluster.nodes[: n - f]] == [[b"one"]] * (n - f)


@pytest.mark.parametrize("n", SIZES)
def test_with_f_down_and_the_primary_among_them_a_view_change_is_had(n: int) -> None:
    """Also the quorum of view changes is left, and each of the views that dead ones would lead."""
    cluster = Cluster(n)
    f = cluster.validators.f
    for index in range(f):
        cluster.kill(index)

    cluster.wait_for(requests=True)
    while cluster[f].replica.view < f or not cluster[f].replica.may_propose:
        assert cluster.now_ms < 300_000, "expected a view within 5 minutes of simulated time"
        cluster.pass_time(500)
    cluster.propose(b"one")

    assert [node.payloads for node in cluster.nodes[f:]] == [[b"one"]] * (n - f)


@pytest.mark.parametrize("n", SIZES)
def test_without_a_quorum_nothing_is_decided(n: int) -> None:
    """One validator less than a quorum prepares nothing, whatever time passes."""
    cluster = Cluster(n)
    quorum = cluster.validators.quorum
    for index in range(quorum - 1, n):
        cluster.kill(index)

    cluster.propose(b"one")
    cluster.pass_time(60_000)

    assert {len(node.payloads) for node in cluster.nodes} == {0}


@pytest.mark.parametrize("n", SIZES)
def test_f_faulty_ones_that_say_two_things_decide_one_at_most(n: int) -> None:
    """The attack: the primary splits the others, and f vote for both; the halves hear no other."""
    cluster = Cluster(n)
    f = cluster.validators.f
    honest = range(f, n)
    half = f + (n - f + 1) // 2
    cluster.lost = (
        lambda sender, receiver, _e: (  # the test speaks for the faulty ones
            int(sender[1:]) < f or (int(sender[1:]) < half) != (int(receiver[1:]) < half)
        )
    )

    for receiver in honest:
        digest, payload = (ONE, b"one") if receiver < half else (TWO, b"two")
        cluster.inject(0, receiver, PrePrepare(0, 1, digest), payload)
        for sender in range(f):
            for vote in (Prepare(0, 1, digest), Commit(0, 1, digest)):
                if sender or isinstance(vote, Commit):
                    cluster.event(receiver, Received(signed(sender, vote)))
    cluster.run()

    decided = {payload for index in honest for payload in cluster[index].payloads}
    assert len(decided) <= 1


@pytest.mark.parametrize("n", SIZES)
def test_f_plus_one_join_early_and_bring_a_quorum_along(n: int) -> None:
    """4.5.2: one without fault is among them, so the rest of the honest follow, silent f or not."""
    cluster = Cluster(n)
    f = cluster.validators.f
    for index in range(n - f, n):
        cluster.kill(index)

    for index in range(1, f + 2):
        cluster.event(index, Pending(True))
        cluster.fire(cluster[index], TimerName.VIEW)
    cluster.run()

    assert {node.replica.view for node in cluster.nodes[: n - f]} == {1}
    assert all(node.replica.active for node in cluster.nodes[: n - f])
