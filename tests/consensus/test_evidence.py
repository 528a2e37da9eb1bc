"""Evidence: what proves a fault to anybody, and the many things that look like it and do not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from consensus.evidence import judge
from consensus.message import (
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    PayloadRequest,
    Prepare,
    PrePrepare,
    SignedPrePrepare,
    Status,
    ViewChange,
    encode_envelope,
    payload_digest,
)
from tests.consensus.certificates import checkpoint, prepared
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
from vm.quorum import Epoch, Validator
from vm.refusal import Refused

ONE, TWO = payload_digest(b"one"), payload_digest(b"two")
ROTATION = elected(seats(0, 1, 2, "3+"))
assert ROTATION is not None
EPOCHS = {0: genesis_epoch(validator_set(4)), 1: Epoch(1, 10, PROTOCOL, ROTATION)}
LEAD = NewView(1, (), ())
LED = NewView(1, (), (SignedPrePrepare(PrePrepare(1, 1, ONE), bytes(64)),))


def accuse(first: Envelope, second: Envelope) -> Validator:
    """What a court that knows epochs 0 and 1 says to two envelopes."""
    return judge(CHAIN, EPOCHS.get, encode_envelope(first), encode_envelope(second))


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
def test_two_statements_for_one_slot_convict_their_sender(first: Body, second: Body) -> None:
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
    "two epochs": (
        lambda: (signed(1, SAME), signed(1, Prepare(0, 1, TWO), epoch=1)),
        "slot",
    ),
    "two views": (lambda: (signed(1, SAME), signed(1, Prepare(1, 1, TWO))), "slot"),
    "two numbers": (lambda: (signed(1, SAME), signed(1, Prepare(0, 2, TWO))), "slot"),
    "two kinds": (lambda: (signed(1, SAME), signed(1, Commit(0, 1, TWO))), "slot"),
    "two heights": (
        lambda: (signed(1, Checkpoint(1, ONE)), signed(1, Checkpoint(2, TWO))),
        "slot",
    ),
    "two senders": (lambda: (signed(1, SAME), signed(2, Prepare(0, 1, TWO))), "slot"),
    "another's statement in its name": (
        lambda: (signed(1, SAME), replace(signed(2, Prepare(0, 1, TWO)), sender="v01")),
        "signature",
    ),
    "a statement of another epoch, moved": (
        lambda: (signed(1, SAME), replace(signed(1, Prepare(0, 1, TWO), epoch=1), epoch=0)),
        "signature",
    ),
    "a signature of nothing": (
        lambda: (signed(1, SAME), replace(signed(1, Prepare(0, 1, TWO)), signature=bytes(64))),
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
    "an epoch that is not": (
        lambda: (signed(1, SAME, epoch=2), signed(1, Prepare(0, 1, TWO), epoch=2)),
        "epoch",
    ),
    "a payload beside it": (
        lambda: (
            signed(0, PrePrepare(0, 1, ONE), b"one"),
            signed(0, PrePrepare(0, 1, TWO), b"two"),
        ),
        "payload",
    ),
    "one proposal with two payloads": (
        lambda: (
            signed(0, PrePrepare(0, 1, ONE), b"one"),
            signed(0, PrePrepare(0, 1, ONE), b"two"),
        ),
        "payload",
    ),
    "two requests": (lambda: (signed(1, BlockRequest(1)), signed(1, BlockRequest(2))), "unsigned"),
    "two statuses": (
        lambda: (
            signed(1, Status(0, True, 1, None, (), (), True)),
            signed(1, Status(0, True, 2, None, (), (), True)),
        ),
        "unsigned",
    ),
    "two answers": (
        lambda: (signed(1, BlockReply(None, ())), signed(1, PayloadRequest(ONE))),
        "unsigned",
    ),
}


@pytest.mark.parametrize("why", INNOCENT)
def test_what_is_no_proof_convicts_nobody(why: str) -> None:
    """An accuser who could make proof would suspend whomever it likes."""
    pair, code = INNOCENT[why]

    for first, second in (pair(), pair()[::-1]):
        with pytest.raises(Refused) as caught:
            accuse(first, second)
        assert caught.value.code == f"evidence.{code}"


@pytest.mark.parametrize("data", [b"", b"\xc0", encode_envelope(signed(1, SAME))[:-1], bytes(99)])
def test_bytes_that_are_no_envelope_prove_nothing(data: bytes) -> None:
    """The court reads what anybody may bring."""
    good = encode_envelope(signed(1, SAME))

    for pair in ((data, good), (good, data)):
        with pytest.raises(Refused, match=r"evidence\.malformed"):
            judge(CHAIN, EPOCHS.get, *pair)


def test_who_changed_its_key_is_convicted_by_the_key_of_the_epoch() -> None:
    """The seat that comes back is the one of that time, so its old key is what is recorded."""
    bodies = (Checkpoint(10, ONE), Checkpoint(10, TWO))
    before = [signed(3, body) for body in bodies]

    assert accuse(*before).key == KEYS[3].public
    with pytest.raises(Refused, match=r"evidence\.signature"):
        accuse(*(replace(envelope, epoch=1) for envelope in before))
    seals = [ROTATED[3].sign(_header(body)) for body in bodies]
    after = [Envelope("v03", 1, b, s, None) for b, s in zip(bodies, seals, strict=True)]
    assert accuse(*after).key == ROTATED[3].public


def test_what_a_replica_accuses_of_convicts() -> None:
    """Evidence that is given out holds before the court, of every kind that can be caught."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    for kind in (Prepare, Commit):
        cluster.inject(3, 0 if kind is Prepare else 1, kind(0, 1, ONE))
        cluster.inject(3, 0 if kind is Prepare else 1, kind(0, 1, TWO))
    for header in (ONE, TWO):
        cluster.inject(3, 2, Checkpoint(1, header))

    for node in cluster.nodes[:3]:
        (evidence,) = node.faults
        assert accuse(evidence.first, evidence.second).id == "v03"


def _header(body: Checkpoint) -> bytes:
    return checkpoint_digest(CHAIN, body.height, body.header)
