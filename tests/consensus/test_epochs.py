"""Epochs: validators come, go and change keys, and no vote of one set counts in another."""

from dataclasses import replace
from itertools import pairwise

import pytest

from consensus.certificate import Verifier
from consensus.event import Certified, Persist, Received, Turned
from consensus.journal import Section
from consensus.message import (
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
    is_signed,
    payload_digest,
)
from consensus.replica import GUESTS_MAX
from consensus.viewchange import verify_new_view
from tests.consensus.certificates import change, new_view
from tests.consensus.cluster import signed
from tests.consensus.node import CHAIN, ROTATED, elected, genesis_epoch, seats
from tests.consensus.turning import (
    FIVE,
    LAST,
    WINDOW,
    agreed,
    cluster_of,
    digest_of,
    fill,
    numbers,
)
from vm.refusal import Refused


def test_a_change_rules_a_window_after_the_block_that_made_it() -> None:
    """Executed at h, in force from h + window + 1: the old set orders and certifies up to there."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW - 1)
    before = numbers(cluster)

    fill(cluster, 1, "last")
    fill(cluster, 1, "first")

    assert before == [0] * 5
    assert numbers(cluster) == [1] * 5
    assert len(agreed(cluster)) == LAST + 1
    stable = cluster[4].disk.certificates[LAST]
    assert {vote.validator for vote in stable.votes} <= {"v00", "v01", "v02", "v03"}
    assert cluster[0].replica.epoch.first == LAST + 1
    assert cluster.sent_by(4, Commit)[-1].epoch == 1


def test_ordering_passes_the_end_of_an_epoch_only_once_that_is_certified() -> None:
    """The high watermark stays at the last height until its checkpoint is stable."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW - 1)
    cluster.lost = lambda _s, _r, e: isinstance(e.body, Checkpoint)

    fill(cluster, 1, "last")
    held = [node.replica.may_propose for node in cluster.nodes]
    cluster.lost = lambda _s, _r, _e: False
    cluster.pass_time(1_000)

    assert held == [False] * 5
    assert [node.replica.may_propose for node in cluster.nodes] == [True] + [False] * 4
    assert numbers(cluster) == [1] * 5


def test_the_certificate_of_the_last_height_is_told_before_the_turn() -> None:
    """The shell's store has what lets others follow, before anything of the next epoch."""
    cluster = cluster_of(4)
    seen: list[object] = []
    cluster.watch = lambda node, effects: seen.extend(effects if node.index == 1 else ())

    cluster.propose(seats(0, 1, 2, "3+"))
    fill(cluster, WINDOW)

    heights = [e.certificate.height if isinstance(e, Certified) else e for e in seen]
    turned = Turned(cluster[1].replica.epoch)
    at = heights.index(turned)
    assert LAST in heights[:at]
    assert heights[at + 1] == Persist(Section(1))
    assert cluster[1].turns == [cluster[1].replica.epoch]


@pytest.mark.parametrize("kind", [PrePrepare, Prepare, Commit, ViewChange])
def test_a_signed_message_of_another_epoch_is_dropped(kind: type[Body]) -> None:
    """Neither a vote kept from the past nor one for the future counts (INDY-2319, A11)."""
    cluster = cluster_of(4)
    cluster.propose(seats(0, 1, 2, "3+"))
    fill(cluster, WINDOW)
    cluster.lost = lambda _s, _r, _e: True
    one = payload_digest(b"one")
    bodies: dict[type[Body], Body] = {
        PrePrepare: PrePrepare(0, LAST + 1, one),
        Prepare: Prepare(0, LAST + 1, one),
        Commit: Commit(0, LAST + 1, one),
        ViewChange: ViewChange(1, None, ()),
    }
    before = cluster[1].replica.entries()

    for epoch in (0, 2, 2**53):
        payload = b"one" if kind is PrePrepare else None
        cluster.event(1, Received(signed(0, bodies[kind], payload, epoch)))

    assert cluster[1].replica.entries() == before
    assert cluster[1].replica._pbft.ordering.empty
    assert not cluster[1].replica._pbft._views._heard
    assert cluster[1].rejected == []


