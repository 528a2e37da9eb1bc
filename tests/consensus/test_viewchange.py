"""View changes: the choice of proposals, and what a lying new primary or replica can try."""

from dataclasses import replace

import pytest

from consensus.certificate import Verifier
from consensus.event import Pending, Propose
from consensus.message import (
    NULL_DIGEST,
    Block,
    BlockReply,
    Commit,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    SignedPrePrepare,
    SignedViewChange,
    Status,
    ViewChange,
    content_of,
    payload_digest,
)
from consensus.viewchange import plan, verify_new_view, verify_view_change
from tests.consensus.certificates import change, checkpoint, committed, new_view, prepared
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import CHAIN, GENESIS_HEADER, execute, genesis_epoch, validator_set
from vm.refusal import Refused
from vm.statement import Slot, SlotKind

ONE = payload_digest(b"one")
TWO = payload_digest(b"two")
WINDOW = 8
EMPTY = ViewChange(1, None, ())


def verifier() -> Verifier:
    """A fresh verifier for four validators."""
    return Verifier(CHAIN, genesis_epoch(validator_set(4)))


def three(*messages: ViewChange) -> tuple[SignedViewChange, ...]:
    """Signed view changes of v00, v01, ... to view 1, filled up with empty ones."""
    filled = [*messages, EMPTY, EMPTY, EMPTY][:3]
    return tuple(change(i, message) for i, message in enumerate(filled))


def test_the_certificate_of_the_highest_view_decides_a_number() -> None:
    """A payload that was prepared later wins over one prepared earlier, whoever comes first."""
    older, newer = prepared(1, 1, b"one", (1, 2, 3)), prepared(2, 1, b"two", (0, 2, 3))
    for first, second in ((older, newer), (newer, older)):
        changes = three(ViewChange(3, None, (first,)), ViewChange(3, None, (second,)))

        chosen = plan(3, changes, 0)

        assert chosen.proposals == (PrePrepare(3, 1, TWO),)
        assert chosen.holders == {1: ("v00", "v02", "v03")}


def test_the_view_starts_above_the_newest_stable_checkpoint_of_all_view_changes() -> None:
    """A1 (fabric#1111): the choice uses the full set, not those that share a checkpoint."""
    stable = checkpoint(5, b"\1" * 32)
    changes = three(
        ViewChange(1, None, (prepared(0, 3, b"one"), prepared(0, 7, b"two"))),
        ViewChange(1, stable, ()),
    )

    chosen = plan(1, changes, 0)

    assert chosen.base == 5
    assert chosen.proposals == (PrePrepare(1, 6, NULL_DIGEST), PrePrepare(1, 7, TWO))


def test_a_view_change_with_honest_certificates_is_valid() -> None:
    """Certificates above the stable checkpoint and within the window, in order."""
    message = ViewChange(
        2, checkpoint(3, b"\1" * 32), (prepared(0, 4, b"one"), prepared(1, 11, b"two"))
    )

    verify_view_change(message, verifier(), WINDOW)


GOOD = prepared(0, 1, b"one")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (ViewChange(1, None, (prepared(0, 1, b"one", (0, 1)),)), "certificate.no_quorum"),
        (ViewChange(1, None, (prepared(0, 1, b"one", (1, 2, 3)),)), "certificate.no_pre_prepare"),
        (ViewChange(1, None, (replace(GOOD, digest=TWO),)), "certificate.bad_signature"),
        (ViewChange(1, None, (replace(GOOD, sequence=2),)), "certificate.bad_signature"),
        (
            ViewChange(1, None, (replace(GOOD, votes=GOOD.votes[:2] + GOOD.votes[1:2]),)),
            "certificate.duplicate_signer",
        ),
        (
            ViewChange(1, None, (replace(GOOD, votes=prepared(0, 1, b"one", (0, 1, 5)).votes),)),
            "certificate.unknown_validator",
        ),
        (ViewChange(1, None, (GOOD, GOOD)), "consensus.bad_view_change"),
        (ViewChange(1, None, (prepared(0, 2, b"one"), GOOD)), "consensus.bad_view_change"),
        (ViewChange(1, None, (prepared(0, 9, b"one"),)), "consensus.bad_view_change"),
        (ViewChange(1, None, (prepared(1, 1, b"one"),)), "consensus.bad_view_change"),
        (ViewChange(1, checkpoint(1, b"\1" * 32), (GOOD,)), "consensus.bad_view_change"),
        (ViewChange(1, checkpoint(1, b"\1" * 32, (0, 1)), ()), "certificate.no_quorum"),
    ],
)
def test_a_view_change_that_claims_what_is_not_proven_is_refused(
    message: ViewChange, code: str
) -> None:
    """A forged, short, doubled, unordered, out-of-window or future certificate proves nothing."""
    with pytest.raises(Refused) as caught:
        verify_view_change(message, verifier(), WINDOW)

    assert caught.value.code == code


