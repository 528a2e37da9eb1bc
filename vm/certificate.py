"""Checkpoint certificates: what a quorum signs about a height, and how anybody checks it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm import digest, keys
from vm.encoding import encode
from vm.quorum import VALIDATORS_MAX, ValidatorSet
from vm.refusal import Refused
from vm.shape import Digest, Height, Many, Name, Signature


@dataclass(frozen=True, slots=True)
class Vote:
    """One validator's signature; over what, the certificate that holds it says."""

    VERSION: ClassVar[int] = 1

    validator: Name
    signature: Signature


@dataclass(frozen=True, slots=True)
class CheckpointCertificate:
    """A quorum of votes that the header at `height` has digest `header`."""

    VERSION: ClassVar[int] = 1

    height: Height
    header: Digest
    votes: Annotated[tuple[Vote, ...], Many(VALIDATORS_MAX)]


def checkpoint_digest(chain: Digest, height: int, header: Digest) -> Digest:
    """The 32 bytes that a Checkpoint message signs."""
    return digest.digest(digest.CHECKPOINT, encode((chain, height, header)))


def verify_votes(votes: tuple[Vote, ...], message: Digest, validators: ValidatorSet) -> None:
    """Check that a quorum of distinct validators signed `message`.

    Raises `Refused` with `certificate.no_quorum`, `.unknown_validator`, `.suspended`,
    `.duplicate_signer` or `.bad_signature`. Votes stand in order of validator id, so that a set of
    votes has one encoding.
    """
    if len(votes) < validators.quorum:
        raise Refused(
            "certificate.no_quorum",
            f"expected at least {validators.quorum} votes, found {len(votes)}",
        )
    previous = ""
    for vote in votes:
        seat = validators.get(vote.validator)
        if seat is None:
            raise Refused(
                "certificate.unknown_validator",
                f"expected a validator of this height, found {vote.validator}",
            )
        if seat.suspended:
            raise Refused(
                "certificate.suspended",
                f"expected seats that may vote, found {vote.validator}, which is suspended",
            )
        if vote.validator <= previous:
            raise Refused(
                "certificate.duplicate_signer",
                f"expected distinct votes in order of id, found {vote.validator} after {previous}",
            )
        previous = vote.validator
        if not keys.verify(seat.key, message, vote.signature):
            raise Refused(
                "certificate.bad_signature",
                f"expected {vote.validator}'s signature, found one that does not verify",
            )


def verify_checkpoint(
    certificate: CheckpointCertificate, chain: Digest, validators: ValidatorSet
) -> None:
    """Check a certificate against the validators of its height; raises as `verify_votes`."""
    message = checkpoint_digest(chain, certificate.height, certificate.header)
    verify_votes(certificate.votes, message, validators)
