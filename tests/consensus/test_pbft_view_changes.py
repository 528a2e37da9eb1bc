"""Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), section 4.4: view changes.

Signed view changes with prepared certificates are BFT-PK of Castro's thesis (MIT, 2001); what is
valid in them is attacked in test_viewchange.

A view change gets the network going again when its primary fails.
    test_the_network_goes_on_when_its_primary_fails
A backup waits for a request that it has and has not executed.
    test_a_backup_times_the_primary_while_it_waits_and_only_then
It starts a timer when it gets the request, unless the timer runs.
    test_a_running_timer_is_not_started_again_by_another_request
It stops the timer when it waits no more, and starts it again if it waits for another request.
    test_a_backup_times_the_primary_while_it_waits_and_only_then
    test_the_timer_starts_again_when_a_block_is_delivered
When it expires the backup asks for the next view.
    test_a_backup_whose_timer_expires_asks_for_the_next_view_and_stops_accepting
... and accepts only checkpoints, view changes and new views; ours: commits too, for they decide
in every view.
    test_a_backup_whose_timer_expires_asks_for_the_next_view_and_stops_accepting
    test_a_backup_between_views_takes_checkpoints_and_commits
Its view change names its stable checkpoint and the proof of it.
    test_a_view_change_names_the_stable_checkpoint_and_its_proof
... and carries for each request prepared above that the pre-prepare and 2f prepares, without the
request.
    test_a_view_change_carries_a_certificate_for_everything_prepared
... of the last view in which it prepared.
    test_a_view_change_carries_the_newest_certificate_of_a_number
The new primary starts the view with 2f view changes of others and its own; ours: a quorum.
    test_the_new_view_holds_a_quorum_of_view_changes
It proposes again what has a certificate, with the digest of the highest view.
    test_the_newest_certificate_decides_what_is_proposed_again
... from the newest stable checkpoint in the set up to the highest number prepared.
    test_proposals_reach_from_the_newest_checkpoint_to_the_highest_number_prepared
... and the null request where there is none, whose execution does nothing.
    test_the_new_primary_fills_gaps_with_null_requests
It logs what it proposes so, and takes over a newer stable checkpoint with its proof.
    test_the_new_primary_takes_over_a_newer_stable_checkpoint
Then it is in the view and orders in it.
    test_the_new_view_holds_a_quorum_of_view_changes
A backup accepts a new view that is signed, whose view changes are valid and whose proposals it
computes likewise.
    test_a_backup_computes_the_same_proposals_or_refuses_the_view
It then logs them, multicasts a prepare for each and is in the view.
    test_a_backup_prepares_each_proposal_of_the_new_view
From there on it is the normal case; what was executed is ordered again and not executed again.
    test_what_was_executed_is_ordered_again_and_is_not_executed_again
Who lacks a request fetches it from another replica.
    test_a_missing_payload_is_fetched_from_who_has_prepared_it
Who lacks the checkpoint is brought up to date by those who signed it.
    test_a_missing_checkpoint_is_caught_up_from_those_who_have_it
What committed anywhere keeps its number in every later view (4.5.1).
    test_no_block_changes_when_the_primary_dies_in_the_middle
    test_what_one_replica_committed_survives_several_views_without_it
"""

import pytest

from consensus.event import Pending, Propose, TimerName
from consensus.message import (
    NULL_DIGEST,
    Checkpoint,
    Commit,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    SignedViewChange,
    ViewChange,
    payload_digest,
)
from tests.consensus.certificates import change, new_view, prepared
from tests.consensus.cluster import Cluster
from tests.consensus.node import execute
from tests.consensus.paper import ONE, THREE, TWO, quiet, said, stable

EMPTY = ViewChange(1, None, ())


def asked(*messages: ViewChange) -> tuple[SignedViewChange, ...]:
    """Signed view changes of v00, v02 and v03, filled up with empty ones."""
    filled = [*messages, EMPTY, EMPTY, EMPTY][:3]
    return tuple(change(i, message) for i, message in zip((0, 2, 3), filled, strict=True))


def proposals(cluster: Cluster, index: int) -> list[PrePrepare]:
    """The proposals of the one new view that a node sent."""
    (message,) = said(cluster, index, NewView)
    assert isinstance(message, NewView)
    return [item.message for item in message.pre_prepares]


def test_the_network_goes_on_when_its_primary_fails() -> None:
    """4.4: the next view orders what waits."""
    cluster = Cluster()
    cluster.kill(0)

    cluster.wait_for(requests=True)
    cluster.pass_time(2_500)
    cluster.propose(b"one")

    assert [node.payloads for node in cluster.nodes[1:]] == [[b"one"]] * 3
    assert cluster[1].replica.view == 1


