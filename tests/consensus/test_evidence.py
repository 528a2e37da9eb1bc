"""Evidence that replicas make of messages, and what an accuser may try to make of others."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from consensus.event import Limits
from consensus.message import (
    Body,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PrePrepare,
    SignedPrePrepare,
    ViewChange,
    content_of,
    payload_digest,
    slot_of,
)
from consensus.window import window_max
from tests.consensus.certificates import change, checkpoint, new_view, prepared
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import (
    CHAIN,
    KEYS,
    PROTOCOL,
    ROTATED,
    elected,
    genesis_epoch,
    seats,
    validator_set,
)
from vm.certificate import checkpoint_digest
from vm.evidence import Evidence, SignedContent, judge
from vm.quorum import Epoch, Validator, quorum
from vm.refusal import Refused
from vm.shape import pack
from vm.transaction import BODY_BYTES_MAX

ONE, TWO = payload_digest(b"one"), payload_digest(b"two")
ROTATION = elected(seats(0, 1, 2, "3+"))
assert ROTATION is not None
EPOCHS = {0: genesis_epoch(validator_set(4)), 1: Epoch(1, 10, PROTOCOL, ROTATION)}
LEAD = NewView(1, (), ())
LED = NewView(1, (), (SignedPrePrepare(PrePrepare(1, 1, ONE), bytes(64)),))


def accuse(first: Envelope, second: Envelope) -> Validator:
    """What a court that knows epochs 0 and 1 says to one who found these two messages.

    Sender, epoch and slot are named once, so they are those of the first.
    """
    slot = slot_of(first.body)
    assert slot is not None
    said = (SignedContent(content_of(item.body), item.seal) for item in (first, second))
    evidence = Evidence(first.sender, first.epoch, slot, *said)
    return judge(CHAIN, EPOCHS[first.epoch].validators, evidence)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Prepare(0, 1, ONE), Prepare(0, 1, TWO)),
        (PrePrepare(0, 1, ONE), PrePrepare(0, 1, TWO)),
        (PrePrepare(0, 1, ONE), Prepare(0, 1, TWO)),
        (Commit(3, 1, ONE), Commit(3, 1, TWO)),
        (Checkpoint(1, ONE), Checkpoint(1, TWO)),
        (ViewChange(1, None, ()), ViewChange(1, None, (prepared(0, 1, b"one"),))),
        (ViewChange(1, None, ()), ViewChange(1, checkpoint(1, ONE), ())),
        (LEAD, LED),
    ],
    ids=lambda body: body.TAG,
)
def test_two_messages_for_one_slot_convict_their_sender(first: Body, second: Body) -> None:
    """In either order; a primary's proposal is its vote, so it is one slot with a prepare."""
    for pair in ((first, second), (second, first)):
        assert accuse(signed(3, pair[0]), signed(3, pair[1])) == EPOCHS[0].validators.get("v03")


SAME = Prepare(0, 1, ONE)
INNOCENT: dict[str, tuple[Callable[[], tuple[Envelope, Envelope]], str]] = {
    "retransmission": (lambda: (signed(1, SAME), signed(1, SAME)), "equal"),
    "its proposal and its vote for the same": (
        lambda: (signed(0, PrePrepare(0, 1, ONE)), signed(0, Prepare(0, 1, ONE))),
        "equal",
    ),
    "one proposal with two payloads": (
        lambda: (
            signed(0, PrePrepare(0, 1, ONE), b"one"),
            signed(0, PrePrepare(0, 1, ONE), b"two"),
        ),
        "equal",
    ),
    "one view change twice": (
        lambda: (signed(1, ViewChange(1, None, ())), signed(1, ViewChange(1, None, ()))),
        "equal",
    ),
    "two epochs": (
        lambda: (signed(1, SAME), signed(1, Prepare(0, 1, TWO), epoch=1)),
        "signature",
    ),
    "two views": (lambda: (signed(1, SAME), signed(1, Prepare(1, 1, TWO))), "signature"),
    "two numbers": (lambda: (signed(1, SAME), signed(1, Prepare(0, 2, TWO))), "signature"),
    "two kinds": (lambda: (signed(1, SAME), signed(1, Commit(0, 1, TWO))), "signature"),
    "two heights": (
        lambda: (signed(1, Checkpoint(1, ONE)), signed(1, Checkpoint(2, TWO))),
        "signature",
    ),
    "a view change and a new view": (
        lambda: (signed(1, ViewChange(1, None, ())), signed(1, LEAD)),
        "signature",
    ),
    "two views asked for": (
        lambda: (signed(1, ViewChange(1, None, ())), signed(1, ViewChange(2, None, ()))),
        "signature",
    ),
    "two senders": (lambda: (signed(1, SAME), signed(2, Prepare(0, 1, TWO))), "signature"),
    "a statement of another epoch, moved": (
        lambda: (signed(1, SAME), replace(signed(1, Prepare(0, 1, TWO), epoch=1), epoch=0)),
        "signature",
    ),
    "its old key in an epoch in which it has a new one": (
        lambda: (
            signed(3, Prepare(0, 10, ONE), epoch=1),
            signed(3, Prepare(0, 10, TWO), epoch=1),
        ),
        "signature",
    ),
    "who has no seat": (lambda: (signed(4, SAME), signed(4, Prepare(0, 1, TWO))), "seat"),
}


