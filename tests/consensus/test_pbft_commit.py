"""Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), section 4.2: commit.

Commits are logged between the watermarks; ours: of any view, for a quorum of one decides in all.
    test_commits_outside_the_watermarks_are_not_logged
    test_commits_of_an_earlier_view_decide_still
Committed locally: 2f + 1 commits that match; ours: ceil((n + f + 1) / 2), also without being
prepared.
    test_a_block_is_committed_by_exactly_a_quorum_of_commits
    test_one_commit_less_than_a_quorum_delivers_nothing
    test_a_commit_counts_only_if_view_number_and_digest_match
    test_a_quorum_of_commits_is_enough_also_for_who_is_not_prepared
What is committed at one without fault is prepared at f + 1 without fault, and commits there too.
    test_what_commits_at_one_commits_at_the_others_too
Requests execute in the order of numbers, whatever order they commit in.
    test_requests_execute_only_after_all_with_lower_numbers
A request executes once, at each replica in the same order.
    test_payloads_execute_in_the_same_order_everywhere
    test_a_replica_delivers_a_number_once
The messages are kept until it is executed.
    test_votes_are_kept_until_the_request_is_executed_and_certified
"""

import pytest

from consensus.event import Propose
from consensus.message import (
    Commit,
    Prepare,
    PrePrepare,
    payload_digest,
)
from tests.consensus.cluster import Cluster, Route
from tests.consensus.paper import ONE, TWO, quiet, said


def at(sequence: int) -> Route:
    """The messages for one sequence number."""
    return lambda _s, _r, envelope: getattr(envelope.body, "sequence", None) == sequence


@pytest.mark.parametrize("n", range(4, 17))
def test_a_block_is_committed_by_exactly_a_quorum_of_commits(n: int) -> None:
    """4.2: committed locally with 2f + 1 commits; ours ceil((n + f + 1) / 2) of any n."""
    cluster = quiet(n)
    quorum = cluster.validators.quorum
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    for sender in range(2, quorum + 1):
        cluster.inject(sender, 1, Prepare(0, 1, ONE))
        cluster.inject(sender, 1, Commit(0, 1, ONE))

    assert cluster[1].payloads == [b"one"]
    block, _ = cluster[1].disk.store[0]
    assert len(block.certificate.votes) == quorum


@pytest.mark.parametrize("n", range(4, 17))
def test_one_commit_less_than_a_quorum_delivers_nothing(n: int) -> None:
    """4.2: one vote short, whatever else has come."""
    cluster = quiet(n)
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    for sender in range(2, cluster.validators.quorum):
        cluster.inject(sender, 1, Prepare(0, 1, ONE))
        cluster.inject(sender, 1, Commit(0, 1, ONE))
        cluster.inject(sender, 1, Commit(0, 1, ONE))

    assert cluster[1].payloads == []


@pytest.mark.parametrize(
    "vote", [Commit(1, 1, ONE), Commit(0, 2, ONE), Commit(0, 1, TWO), Prepare(0, 1, ONE)]
)
def test_a_commit_counts_only_if_view_number_and_digest_match(vote: Prepare | Commit) -> None:
    """4.2: commits match a pre-prepare if they have its view, number and digest."""
    cluster = quiet()
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(2, 1, Prepare(0, 1, ONE))
    cluster.inject(2, 1, Commit(0, 1, ONE))

    cluster.inject(3, 1, vote)
    assert cluster[1].payloads == []

    cluster.inject(0, 1, Commit(0, 1, ONE))
    assert cluster[1].payloads == [b"one"]


def test_a_quorum_of_commits_is_enough_also_for_who_is_not_prepared() -> None:
    """4.2 asks to be prepared too; ours does not: a quorum has been, and the proof is theirs."""
    cluster = quiet()
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")

    for sender in (0, 2, 3):
        cluster.inject(sender, 1, Commit(0, 1, ONE))

    assert said(cluster, 1, Commit) == []
    assert cluster[1].payloads == [b"one"]


@pytest.mark.parametrize("sequence", [0, 9])
def test_commits_outside_the_watermarks_are_not_logged(sequence: int) -> None:
    """4.2: h < n <= H for commits as well."""
    cluster = quiet()
    before = cluster[1].replica.entries()

    for sender in (0, 2, 3):
        cluster.inject(sender, 1, Commit(0, sequence, ONE))

    assert cluster[1].replica.entries() == before
    assert cluster[1].payloads == []


def test_commits_of_an_earlier_view_decide_still() -> None:
    """4.2 takes those of the current view; ours any: a quorum of one view decides in every view."""
    cluster = quiet()
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(2, 1, Prepare(0, 1, ONE))
    cluster.wait_for(requests=True)
    cluster.pass_time(2_000)
    assert (cluster[1].replica.view, cluster[1].replica.active) == (1, False)

    for sender in (0, 2):
        cluster.inject(sender, 1, Commit(0, 1, ONE))

    assert cluster[1].payloads == [b"one"]


def test_what_commits_at_one_commits_at_the_others_too() -> None:
    """4.2: it is prepared at f + 1 without fault, so no view forgets it, and all get there."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, envelope: (
        isinstance(envelope.body, Commit) and receiver != "v02"
    )
    cluster.propose(b"one")
    assert [node.payloads for node in cluster.nodes] == [[], [], [b"one"], []]
    cluster.lost = lambda _s, _r, _e: False

    cluster.pass_time(1_500)

    assert [node.payloads for node in cluster.nodes] == [[b"one"]] * 4


def test_requests_execute_only_after_all_with_lower_numbers() -> None:
    """4.2: the state must reflect all requests with lower numbers first."""
    cluster = Cluster()
    held_back = [1]
    cluster.lost = lambda _s, _r, envelope: getattr(envelope.body, "sequence", 0) in held_back
    cluster.propose(b"one", b"two")
    assert cluster[1].payloads == []

    held_back.clear()
    cluster.wait_for(requests=True)
    cluster.pass_time(1_500)

    assert cluster[1].payloads[:2] == [b"one", b"two"]


def test_payloads_execute_in_the_same_order_everywhere() -> None:
    """4.2: whatever order the messages of different numbers come in."""
    cluster = Cluster()
    for number in range(1, 9):
        cluster.event(0, Propose(b"%d" % number))

    for number in (5, 2, 8, 1, 7, 3, 6, 4):
        cluster.run(at(number))
    cluster.run()

    assert {tuple(node.payloads) for node in cluster.nodes} == {
        (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8")
    }


def test_a_replica_delivers_a_number_once() -> None:
    """4.2: execution happens once; a repeat of every message changes nothing."""
    cluster = Cluster()
    cluster.propose(b"one")
    again = [item for item in cluster.sent if item[1] == "v01"]

    cluster.wire.extend(again)
    cluster.run()

    assert cluster[1].payloads == [b"one"]


def test_votes_are_kept_until_the_request_is_executed_and_certified() -> None:
    """4.2: numbers may commit out of order, so messages stay logged until their turn."""
    cluster = quiet()
    for sequence, payload in ((2, b"two"), (1, b"one")):
        digest = payload_digest(payload)
        cluster.inject(0, 1, PrePrepare(0, sequence, digest), payload)
        for sender in (2, 3):
            cluster.inject(sender, 1, Prepare(0, sequence, digest))
    for sender in (2, 3):
        cluster.inject(sender, 1, Commit(0, 2, TWO))
    assert cluster[1].payloads == []

    for sender in (2, 3):
        cluster.inject(sender, 1, Commit(0, 1, ONE))

    assert cluster[1].payloads == [b"one", b"two"]