def test_a_backup_times_the_primary_while_it_waits_and_only_then() -> None:
    """4.4: it starts a timer when it receives a request, and stops it when it no longer waits."""
    cluster = quiet()

    cluster.event(1, Pending(True))
    assert TimerName.VIEW in cluster[1].timers
    cluster.event(0, Pending(True))
    assert TimerName.VIEW not in cluster[0].timers  # the primary does not time itself

    cluster.event(1, Pending(False))
    assert TimerName.VIEW not in cluster[1].timers


def test_a_running_timer_is_not_started_again_by_another_request() -> None:
    """4.4: else a flow of requests would let a dead primary be."""
    cluster = quiet()
    cluster.event(1, Pending(True))
    first = cluster[1].timers[TimerName.VIEW]

    cluster.event(1, Pending(True))

    assert cluster[1].timers[TimerName.VIEW] == first


def test_the_timer_starts_again_when_a_block_is_delivered() -> None:
    """4.4: if it waits for another request at that point."""
    cluster = Cluster()
    cluster.event(1, Pending(True))
    first = cluster[1].timers[TimerName.VIEW].timer

    cluster.propose(b"one")

    assert cluster[1].timers[TimerName.VIEW].timer.setting > first.setting


def test_a_backup_whose_timer_expires_asks_for_the_next_view_and_stops_accepting() -> None:
    """4.4: it accepts no pre-prepare and no prepare any more."""
    cluster = quiet()
    cluster.event(1, Pending(True))

    cluster.pass_time(2_000)
    cluster.inject(0, 1, PrePrepare(0, 1, ONE), b"one")
    for sender in (2, 3):
        cluster.inject(sender, 1, Prepare(0, 1, ONE))

    assert said(cluster, 1, ViewChange) == [EMPTY]
    assert not cluster[1].replica.active
    assert said(cluster, 1, Prepare) == said(cluster, 1, Commit) == []


def test_a_backup_between_views_takes_checkpoints_and_commits() -> None:
    """4.4 names checkpoints; ours counts commits as well, so nothing decided is waited for."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, e: (
        receiver == "v01" and isinstance(e.body, (Commit, Checkpoint))
    )
    cluster.propose(b"one")
    cluster.lost = lambda _s, _r, _e: True
    cluster.event(1, Pending(True))
    cluster.pass_time(2_000)
    assert (cluster[1].replica.active, cluster[1].payloads) == (False, [])

    for sender in (2, 3):
        cluster.inject(sender, 1, Commit(0, 1, ONE))
        cluster.inject(sender, 1, Checkpoint(1, cluster[2].header(1)))

    assert cluster[1].payloads == [b"one"]
    assert stable(cluster, 1).height == 1


def test_a_view_change_names_the_stable_checkpoint_and_its_proof() -> None:
    """4.4: n and C, a quorum's checkpoints for it."""
    cluster = Cluster()
    cluster.propose(b"one", b"two")
    cluster.lost = lambda _s, _r, _e: True

    cluster.event(1, Pending(True))
    cluster.pass_time(2_500)

    (message,) = said(cluster, 1, ViewChange)
    assert isinstance(message, ViewChange)
    assert message.stable == stable(cluster, 1)
    assert message.prepared == ()


def test_a_view_change_carries_a_certificate_for_everything_prepared() -> None:
    """4.4: P has for each prepared request the pre-prepare and 2f matching prepares."""
    cluster = quiet()
    for n, payload in ((1, b"one"), (3, b"two")):
        cluster.inject(0, 1, PrePrepare(0, n, payload_digest(payload)), payload)
        cluster.inject(2, 1, Prepare(0, n, payload_digest(payload)))
    cluster.inject(0, 1, PrePrepare(0, 2, ONE), b"one")  # accepted, not prepared

    cluster.pass_time(2_000)

    (message,) = said(cluster, 1, ViewChange)
    assert isinstance(message, ViewChange)
    assert [certificate.sequence for certificate in message.prepared] == [1, 3]
    assert all(len(certificate.votes) == 3 for certificate in message.prepared)
    assert {envelope.payload for envelope in cluster.sent_by(1, ViewChange)} == {None}