@pytest.mark.parametrize("why", INNOCENT)
def test_what_is_no_proof_convicts_nobody(why: str) -> None:
    """An accuser who could make proof would suspend whomever it likes."""
    pair, code = INNOCENT[why]

    for first, second in (pair(), pair()[::-1]):
        with pytest.raises(Refused) as caught:
            accuse(first, second)
        assert caught.value.code == f"evidence.{code}"


def test_who_changed_its_key_is_convicted_by_the_key_of_the_epoch() -> None:
    """The seat that comes back is the one of that time, so its old key is what is recorded."""
    bodies = (Checkpoint(10, ONE), Checkpoint(10, TWO))
    before = [signed(3, body) for body in bodies]

    assert accuse(*before).key == KEYS[3].public
    with pytest.raises(Refused, match=r"evidence\.signature"):
        accuse(*(replace(envelope, epoch=1) for envelope in before))
    seals = [ROTATED[3].sign(checkpoint_digest(CHAIN, 10, body.header)) for body in bodies]
    after = [Envelope("v03", 1, b, s, None) for b, s in zip(bodies, seals, strict=True)]
    assert accuse(*after).key == ROTATED[3].public


def test_what_a_replica_accuses_of_convicts() -> None:
    """Evidence that is given out holds before the court, of every kind that can be caught."""
    cases: list[tuple[Body, Body]] = [
        (Prepare(0, 1, ONE), Prepare(0, 1, TWO)),
        (Commit(0, 1, ONE), Commit(0, 1, TWO)),
        (Checkpoint(1, ONE), Checkpoint(1, TWO)),
        (ViewChange(2, None, ()), ViewChange(2, checkpoint(1, ONE), ())),
    ]
    for pair in cases:
        cluster = Cluster()
        cluster.lost = lambda _s, _r, _e: True

        for body in (*pair, *pair):
            cluster.inject(3, 0, body)

        (evidence,) = cluster[0].faults
        assert evidence.slot == slot_of(pair[0])
        assert judge(CHAIN, cluster.validators, evidence).id == "v03"


def test_evidence_of_the_largest_new_views_fits_a_transaction() -> None:
    """The attack: to lie in messages so large that no block could hold both."""
    n, window = 16, window_max(16)
    cluster = Cluster(n, Limits(window=window))
    cluster.lost = lambda _s, _r, _e: True
    payloads = [b"payload %d" % number for number in range(1, window + 1)]
    certificates = tuple(
        prepared(0, number, payload, range(quorum(n))) for number, payload in enumerate(payloads, 1)
    )
    proposals = [PrePrepare(1, item.sequence, item.digest) for item in certificates]
    asked = [change(sender, ViewChange(1, None, certificates)) for sender in range(n)]
    views = [new_view(1, chosen, proposals) for chosen in (asked[: quorum(n)], asked[-quorum(n) :])]
    assert min(len(pack(view)) for view in views) > BODY_BYTES_MAX

    for view in views:
        cluster.inject(1, 3, view)

    assert cluster[3].replica.view == 1
    (evidence,) = cluster[3].faults
    assert judge(CHAIN, cluster.validators, evidence).id == "v01"
    assert len(pack(evidence)) < BODY_BYTES_MAX