def test_a_joiner_observes_until_it_has_a_seat_and_then_votes() -> None:
    """It follows the chain without a word that is signed."""
    cluster = cluster_of(5)
    fill(cluster, 3)
    cluster.pass_time(1_000)
    joined = len(cluster[4].payloads)

    cluster.propose(FIVE)
    fill(cluster, WINDOW)
    silent = [e for s, _, e in cluster.sent if s == "v04" and is_signed(e.body)]
    fill(cluster, 2)

    assert joined == 3
    assert silent == []
    assert cluster[4].replica.voting
    assert cluster.sent_by(4, Prepare)
    assert cluster.sent_by(4, Checkpoint)


def test_a_validator_that_leaves_turns_with_the_others_and_observes() -> None:
    """Its seat is gone, and so is its vote; the rest go on without it."""
    cluster = cluster_of(5, seated=5)
    cluster.propose(seats(0, 1, 2, 3))
    fill(cluster, WINDOW)
    said = len([e for s, _, e in cluster.sent if s == "v04" and is_signed(e.body)])

    fill(cluster, 3)

    assert numbers(cluster) == [1] * 5
    assert not cluster[4].replica.voting
    assert len([e for s, _, e in cluster.sent if s == "v04" and is_signed(e.body)]) == said
    assert len(agreed(cluster)) == LAST + 3
    cluster.event(1, Received(signed(4, Prepare(0, LAST + 4, bytes(32)), epoch=1)))
    assert cluster[1].rejected[-1].code == "consensus.unknown_sender"


def test_a_validator_signs_with_the_key_that_its_seat_has_in_the_epoch() -> None:
    """The signer is asked anew at each turn; without that key the replica observes."""
    cluster = cluster_of(5, seated=5)
    del cluster[4].keys[ROTATED[4].public]
    cluster.propose(seats(0, 1, 2, "3+", "4+"))
    fill(cluster, WINDOW + 1)

    assert cluster[3].replica.voting
    assert not cluster[4].replica.voting
    commit = cluster.sent_by(3, Commit)[-1]
    assert commit.seal == ROTATED[3].sign(digest_of(commit.epoch, commit.body))
    assert len(agreed(cluster)) == LAST + 1


def test_a_suspended_seat_never_leads_and_its_votes_are_refused() -> None:
    """It counts in n until it is replaced, and nowhere else."""
    cluster = cluster_of(7, seated=7)
    cluster.propose(seats("0!", 1, 2, 3, 4, 5, 6))
    fill(cluster, WINDOW)

    fill(cluster, 2)
    cluster.event(1, Received(signed(0, Prepare(0, LAST + 3, bytes(32)), epoch=1)))

    assert cluster[0].replica.epoch.validators.n == 7
    assert {node.replica.primary for node in cluster.nodes} == {"v01"}
    assert not cluster[0].replica.voting
    assert cluster[1].rejected[-1].code == "consensus.suspended"
    assert len(agreed(cluster)) == LAST + 2


def test_views_pass_over_a_suspended_seat() -> None:
    """Also when the timer has run out: the primary of each view is one of those who vote."""
    cluster = cluster_of(7, seated=7)
    cluster.propose(seats(0, "1!", 2, 3, 4, 5, 6))
    fill(cluster, WINDOW)
    cluster.kill(0)

    cluster.wait_for(requests=True)
    cluster.pass_time(3_000)

    assert {n.replica.primary for n in cluster.nodes[1:]} == {"v02"}
    fill(cluster, 1)
    assert len(agreed(cluster)) == LAST + 1


def test_several_epochs_pass_in_a_row_each_a_block_long() -> None:
    """Changes in consecutive blocks make epochs of one block, and each turns."""
    cluster = cluster_of(6)
    cluster.propose(seats(0, 1, 2, 3, 4), seats(0, 1, 2, 3, 4, 5), seats(1, 2, 3, 4, 5))

    fill(cluster, WINDOW + 2)

    assert numbers(cluster) == [3] * 6
    firsts = [epoch.first for epoch in cluster[0].turns]
    assert [b - a for a, b in pairwise(firsts)] == [1, 1]
    assert len(agreed(cluster)) == 3 + WINDOW + 2