def test_a_view_change_carries_the_newest_certificate_of_a_number() -> None:
    """BFT-PK: a replica keeps of each number the certificate of the last view that prepared it."""
    cluster = quiet()
    cluster.inject(0, 3, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(2, 3, Prepare(0, 1, ONE))
    claims = asked(ViewChange(1, None, (prepared(0, 1, b"one"),)))
    cluster.inject(1, 3, new_view(1, claims, [PrePrepare(1, 1, ONE)]))

    cluster.inject(0, 3, Prepare(1, 1, ONE))
    for sender in (0, 1):
        cluster.inject(sender, 3, ViewChange(2, None, ()))

    message = said(cluster, 3, ViewChange)[-1]
    assert isinstance(message, ViewChange)
    assert [(proof.view, proof.digest) for proof in message.prepared] == [(1, ONE)]


@pytest.mark.parametrize("n", range(4, 17))
def test_the_new_view_holds_a_quorum_of_view_changes(n: int) -> None:
    """4.4: 2f valid view changes from others and its own; then it orders in the view."""
    cluster = quiet(n)
    quorum = cluster.validators.quorum
    for sender in range(2, quorum):
        cluster.inject(sender, 1, EMPTY)
    assert said(cluster, 1, NewView) == []

    cluster.inject(quorum, 1, EMPTY)

    (message,) = said(cluster, 1, NewView)
    assert isinstance(message, NewView)
    assert len(message.view_changes) == quorum
    assert "v01" in {item.sender for item in message.view_changes}
    assert cluster[1].replica.may_propose


def test_the_newest_certificate_decides_what_is_proposed_again() -> None:
    """4.4: of several for a number, the digest prepared in the highest view."""
    cluster = quiet()
    older = prepared(0, 1, b"one", (0, 1, 2))
    newer = prepared(1, 1, b"two", (0, 1, 3))
    for sender, certificate in ((0, older), (1, newer), (3, older)):
        cluster.inject(sender, 2, ViewChange(2, None, (certificate,)))
    for digest, payload in ((TWO, b"two"), (ONE, b"one")):
        cluster.inject(1, 2, PayloadReply(digest), payload)

    assert proposals(cluster, 2) == [PrePrepare(2, 1, TWO)]


def test_proposals_reach_from_the_newest_checkpoint_to_the_highest_number_prepared() -> None:
    """4.4: min-s and max-s; what lies at or below min-s is never ordered again."""
    cluster = Cluster()
    cluster.propose(b"one", b"two")
    cluster.lost = lambda _s, _r, _e: True
    newest = stable(cluster, 0)
    claims = (prepared(0, 3, b"three", (0, 2, 3)),)
    cluster.inject(0, 1, ViewChange(1, newest, claims))
    cluster.inject(2, 1, ViewChange(1, None, (prepared(0, 1, b"one", (0, 2, 3)),)))

    cluster.inject(0, 1, PayloadReply(THREE), b"three")

    assert proposals(cluster, 1) == [PrePrepare(1, 3, THREE)]
    assert cluster[1].replica.next_sequence == 4


def test_the_new_primary_fills_gaps_with_null_requests() -> None:
    """4.4: for a number that no certificate names it proposes the null request: an empty block."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: (
        isinstance(envelope.body, PrePrepare) and envelope.body.sequence == 1
    )
    cluster.propose(b"one", b"two")
    cluster.kill(0)
    cluster.lost = lambda _s, _r, _e: False

    cluster.wait_for(requests=True)
    cluster.pass_time(2_500)

    assert proposals(cluster, 1) == [PrePrepare(1, 1, NULL_DIGEST), PrePrepare(1, 2, TWO)]
    assert cluster[2].payloads[:2] == [b"", b"two"]


def test_the_new_primary_takes_over_a_newer_stable_checkpoint() -> None:
    """4.4: it orders above min-s, though it has not got so far itself, and logs its proposals."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, _e: receiver == "v01"
    cluster.propose(b"one", b"two")
    cluster.lost = lambda _s, _r, _e: True
    newest = stable(cluster, 0)
    for sender in (0, 2, 3):
        cluster.inject(sender, 1, ViewChange(1, newest, ()))

    assert cluster[1].replica.executed == 0
    assert cluster[1].replica.next_sequence == 3
    assert said(cluster, 1, NewView)[0] in [
        entry.envelope.body for entry in cluster[1].entries() if hasattr(entry, "envelope")
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [PrePrepare(1, 1, TWO)],
        [PrePrepare(1, 1, NULL_DIGEST)],
        [PrePrepare(1, 1, ONE), PrePrepare(1, 2, NULL_DIGEST)],
        [PrePrepare(1, 2, ONE)],
    ],
)
def test_a_backup_computes_the_same_proposals_or_refuses_the_view(wrong: list[PrePrepare]) -> None:
    """4.4: it checks O by computing it from V, and a lying primary starts nothing."""
    claims = asked(ViewChange(1, None, (prepared(0, 1, b"one"),)))
    cluster = quiet()

    cluster.inject(1, 3, new_view(1, claims, wrong))
    assert (cluster[3].replica.view, said(cluster, 3, Prepare)) == (0, [])

    cluster.inject(1, 3, new_view(1, claims, [PrePrepare(1, 1, ONE)]))
    assert (cluster[3].replica.view, cluster[3].replica.active) == (1, True)


