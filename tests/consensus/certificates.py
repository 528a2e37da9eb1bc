"""Certificates and view changes that tests make with the validators' own keys."""

from collections.abc import Iterable

from consensus.message import (
    CommitCertificate,
    NewView,
    PreparedCertificate,
    PrePrepare,
    SignedPrePrepare,
    SignedViewChange,
    ViewChange,
    commit_digest,
    payload_digest,
    prepare_digest,
)
from tests.consensus.cluster import signed
from tests.consensus.node import CHAIN, KEYS
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest


def votes(signers: Iterable[int], digest: bytes) -> tuple[Vote, ...]:
    """The votes of these validators, in the order given."""
    return tuple(Vote(f"v{i:02}", KEYS[i].sign(digest)) for i in signers)


def prepared(
    view: int, sequence: int, payload: bytes, signers: Iterable[int] = (0, 1, 2)
) -> PreparedCertificate:
    """A certificate that `payload` was prepared."""
    digest = payload_digest(payload)
    signature = prepare_digest(CHAIN, 0, view, sequence, digest)
    return PreparedCertificate(view, sequence, digest, votes(signers, signature))


def committed(
    view: int, sequence: int, payload: bytes, signers: Iterable[int] = (0, 1, 2)
) -> CommitCertificate:
    """A certificate that `payload` was committed."""
    digest = payload_digest(payload)
    signature = commit_digest(CHAIN, 0, view, sequence, digest)
    return CommitCertificate(view, sequence, digest, votes(signers, signature))


def checkpoint(
    height: int, header: bytes, signers: Iterable[int] = (0, 1, 2)
) -> CheckpointCertificate:
    """A certificate that `header` was executed."""
    return CheckpointCertificate(
        height, header, votes(signers, checkpoint_digest(CHAIN, height, header))
    )


def change(sender: int, message: ViewChange) -> SignedViewChange:
    """A view change as its sender signed it."""
    return SignedViewChange(f"v{sender:02}", message, signed(sender, message).seal)


def new_view(
    view: int,
    changes: Iterable[SignedViewChange],
    proposals: Iterable[PrePrepare] = (),
    signer: int | None = None,
) -> NewView:
    """A new view with proposals signed by its primary of four, or by `signer`."""
    primary = view % 4 if signer is None else signer
    return NewView(
        view,
        tuple(changes),
        tuple(SignedPrePrepare(item, signed(primary, item).seal) for item in proposals),
    )