def test_a_refused_view_change_does_not_count_towards_an_early_join() -> None:
    """Two liars of seven and one forger move nobody."""
    cluster = Cluster(7)
    bad = ViewChange(1, None, (prepared(0, 1, b"one", (0, 1)),))

    for sender in (4, 5, 6):
        cluster.inject(sender, 3, bad)

    assert cluster[3].replica.view == 0
    assert {rejected.code for rejected in cluster[3].rejected} == {"certificate.no_quorum"}


CLAIMS = three(ViewChange(1, None, (GOOD,)))
RIGHT = (PrePrepare(1, 1, ONE),)


def test_a_new_view_that_follows_from_its_view_changes_is_valid() -> None:
    """Every backup computes the same proposals."""
    chosen = verify_new_view(new_view(1, CLAIMS, RIGHT), verifier(), WINDOW)

    assert chosen.proposals == RIGHT


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (new_view(1, CLAIMS[:2], RIGHT), "consensus.bad_new_view"),
        (new_view(1, (*CLAIMS[:2], CLAIMS[1]), RIGHT), "consensus.bad_new_view"),
        (new_view(1, CLAIMS[::-1], RIGHT), "consensus.bad_new_view"),
        (new_view(1, CLAIMS, ()), "consensus.bad_new_view"),
        (new_view(1, CLAIMS, (PrePrepare(1, 1, TWO),)), "consensus.bad_new_view"),
        (new_view(1, CLAIMS, (PrePrepare(1, 1, NULL_DIGEST),)), "consensus.bad_new_view"),
        (new_view(1, CLAIMS, (*RIGHT, PrePrepare(1, 2, TWO))), "consensus.bad_new_view"),
        (new_view(1, CLAIMS, (PrePrepare(0, 1, ONE),)), "consensus.bad_new_view"),
        (
            new_view(1, (*CLAIMS[:2], change(2, ViewChange(2, None, ()))), RIGHT),
            "consensus.bad_new_view",
        ),
        (new_view(1, CLAIMS, RIGHT, signer=2), "certificate.bad_signature"),
        (
            new_view(1, (*CLAIMS[:2], replace(CLAIMS[2], sender="v03")), RIGHT),
            "certificate.bad_signature",
        ),
        (
            new_view(1, (replace(CLAIMS[0], message=EMPTY), *CLAIMS[1:]), ()),
            "certificate.bad_signature",
        ),
    ],
)
def test_a_new_view_that_does_not_follow_is_refused(message: NewView, code: str) -> None:
    """Too few, doubled, unordered, foreign or forged view changes, or other proposals."""
    with pytest.raises(Refused) as caught:
        verify_new_view(message, verifier(), WINDOW)

    assert caught.value.code == code


def test_only_the_primary_of_the_view_may_start_it() -> None:
    """A valid new view from somebody else is refused, and the view stays closed."""
    cluster = Cluster()

    cluster.inject(2, 3, new_view(1, CLAIMS, RIGHT))

    assert cluster[3].rejected[0].code == "consensus.not_primary"
    assert cluster[3].replica.view == 0


