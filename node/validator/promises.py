"""Own votes that come back from others, which the journal should know.

A home put back from a copy looks sound to itself. But what it signed since has gone into
certificates, and they come back when it catches up: a vote of ours that the journal lacks proves
that it is older than its key, and the key must not vote again (besu-eth/besu#8307).
"""

from collections.abc import Sequence

from consensus.journal import Entry, Said
from consensus.message import Checkpoint, Commit, CommitCertificate, Envelope
from node.validator.journal import newest_stable
from vm.certificate import CheckpointCertificate, Vote


class Promises:
    """The commits and checkpoints that one replica has said, as far as they can still come back.

    Certificates up to the newest stable checkpoint of the journal tell nothing: what was said below
    it is forgotten for good. Nor do commits of earlier views, for the same reason.
    """

    def __init__(self, me: str, entries: Sequence[Entry]) -> None:
        self._me = me
        self._known = newest_stable(entries)
        self._commits: set[tuple[int, int, int]] = set()  # epoch, view, sequence
        self._checkpoints: set[int] = set()
        for entry in entries:
            self.remember(entry)

    def remember(self, entry: Entry) -> None:
        """Take in what is written to the journal."""
        match entry:
            case Said(Envelope(sender=self._me, epoch=epoch, body=Commit(view, sequence))):
                self._commits.add((epoch, view, sequence))
            case Said(Envelope(sender=self._me, body=Checkpoint(height))):
                self._checkpoints.add(height)

    def knows_commit(self, epoch: int, view: int, certificate: CommitCertificate) -> bool:
        """Whether our vote in this certificate, if there is one, was said by us in `epoch`.

        `view` is the one that the replica is in.
        """
        height = certificate.sequence
        if height <= self._known or certificate.view < view or not self._voted(certificate.votes):
            return True
        return (epoch, certificate.view, height) in self._commits

    def knows_checkpoint(self, certificate: CheckpointCertificate) -> bool:
        """The same of a checkpoint certificate; what lies below it need not be known any more."""
        height = certificate.height
        known = (
            height <= self._known
            or not self._voted(certificate.votes)
            or height in self._checkpoints
        )
        self._commits = {slot for slot in self._commits if slot[2] > height}
        self._checkpoints = {item for item in self._checkpoints if item > height}
        self._known = max(self._known, height)
        return known

    def _voted(self, votes: Sequence[Vote]) -> bool:
        return any(vote.validator == self._me for vote in votes)
