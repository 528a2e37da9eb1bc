"""Judging evidence: two statements that a validator without fault never signs both.

A validator signs one content for each slot of an epoch, whatever happens to it. So two different
ones with its signature prove that it is faulty, to anybody who knows the validators of the epoch.
Nothing else is proof: not how often a message came, nor who brought it. That both are of one
validator, epoch and slot needs no check, for evidence names each of them once.
"""

from dataclasses import dataclass
from typing import ClassVar

from vm import keys
from vm.quorum import Validator, ValidatorSet
from vm.refusal import Refused
from vm.shape import Count, Digest, Name, Signature
from vm.statement import Slot, statement_digest


@dataclass(frozen=True, slots=True)
class SignedContent:
    """What was said for a slot, as its sender signed it."""

    VERSION: ClassVar[int] = 1

    content: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class Evidence:
    """Body of `validator.fault`: two contents that a validator signed for one slot of an epoch."""

    VERSION: ClassVar[int] = 1

    validator: Name
    epoch: Count
    slot: Slot
    first: SignedContent
    second: SignedContent


def judge(chain: Digest, validators: ValidatorSet, evidence: Evidence) -> Validator:
    """The seat that signed both contents; `validators` are those of the epoch of `evidence`.

    Raises `Refused` with `evidence.seat`, `.equal` or `.signature` for what proves nothing. The
    signatures of a checkpoint cover neither epoch nor view: whichever the accuser names, they hold
    only if the seat has there the key that has signed two headers of one height.
    """
    seat = validators.get(evidence.validator)
    if seat is None:
        raise Refused(
            "evidence.seat",
            f"expected a validator of epoch {evidence.epoch}, found {evidence.validator}",
        )
    if evidence.first.content == evidence.second.content:
        raise Refused("evidence.equal", "expected two contents for one slot, found one")
    for said in (evidence.first, evidence.second):
        digest = statement_digest(chain, evidence.epoch, evidence.slot, said.content)
        if not keys.verify(seat.key, digest, said.signature):
            raise Refused(
                "evidence.signature", f"expected two signatures of {seat.id}, found another"
            )
    return seat
