"""Messages: their bytes, their bounds and what their signatures cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.message import (
    BLOCKS_MAX,
    ENVELOPE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    WINDOW_MAX,
    Block,
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
    decode_envelope,
    encode_envelope,
    is_signed,
    payload_digest,
    signing_digest,
    slot_of,
)
from tests.consensus.certificates import change, checkpoint, committed, new_view, prepared
from tests.consensus.cluster import signed
from tests.consensus.node import CHAIN
from vm.refusal import Refused
from vm.statement import Slot, SlotKind

ONE = payload_digest(b"one")
CHANGE = ViewChange(1, checkpoint(3, b"\1" * 32), (prepared(0, 4, b"one"),))
BODIES: tuple[Body, ...] = (
    PrePrepare(1, 2, ONE),
    Prepare(1, 2, ONE),
    Commit(1, 2, ONE),
    Checkpoint(2, ONE),
    CHANGE,
    new_view(1, (change(0, CHANGE),), (PrePrepare(1, 4, ONE),)),
    Status(1, True, 3, None, (4, 6), (), False),
    PayloadRequest(ONE),
    PayloadReply(ONE),
    BlockRequest(3),
    BlockReply(None, (Block(b"one", committed(0, 1, b"one")),)),
)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.TAG)
def test_every_message_comes_back_from_its_bytes(body: Body) -> None:
    """Decoding is the inverse of encoding."""
    envelope = signed(1, body, b"payload")

    assert decode_envelope(encode_envelope(envelope)) == envelope


def test_no_two_kinds_of_message_share_a_signature_but_the_two_prepare_votes() -> None:
    """A signature for one kind, slot, chain or epoch is worth nothing for another."""
    signing = [body for body in BODIES if is_signed(body)]
    digests = [signing_digest(CHAIN, 0, body) for body in signing]
    other_chain = [signing_digest(bytes(32), 0, body) for body in signing]
    other_epoch = [signing_digest(CHAIN, 1, body) for body in signing]

    assert digests[0] == digests[1]  # a pre-prepare carries the primary's prepare vote
    assert len(set(digests[1:] + other_chain[1:])) == 2 * len(digests[1:])
    equal = {b.TAG for b, d, e in zip(signing, digests, other_epoch, strict=True) if d == e}
    assert equal == {Checkpoint.TAG}  # whose height belongs to one epoch


def test_slots_are_kind_view_and_number() -> None:
    """A correct replica signs one message for each, and transfer has none."""
    for vote in (PrePrepare(1, 2, ONE), Prepare(1, 2, ONE)):
        assert slot_of(vote) == Slot(SlotKind.PREPARE, 1, 2)
    assert slot_of(Commit(1, 2, ONE)) == Slot(SlotKind.COMMIT, 1, 2)
    assert slot_of(Checkpoint(2, ONE)) == Slot(SlotKind.CHECKPOINT, 0, 2)
    assert slot_of(CHANGE) == Slot(SlotKind.VIEW_CHANGE, 1, 0)
    assert [slot_of(body) for body in BODIES[6:]] == [None] * 5


def test_a_full_payload_travels_and_a_larger_one_does_not() -> None:
    """4 MiB, with or without a certificate beside it."""
    full = b"x" * PAYLOAD_BYTES_MAX
    envelope = signed(1, BlockReply(None, (Block(full, committed(0, 1, b"x")),)))

    assert decode_envelope(encode_envelope(envelope)) == envelope
    larger = encode_envelope(signed(1, PayloadReply(ONE), full))
    grown = larger.replace((PAYLOAD_BYTES_MAX).to_bytes(4, "big"), b"\x00\x40\x00\x01") + b"x"
    with pytest.raises(Refused, match=r"shape\.bytes"):
        decode_envelope(grown)
    with pytest.raises(Refused, match=r"encoding\.too_large"):
        decode_envelope(bytes(ENVELOPE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "body",
    [
        Status(0, True, 0, None, tuple(range(WINDOW_MAX)), (), False),
        ViewChange(1, None, (prepared(0, 1, b"one"),) * WINDOW_MAX),
        BlockReply(None, (Block(b"", committed(0, 1, b"")),) * BLOCKS_MAX),
    ],
    ids=lambda body: body.TAG,
)
def test_a_list_of_the_greatest_length_travels_and_a_longer_one_does_not(body: Body) -> None:
    """Every list is bounded before its items are read."""
    envelope = signed(1, body)
    data = encode_envelope(envelope)
    assert decode_envelope(data) == envelope

    at = data.index(b"\xdc\x00\x40")  # array of 64
    item_end = len(data) - len(data[at + 3 :])
    longer = data[:at] + b"\xdc\x00\x41" + _first_item(body) + data[item_end:]

    with pytest.raises(Refused, match=r"shape\.length"):
        decode_envelope(longer)


@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    """No input makes the decoder raise anything else."""
    with pytest.raises(Refused):
        decode_envelope(data)


def test_an_envelope_has_a_signature_of_64_bytes() -> None:
    """A missing or short one is a malformed message."""
    data = encode_envelope(Envelope("v00", 0, Prepare(0, 1, ONE), bytes(64), None))

    with pytest.raises(Refused):
        decode_envelope(data.replace(b"\xc4\x40" + bytes(64), b"\xc4\x3f" + bytes(63)))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.TAG)
def test_what_promises_is_signed_and_transfer_is_not(body: Body) -> None:
    """A missing signature, or one that nobody would check, is a malformed message."""
    wrong = None if is_signed(body) else bytes(64)

    with pytest.raises(Refused, match=r"envelope\.signature"):
        Envelope("v00", 0, body, wrong, None)


def _first_item(body: Body) -> bytes:
    """The bytes of one list item of a body above."""
    from vm.shape import pack

    match body:
        case ViewChange(prepared=items):
            return pack(items[0])
        case BlockReply(blocks=blocks):
            return pack(blocks[0])
    return b"\x00"
