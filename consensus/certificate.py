"""Verification of the signatures that lie inside messages, each statement once."""

from consensus.epochs import base_of
from consensus.message import (
    CommitCertificate,
    PreparedCertificate,
    SignedPrePrepare,
    SignedViewChange,
    commit_digest,
    prepare_digest,
    signing_digest,
)
from vm import keys
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest, verify_votes
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import Digest, Signature

REMEMBERED_MAX = 4_096  # verified statements; a new view at n = 16 with a full window cites 704


class Verifier:
    """Checks certificates of one epoch of one chain; every method raises `Refused`.

    A view change is verified when it comes and again inside the new view, and the certificates in
    different view changes are often the same: what has verified is remembered, the oldest dropped.
    """

    def __init__(self, chain: Digest, epoch: Epoch) -> None:
        self.validators = epoch.validators
        self.base = base_of(epoch)
        self._chain = chain
        self._epoch = epoch.number
        self._verified: dict[tuple[Digest, tuple[Vote, ...]], None] = {}

    def prepared(self, certificate: PreparedCertificate) -> None:
        """A quorum, the primary of its view in it, agreed to the assignment."""
        view, sequence, payload = certificate.view, certificate.sequence, certificate.digest
        primary = self.validators.primary(view).id
        if all(vote.validator != primary for vote in certificate.votes):
            raise Refused(
                "certificate.no_pre_prepare", f"expected the vote of {primary}, primary of {view}"
            )
        digest = prepare_digest(self._chain, self._epoch, view, sequence, payload)
        self._votes(certificate.votes, digest)

    def committed(self, certificate: CommitCertificate) -> None:
        """A quorum prepared the assignment in one view."""
        view, sequence, payload = certificate.view, certificate.sequence, certificate.digest
        digest = commit_digest(self._chain, self._epoch, view, sequence, payload)
        self._votes(certificate.votes, digest)

    def checkpoint(self, certificate: CheckpointCertificate) -> None:
        """A quorum executed the height with this header."""
        digest = checkpoint_digest(self._chain, certificate.height, certificate.header)
        self._votes(certificate.votes, digest)

    def signed(self, sender: str, item: SignedViewChange | SignedPrePrepare) -> None:
        """`sender` signed this part of a NewView."""
        digest = signing_digest(self._chain, self._epoch, item.message)
        votes = (Vote(sender, item.signature),)
        if (digest, votes) in self._verified:
            return
        self._check_signature(sender, digest, item.signature)
        self._remember(digest, votes)

    def _check_signature(self, sender: str, digest: Digest, signature: Signature) -> None:
        seat = self.validators.get(sender)
        if seat is None or seat.suspended or not keys.verify(seat.key, digest, signature):
            raise Refused("certificate.bad_signature", f"expected {sender}'s signature")

    def _votes(self, votes: tuple[Vote, ...], digest: Digest) -> None:
        if (digest, votes) not in self._verified:
            verify_votes(votes, digest, self.validators)
            self._remember(digest, votes)

    def _remember(self, digest: Digest, votes: tuple[Vote, ...]) -> None:
        if len(self._verified) >= REMEMBERED_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[digest, votes] = None