def test_a_backup_prepares_each_proposal_of_the_new_view() -> None:
    """4.4: it logs them, multicasts a prepare for each one, and is in the view."""
    cluster = quiet()
    for n, payload in ((1, b"one"), (2, b"two")):
        cluster.inject(0, 3, PrePrepare(0, n, payload_digest(payload)), payload)
    certificates = (prepared(0, 1, b"one"), prepared(0, 2, b"two"))
    message = new_view(
        1,
        asked(ViewChange(1, None, certificates)),
        [PrePrepare(1, 1, ONE), PrePrepare(1, 2, TWO)],
    )

    cluster.inject(1, 3, message)

    assert said(cluster, 3, Prepare)[2:] == [Prepare(1, 1, ONE), Prepare(1, 2, TWO)]
    assert message in [
        entry.envelope.body for entry in cluster[3].entries() if hasattr(entry, "envelope")
    ]


def test_what_was_executed_is_ordered_again_and_is_not_executed_again() -> None:
    """4.4: the numbers between min-s and max-s run through the phases once more."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, envelope: isinstance(envelope.body, Checkpoint)
    cluster.propose(b"one")
    cluster.kill(0)

    cluster.wait_for(requests=True)
    cluster.pass_time(2_500)
    cluster.propose(b"two")

    assert Commit(1, 1, ONE) in said(cluster, 2, Commit)
    assert [node.payloads for node in cluster.nodes[1:]] == [[b"one", b"two"]] * 3


def test_a_missing_payload_is_fetched_from_who_has_prepared_it() -> None:
    """4.4: requests do not travel in the new view; who lacks one gets it from another replica."""
    cluster = quiet()
    claims = asked(ViewChange(1, None, (prepared(0, 1, b"one"),)))
    cluster.inject(1, 3, new_view(1, claims, [PrePrepare(1, 1, ONE)]))
    assert said(cluster, 3, Prepare) == []

    requests = cluster.sent_by(3, PayloadRequest)
    cluster.inject(1, 3, PayloadReply(ONE), b"one")

    assert [envelope.body for envelope in requests] == [PayloadRequest(ONE)]
    assert said(cluster, 3, Prepare) == [Prepare(1, 1, ONE)]


def test_a_missing_checkpoint_is_caught_up_from_those_who_have_it() -> None:
    """4.4: f + 1 without fault have signed it, so it is to be had."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, _e: receiver == "v03"
    cluster.propose(b"one", b"two")
    cluster.kill(0)
    cluster.lost = lambda _s, _r, _e: False

    cluster.wait_for(requests=True)
    cluster.pass_time(4_000)
    cluster.propose(b"three")
    cluster.pass_time(1_000)

    assert cluster[3].payloads == [b"one", b"two", b"three"]


def test_no_block_changes_when_the_primary_dies_in_the_middle() -> None:
    """4.5.1: what committed anywhere keeps its number in every later view."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, envelope: (
        isinstance(envelope.body, Commit) and receiver != "v03"
    )
    cluster.propose(b"one", b"two")
    assert (cluster[3].payloads, cluster[1].payloads) == ([b"one", b"two"], [])
    cluster.kill(0)
    cluster.lost = lambda _s, _r, _e: False

    cluster.wait_for(requests=True)
    cluster.pass_time(4_000)

    assert [node.payloads[:2] for node in cluster.nodes[1:]] == [[b"one", b"two"]] * 3
    assert cluster[1].header(1) == execute(cluster[1].header(0), 1, b"one")


def test_what_one_replica_committed_survives_several_views_without_it() -> None:
    """4.5.1: each quorum of view changes has one that was prepared, in whatever view."""
    cluster = Cluster()
    cluster.lost = lambda _s, receiver, envelope: (
        isinstance(envelope.body, Commit) and receiver != "v03"
    )
    cluster.propose(b"one")
    cluster.lost = lambda sender, receiver, envelope: (
        "v03" in (sender, receiver) or isinstance(envelope.body, Commit)
    )
    for i in (0, 1, 2):
        cluster.event(i, Pending(True))
    cluster.pass_time(40_000)
    assert cluster[1].replica.view >= 3

    cluster.lost = lambda sender, receiver, _e: "v03" in (sender, receiver)
    cluster.pass_time(60_000)
    cluster.event(cluster.leader(), Propose(b"two"))
    cluster.run()

    assert [node.payloads[0] for node in cluster.nodes] == [b"one"] * 4
    proofs = [e for node in cluster.nodes for e in node.entries()]
    assert {e.digest for e in proofs if isinstance(e, PreparedCertificate) and e.sequence == 1} <= {
        ONE
    }
