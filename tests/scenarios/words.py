"""How messages read in a script: `commit 0/3 two` is a commit in view 0 for height 3 of "two".

A header is called by its height, `h3`; a second header of that height is `h3'`.
"""

from collections.abc import Iterable, Sequence

from consensus.complaints import HOLLOWNESS, SLOWNESS
from consensus.journal import Entry, Held, Said, Section, Stable
from consensus.message import (
    NULL_DIGEST,
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    CommitCertificate,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Status,
    ViewChange,
    payload_digest,
)
from vm.certificate import CheckpointCertificate, Vote
from vm.digest import digest
from vm.evidence import Evidence
from vm.statement import SlotKind


class Names:
    """What digests are called."""

    def __init__(self) -> None:
        self._payloads: dict[bytes, str] = {
            NULL_DIGEST: "null",
            SLOWNESS: "slowness",
            HOLLOWNESS: "hollowness",
        }
        self._headers: dict[bytes, str] = {}
        self._by_name: dict[str, bytes] = {}

    def payload(self, word: str) -> bytes:
        """The bytes that a script calls so."""
        data = b"" if word == "null" else word.encode()
        self._payloads[payload_digest(data)] = word
        return data

    def register(self, data: bytes) -> bytes:
        """A payload that reads as it is, such as a choice of seats."""
        self._payloads[payload_digest(data)] = data.decode()
        return data

    def digest(self, word: str) -> bytes:
        """The digest of the payload that a script calls so."""
        return payload_digest(self.payload(word))

    def header(self, word: str) -> bytes:
        """The header digest of this name; a name that is new stands for one that nobody has."""
        if word not in self._by_name:
            self._name(digest("test.header.v1", word.encode()), word)
        return self._by_name[word]

    def meet(self, height: int, header: bytes) -> None:
        """Give a header a name when a node executes it."""
        if header not in self._headers:
            word = f"h{height}"
            while word in self._by_name:
                word += "'"
            self._name(header, word)

    def _name(self, header: bytes, word: str) -> None:
        self._headers[header] = word
        self._by_name[word] = header

    # What a digest is called

    def of(self, payload: bytes) -> str:
        """What the payload of this digest is called."""
        return self._payloads.get(payload, payload.hex()[:8])

    def of_header(self, header: bytes) -> str:
        """What this header is called."""
        return self._headers.get(header, header.hex()[:8])

    # What is said

    def body(self, body: Body) -> str:
        """A message in words."""
        match body:
            case PrePrepare(view, height, payload) | Prepare(view, height, payload):
                said = f"{view}/{height} {self.of(payload)}"
            case Commit(view, height, payload):
                said = f"{view}/{height} {self.of(payload)}"
            case Checkpoint(_, header):
                said = self.of_header(header)
            case ViewChange(view, stable, prepared):
                said = self._view_change(view, stable, prepared)
            case NewView():
                said = self._new_view(body)
            case Status():
                said = self._status(body)
            case PayloadRequest(payload) | PayloadReply(payload):
                said = self.of(payload)
            case BlockRequest(first):
                said = f"from {first}"
            case BlockReply():
                heights = (str(block.certificate.sequence) for block in body.blocks)
                said = " ".join(heights) or "nothing"
        return f"{body.TAG} {said}"

    def entry(self, entry: Entry) -> str:
        """A journal entry in words."""
        match entry:
            case Said(envelope):
                return f"{self.body(envelope.body)} of {envelope.sender}"
            case Held(sequence, payload):
                return f"payload {self.of(payload_digest(payload))} for {sequence}"
            case Stable(certificate):
                return f"stable {self.certificate(certificate)}"
            case Section(epoch):
                return f"section of epoch {epoch}"
            case PreparedCertificate() | CommitCertificate():
                return f"{entry.TAG} {self.proof(entry)}"

    def proof(self, proof: PreparedCertificate | CommitCertificate) -> str:
        """A certificate of agreement in words."""
        return f"{proof.view}/{proof.sequence} {self.of(proof.digest)} by {voters(proof.votes)}"

    def certificate(self, certificate: CheckpointCertificate) -> str:
        """A certified header in words."""
        return f"{self.of_header(certificate.header)} by {voters(certificate.votes)}"

    def evidence(self, evidence: Evidence) -> str:
        """The slot, and what was said for it where that has a name."""
        slot = evidence.slot
        contents = (evidence.first.content, evidence.second.content)
        match slot.kind:
            case SlotKind.PREPARE | SlotKind.COMMIT:
                said = f"{slot.view}/{slot.sequence} {' | '.join(map(self.of, contents))}"
            case SlotKind.CHECKPOINT:
                said = " | ".join(map(self.of_header, contents))
            case SlotKind.VIEW_CHANGE | SlotKind.NEW_VIEW:
                said = f"{slot.view} in two ways"
        return f"{slot.kind.value} {said}"

    def _above(self, stable: CheckpointCertificate | None) -> str:
        return "the start" if stable is None else self.of_header(stable.header)

    def _view_change(
        self,
        view: int,
        stable: CheckpointCertificate | None,
        prepared: Sequence[PreparedCertificate],
    ) -> str:
        proofs = "".join(f", prepared {self.proof(proof)}" for proof in prepared)
        return f"{view} above {self._above(stable)}{proofs}"

    def _new_view(self, body: NewView) -> str:
        changes = body.view_changes
        who = " ".join(change.sender for change in changes)
        proposals = (
            f", {item.message.sequence} {self.of(item.message.digest)}"
            for item in body.pre_prepares
        )
        return f"{body.view} by {who}{''.join(proposals)}"

    def _status(self, body: Status) -> str:
        state = "in" if body.active else "asking for"
        accepted = "".join(f" {height}" for height in body.accepted)
        complaints = "".join(f" {self.of(complaint)}" for complaint in body.complaints)
        return (
            f"{state} view {body.view}, executed {body.executed}, stable {self._above(body.stable)}"
            f"{', accepted' + accepted if accepted else ''}"
            f"{', complains of' + complaints if complaints else ''}"
        )


def voters(votes: Iterable[Vote]) -> str:
    """Who voted."""
    return " ".join(vote.validator for vote in votes)