def test_two_new_views_for_one_view_are_evidence() -> None:
    """The second is ignored, and both together prove the primary's fault."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    first, second = new_view(1, CLAIMS, RIGHT), new_view(1, three(), ())

    cluster.inject(1, 3, first)
    cluster.inject(1, 3, second)

    (evidence,) = cluster[3].faults
    assert (evidence.validator, evidence.slot) == ("v01", Slot(SlotKind.NEW_VIEW, 1, 0))
    assert evidence.first.content == content_of(first)
    assert evidence.second.content == content_of(second)
    assert cluster[3].replica.active


def test_a_payload_named_by_a_certificate_only_is_fetched_from_primary_and_signers() -> None:
    """A17 (besu#6613): no vote before the payload is here; then the view goes on."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    cluster.inject(1, 3, new_view(1, CLAIMS, RIGHT))
    assert cluster.sent_by(3, Prepare) == []
    assert [(r, e.body) for s, r, e in cluster.sent if isinstance(e.body, PayloadRequest)] == [
        ("v01", PayloadRequest(ONE))
    ]

    cluster.pass_time(1_000)  # the primary stays silent, so the signers are asked in turn
    asked = [r for s, r, e in cluster.sent if isinstance(e.body, PayloadRequest)]
    cluster.inject(1, 3, PayloadReply(ONE), b"two")
    cluster.inject(1, 3, PayloadReply(ONE), b"one")

    assert asked == ["v01", "v01", "v00"]
    assert cluster[3].rejected[-1].code == "consensus.payload_mismatch"
    assert {envelope.body for envelope in cluster.sent_by(3, Prepare)} == {Prepare(1, 1, ONE)}


def test_a_view_change_counts_at_the_new_primary_once_its_payloads_are_there() -> None:
    """It asks the sender of the view change, who prepared them, before it starts the view."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    for sender in (0, 2):
        message = ViewChange(1, None, (prepared(0, 1, b"one", (0, 2, 3)),))
        cluster.inject(sender, 1, message)
    asked = [(r, e.body) for _, r, e in cluster.sent if isinstance(e.body, PayloadRequest)]
    before = cluster.sent_by(1, NewView)

    cluster.inject(0, 1, PayloadReply(ONE), b"one")

    assert asked == [("v00", PayloadRequest(ONE))]
    assert before == []
    assert cluster[1].replica.active
    assert {e.body.view for e in cluster.sent_by(1, NewView) if isinstance(e.body, NewView)} == {1}


def test_a_certificate_whose_payload_nobody_gives_does_not_hold_up_the_view() -> None:
    """Its holder alone knows the bytes and keeps them; the view starts without its view change."""
    cluster = Cluster()
    cluster.kill(3)
    kept = prepared(0, 1, b"kept secret", (0, 1, 3))  # honest voters dropped what never prepared
    cluster.inject(3, 1, ViewChange(1, None, (kept,)))
    cluster.wait_for(requests=True)

    cluster.pass_time(3_000)
    cluster.propose(b"one")

    assert [node.replica.view for node in cluster.nodes[:3]] == [1, 1, 1]
    assert [node.payloads for node in cluster.nodes[:3]] == [[b"one"]] * 3


def test_a_commit_in_a_new_view_needs_a_quorum_of_that_view() -> None:
    """A certificate of an earlier view is carried over as a proposal, not as an agreement."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    cluster.inject(0, 3, PrePrepare(0, 1, ONE), b"one")
    cluster.inject(2, 3, Prepare(0, 1, ONE))

    cluster.inject(1, 3, new_view(1, CLAIMS, RIGHT))

    commits = {envelope.body for envelope in cluster.sent_by(3, Commit)}
    assert commits == {Commit(0, 1, ONE)}
    cluster.inject(2, 3, Prepare(1, 1, ONE))
    assert Commit(1, 1, ONE) in {envelope.body for envelope in cluster.sent_by(3, Commit)}


def test_nothing_is_accepted_in_a_view_before_its_new_view() -> None:
    """The new primary's proposals count only after it has proven its start."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    cluster.event(3, Pending(True))
    cluster.pass_time(2_000)
    assert (cluster[3].replica.view, cluster[3].replica.active) == (1, False)

    before = cluster[3].entries()
    cluster.inject(1, 3, PrePrepare(1, 1, ONE), b"one")

    assert cluster.sent_by(3, Prepare) == []
    assert cluster[3].entries() == before


def test_the_new_primary_goes_on_above_the_proposals_of_its_new_view() -> None:
    """The numbers that the new view fixed are never given away again."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    for sender in (0, 2):
        certificate = prepared(0, 2, b"two", (0, 2, 3))
        cluster.inject(sender, 1, ViewChange(1, None, (certificate,)))
    cluster.inject(0, 1, PayloadReply(TWO), b"two")

    cluster.event(1, Propose(b"three"))

    assert cluster.sent_by(1, PrePrepare)[0].body == PrePrepare(1, 3, payload_digest(b"three"))


def test_proposals_of_a_new_view_above_our_window_wait_for_our_checkpoint() -> None:
    """A replica that lags behind the view's start votes no higher than its own window allows."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    header = GENESIS_HEADER
    for height in range(1, 6):
        header = execute(header, height, b"x")
    stable = checkpoint(5, header)
    changes = three(ViewChange(1, stable, (prepared(0, 9, b""),)))
    proposals = [PrePrepare(1, n, NULL_DIGEST) for n in range(6, 10)]
    cluster.inject(1, 3, new_view(1, changes, proposals))
    first = {e.body.sequence for e in cluster.sent_by(3, Prepare) if isinstance(e.body, Prepare)}

    blocks = tuple(Block(b"x", committed(0, n, b"x")) for n in range(1, 6))
    cluster.inject(1, 3, BlockReply(None, blocks))
    cluster.inject(1, 3, Status(1, True, 5, stable, (), (), True))

    voted = {e.body.sequence for e in cluster.sent_by(3, Prepare) if isinstance(e.body, Prepare)}
    assert first == {6, 7, 8}
    assert voted == {6, 7, 8, 9}


def test_a_proposal_at_a_number_below_the_start_of_the_view_is_refused() -> None:
    """The new view starts above the newest stable checkpoint of its view changes."""
    cluster = Cluster()
    stable = checkpoint(5, b"\1" * 32)
    cluster.lost = lambda _s, _r, _e: True
    changes = three(ViewChange(1, stable, ()))
    cluster.inject(1, 3, new_view(1, changes))

    cluster.inject(1, 3, PrePrepare(1, 4, ONE), b"one")

    assert cluster[3].rejected[-1].code == "consensus.out_of_watermarks"


def test_a_replica_led_into_a_view_by_its_new_view_is_there_after_a_restart() -> None:
    """A view once entered is never left backwards, also without a view change of our own."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    cluster.inject(1, 3, new_view(1, CLAIMS, RIGHT))
    assert cluster.sent_by(3, ViewChange) == []
    cluster[3].sync()

    cluster.kill(3)
    cluster.restart(3)
    cluster.inject(0, 3, PrePrepare(0, 2, TWO), b"two")

    assert (cluster[3].replica.view, cluster[3].replica.active) == (1, True)
    assert cluster.sent_by(3, Prepare) == []


def test_what_the_signature_of_a_certificate_covers_is_the_vote_itself() -> None:
    """A pre-prepare and a prepare for one assignment are one statement; a commit is another."""
    pre_prepare, prepare = PrePrepare(0, 1, ONE), Prepare(0, 1, ONE)

    assert signed(0, pre_prepare).signature == signed(0, prepare).signature
    assert signed(0, pre_prepare).signature != signed(0, Commit(0, 1, ONE)).signature
    assert isinstance(GOOD, PreparedCertificate)
    assert SignedPrePrepare(pre_prepare, signed(0, pre_prepare).seal) in (
        new_view(0, (), (pre_prepare,)).pre_prepares
    )


def test_the_primary_cannot_propose_again_what_its_new_view_fixed() -> None:
    """A second proposal for such a number contradicts the signature in the new view."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    cluster.inject(1, 3, new_view(1, CLAIMS, RIGHT))

    cluster.inject(1, 3, PrePrepare(1, 1, TWO), b"two")

    (evidence,) = cluster[3].faults
    assert evidence.slot == Slot(SlotKind.PREPARE, 1, 1)
    assert (evidence.first.content, evidence.second.content) == (RIGHT[0].digest, TWO)