@pytest.mark.parametrize("lost", [Checkpoint, Commit])
def test_who_missed_the_end_of_an_epoch_follows_the_others(lost: type[Body]) -> None:
    """All others have turned; the last certificate reaches it by a status, or with blocks."""
    for more in (0, 1, 3 * WINDOW):
        cluster = cluster_of(5)
        cluster.propose(FIVE)
        fill(cluster, WINDOW - 1)
        cluster.lost = lambda _s, r, e: r == "v03" and isinstance(e.body, lost | Status)
        fill(cluster, 1, "last")
        fill(cluster, more, "more")
        cluster.lost = lambda _s, r, e: r == "v03" and isinstance(e.body, lost) and not e.epoch
        assert numbers(cluster) == [1, 1, 1, 0, 1]

        cluster.pass_time(5_000)

        assert numbers(cluster) == [1] * 5
        assert len(agreed(cluster)) == LAST + more == len(cluster[3].payloads)
        assert cluster[3].replica.stable is not None


def test_what_was_said_before_a_replica_turned_is_said_to_it_again() -> None:
    """Half of them turn late and drop the first proposal; the primary keeps its place."""
    cluster = cluster_of(4)
    cluster.propose(seats(0, 1, 2, "3+"))
    fill(cluster, WINDOW - 1)
    late = ("v02", "v03")
    cluster.lost = lambda _s, r, e: r in late and isinstance(e.body, Checkpoint | Status)
    fill(cluster, 1, "last")
    before = numbers(cluster)
    cluster.wait_for(requests=True)
    fill(cluster, 1, "first")
    cluster.lost = lambda _s, _r, _e: False

    cluster.pass_time(1_900)

    assert before == [1, 1, 0, 0]
    assert numbers(cluster) == [1] * 4
    assert [len(node.payloads) for node in cluster.nodes] == [LAST + 1] * 4
    assert {node.replica.view for node in cluster.nodes} == {0}


def test_a_view_change_of_a_suspended_seat_supports_no_new_view() -> None:
    """Whoever puts it among the others has one too few."""
    validators = elected(seats("0!", 1, 2, 3, 4, 5, 6))
    assert validators is not None
    verifier = Verifier(CHAIN, genesis_epoch(validators))

    def lead(*senders: int) -> NewView:
        return new_view(1, (change(i, ViewChange(1, None, ())) for i in senders), signer=2)

    verify_new_view(lead(1, 2, 3, 4, 5), verifier, WINDOW)
    with pytest.raises(Refused, match=r"certificate\.bad_signature"):
        verify_new_view(lead(0, 1, 2, 3, 4), verifier, WINDOW)


