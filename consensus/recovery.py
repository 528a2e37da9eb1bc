"""The journal as a replica finds it when it starts: sections, each written in one epoch."""

from collections.abc import Iterator, Sequence

from consensus.checkpoint import Checkpoints
from consensus.journal import Entry, Held, Said, Section
from consensus.message import (
    NULL_DIGEST,
    Block,
    Checkpoint,
    CommitCertificate,
    Envelope,
    NewView,
    PreparedCertificate,
    ViewChange,
    payload_digest,
)
from consensus.ordering import Ordering
from consensus.outbox import Outbox
from consensus.viewchange import ViewChanges


class Recollection:
    """Entries by epoch, until the replica is in that epoch.

    Most often a journal ends in the epoch in which its store is. It may be ahead: by a turn that
    the store has lost, or by everything if the store was given up and the chain is fetched again.
    What was promised in an epoch binds again once the replica is back there. Before that it says
    nothing: of epochs that the journal has left behind it no longer knows what it promised.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.open: int | None = None  # the epoch to which the next entry in the file would belong
        self.newest = 0  # the newest epoch in which we may have promised something
        self._sections: dict[int, list[Entry]] = {}
        for entry in entries:
            if isinstance(entry, Section):
                self.open = entry.epoch
                self.newest = max(self.newest, entry.epoch)
            else:
                assert self.open is not None, "expected a section before the first entry"
                self._sections.setdefault(self.open, []).append(entry)

    def take(self, epoch: int) -> list[Entry]:
        """The entries of an epoch that has begun; those of earlier ones are forgotten."""
        taken = self._sections.get(epoch, [])
        self._sections = {n: kept for n, kept in self._sections.items() if n > epoch}
        return taken

    def entries(self) -> Iterator[Entry]:
        """What a fresh journal must hold of epochs to come."""
        for number, entries in sorted(self._sections.items()):
            yield Section(number)
            yield from entries


def recall(
    entries: Sequence[Entry],
    outbox: Outbox,
    checkpoints: Checkpoints,
    ordering: Ordering,
    views: ViewChanges,
) -> dict[int, Block]:
    """Hand each entry back to its part; by height, the decided blocks with their payloads."""
    payloads = {NULL_DIGEST: b""}
    decided: list[CommitCertificate] = []
    for entry in entries:
        match entry:
            case Said(envelope):
                if envelope.sender == outbox.me:
                    outbox.recall(envelope)
                _recall_message(envelope, checkpoints, ordering, views)
            case Held(sequence, payload):
                payloads[payload_digest(payload)] = payload
                ordering.payloads.hold(payload, sequence)
            case PreparedCertificate():
                ordering.recall_certificate(entry)
            case CommitCertificate():
                decided.append(entry)
                ordering.recall_certificate(entry)
    return {  # of the rest the payload had yet to come
        proof.sequence: Block(payloads[proof.digest], proof)
        for proof in decided
        if proof.digest in payloads
    }


def _recall_message(
    envelope: Envelope, checkpoints: Checkpoints, ordering: Ordering, views: ViewChanges
) -> None:
    match envelope.body:
        case ViewChange() as body:
            views.recall_view_change(envelope, body)
        case NewView() as body:
            views.recall_new_view(envelope, body)
        case Checkpoint(height, header):
            checkpoints.recall(height, header)
            checkpoints.vote(envelope.sender, height, header, envelope.seal)
        case _:
            ordering.recall(envelope)
