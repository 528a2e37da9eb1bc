"""Judging evidence: two messages that a replica without fault never signs both.

A replica signs one message for each slot of an epoch, whatever happens to it (`slot_of`). So two
different ones with its signature prove that it is faulty, to anybody who knows the validators of
their epoch. Nothing else is proof: not how often a message came, who brought it, or what a
PrePrepare brought along.
"""

from collections.abc import Callable

from consensus.message import Envelope, is_signed, signing_digest, slot_of
from vm import keys
from vm.quorum import Epoch, Validator
from vm.refusal import Refused
from vm.shape import Digest, unpack


def judge(
    chain: Digest, epoch: Callable[[int], Epoch | None], first: bytes, second: bytes
) -> Validator:
    """The seat that signed both packed envelopes, in their epoch.

    `epoch(number)` gives an epoch of this chain. Raises `Refused("evidence.*")` for what proves
    nothing. Of two Checkpoints the signatures do not cover the epoch: whichever one the accuser
    names, they hold only if its seat has the key that has signed two headers of one height.
    """
    one, other = _read(first), _read(second)
    if (one.sender, one.epoch, slot_of(one.body)) != (
        other.sender,
        other.epoch,
        slot_of(other.body),
    ):
        raise Refused("evidence.slot", "expected two messages of one sender for one slot")
    digests = [signing_digest(chain, item.epoch, item.body) for item in (one, other)]
    if digests[0] == digests[1]:
        raise Refused("evidence.equal", "expected two statements, found one")
    ruling = epoch(one.epoch)
    if ruling is None:
        raise Refused("evidence.epoch", f"expected an epoch of this chain, found {one.epoch}")
    seat = ruling.validators.get(one.sender)
    if seat is None:
        raise Refused("evidence.seat", f"expected a validator of epoch {one.epoch}")
    for item, digest in zip((one, other), digests, strict=True):
        if not keys.verify(seat.key, digest, item.seal):
            raise Refused("evidence.signature", f"expected two signatures of {seat.id}")
    return seat


def _read(data: bytes) -> Envelope:
    try:
        envelope = unpack(Envelope, data)
    except Refused as refused:
        raise Refused("evidence.malformed", "expected a packed envelope") from refused
    if not is_signed(envelope.body):
        raise Refused("evidence.unsigned", f"expected a promise, found a {envelope.body.TAG}")
    if envelope.payload is not None:
        raise Refused("evidence.payload", "expected no payload beside a message")
    return envelope