def test_blocks_of_an_epoch_without_the_certificate_before_it_are_a_start() -> None:
    """The store kept what was executed, and a crash took the certificates: it is in the epoch."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW + 2)
    node = cluster[1]
    node.disk.journal.clear()
    node.crash(blocks=LAST + 2)
    assert (len(node.payloads), node.disk.stable) == (LAST + 2, None)

    cluster.up[node.name] = True
    cluster.apply(node, node.recover())
    cluster.pass_time(2_000)
    fill(cluster, 2, "after")

    assert numbers(cluster) == [1] * 5
    assert {len(n.payloads) for n in cluster.nodes} == {LAST + 4}


def test_who_was_away_catches_up_across_several_epochs() -> None:
    """Each answer holds blocks of one epoch, and the certificate with which that one began."""
    cluster = cluster_of(7)
    cluster.kill(3)
    cluster.propose(FIVE)
    fill(cluster, 2 * WINDOW, "a")
    cluster.propose(seats(0, 1, 2, 3, 4, 5), seats(0, 1, 2, 3, 4, 5, 6), seats(0, 2, 3, 4, 5, 6))
    fill(cluster, 3 * WINDOW, "b")
    before = numbers(cluster)

    cluster.restart(3)
    cluster.pass_time(10_000)
    fill(cluster, 1, "end")

    assert before[3] == 0
    assert numbers(cluster) == [4] * 7
    assert len(cluster[3].payloads) == len(agreed(cluster))
    assert cluster[3].replica.stable is not None
    assert cluster[3].replica.stable.height == len(agreed(cluster))
    for _, receiver, envelope in cluster.sent:
        if receiver == "v03" and isinstance(envelope.body, BlockReply):
            blocks = envelope.body.blocks
            epochs = {cluster[0].epoch_at(b.certificate.sequence).number for b in blocks}
            assert len(epochs) <= 1
            assert len(blocks) <= WINDOW


def test_the_primary_of_the_first_view_of_an_epoch_may_be_down() -> None:
    """Views start anew with the epoch, and the view timer runs in it as in every view."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW - 1)
    cluster.lost = lambda s, _r, e: s == "v00" and e.epoch == 1
    cluster.wait_for(requests=True)
    fill(cluster, 1, "last")
    cluster.kill(0)

    cluster.pass_time(4_000)
    fill(cluster, 2, "new")

    assert [node.replica.view for node in cluster.nodes[1:]] == [1] * 4
    assert numbers(cluster)[1:] == [1] * 4
    assert len(agreed(cluster)) == LAST + 2


def test_a_view_change_right_after_a_turn_needs_no_certificate_of_the_old_set() -> None:
    """Everybody in the epoch has the checkpoint before it, which other validators signed."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW)
    cluster.kill(0)
    cluster.wait_for(requests=True)

    cluster.pass_time(4_000)

    changes = [e.body for _, _, e in cluster.sent if isinstance(e.body, ViewChange)]
    assert {change.stable for change in changes} == {None}
    (new_view,) = {e.body for _, _, e in cluster.sent if isinstance(e.body, NewView)}
    assert new_view.pre_prepares == ()
    fill(cluster, 1)
    assert len(agreed(cluster)) == LAST + 1


def test_an_observer_enters_views_and_delivers_without_a_word() -> None:
    """It follows a view change by the NewView alone."""
    cluster = cluster_of(5)
    cluster.kill(0)
    cluster.wait_for(requests=True)
    cluster.pass_time(4_000)

    fill(cluster, 2)

    assert cluster[4].replica.view == 1
    assert len(cluster[4].payloads) == 2
    assert [e for s, _, e in cluster.sent if s == "v04" and is_signed(e.body)] == []


def test_an_epoch_is_passed_in_one_round_trip() -> None:
    """The certificate in an answer makes its blocks, which are the next epoch's, readable."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW - 1)
    cluster.lost = lambda _s, r, _e: r == "v03"
    fill(cluster, 3, "last")
    node = cluster[0]
    blocks = tuple(node.disk.store[i][0] for i in range(WINDOW, LAST))
    cluster.event(3, Received(signed(0, BlockReply(None, blocks), epoch=1)))
    assert (len(cluster[3].payloads), cluster[3].replica.epoch.number) == (LAST, 0)

    next_one = (node.disk.store[LAST][0],)
    reply = BlockReply(node.disk.certificates[LAST], next_one)
    cluster.event(3, Received(signed(0, reply, epoch=1)))

    assert (len(cluster[3].payloads), cluster[3].replica.epoch.number) == (LAST + 1, 1)


def test_peers_without_a_seat_are_heard_and_answered_up_to_a_bound() -> None:
    """Observers and joiners fetch blocks; a crowd of them takes no more than so much."""
    cluster = cluster_of(4)
    fill(cluster, 2)
    before = len(cluster.sent)

    for i in range(GUESTS_MAX + 20):
        guest, request = f"guest-{i:03}", signed(1, BlockRequest(1))
        effects = cluster[0].step(Received(replace(request, sender=guest)))
        assert len(effects) == (i < GUESTS_MAX)

    assert len(cluster.sent) == before
    assert len(cluster[0].replica._guests) == GUESTS_MAX
