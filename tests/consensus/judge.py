"""What must hold after every event of a simulated run, whatever fails."""

from consensus.event import Broadcast, Certified, Deliver, Effect, Fault, Halt, Send
from consensus.message import Envelope, Evidence, Slot, commit_digest, signing_digest, slot_of
from tests.consensus.node import CHAIN, Node
from vm.certificate import CheckpointCertificate, Vote, verify_checkpoint, verify_votes
from vm.keys import verify
from vm.quorum import ValidatorSet
from vm.refusal import Refused


class Violation(AssertionError):  # noqa: N818 - what a run ends in, not a fault of ours
    """A run broke a promise of the protocol."""


class Judge:
    """Watches the honest nodes' effects across crashes and restarts."""

    def __init__(self, validators: ValidatorSet, traitors: list[str]) -> None:
        self.validators = validators
        self.traitors = traitors
        self.decided: dict[int, bytes] = {}  # payload by height
        self.headers: dict[int, bytes] = {}  # certified header by height
        self.certified = 0  # highest height that an honest node reported as certified
        self._signed: dict[tuple[str, Slot], bytes] = {}
        self._verified: set[tuple[bytes, tuple[Vote, ...]]] = set()

    def watch(self, node: Node, effect: Effect) -> None:
        """Judge one effect of an honest node, just run."""
        match effect:
            case Broadcast(envelope) | Send(_, envelope):
                self._one_signature(node, envelope)
            case Deliver(sequence, payload, certificate):
                if self.decided.setdefault(sequence, payload) != payload:
                    raise Violation(f"agreement: {node.name} delivered other bytes at {sequence}")
                digest = commit_digest(
                    CHAIN, 0, certificate.view, certificate.sequence, certificate.digest
                )
                self._verify(node, certificate.votes, digest)
            case Certified(certificate):
                self._certificate(node, certificate)
            case Fault(evidence):
                self._guilty(node, evidence)
            case Halt(reason):
                raise Violation(f"halt: {node.name} stopped: {reason}")

    def _guilty(self, node: Node, evidence: Evidence) -> None:
        first, second = evidence.first, evidence.second
        if first.sender != second.sender or first.sender not in self.traitors:
            raise Violation(f"evidence: {node.name} accuses {first.sender}, who is honest")
        seat = self.validators.get(first.sender)
        assert seat is not None
        digests = [
            signing_digest(CHAIN, envelope.epoch, envelope.body) for envelope in (first, second)
        ]
        signatures = [first.seal, second.seal]
        if (
            slot_of(first.body) != slot_of(second.body)
            or digests[0] == digests[1]
            or not all(map(verify, [seat.key] * 2, digests, signatures))
        ):
            raise Violation(f"evidence: {node.name}'s proof against {first.sender} is none")

    def _one_signature(self, node: Node, envelope: Envelope) -> None:
        slot = slot_of(envelope.body)
        if envelope.sender != node.name or slot is None:
            return
        digest = signing_digest(CHAIN, envelope.epoch, envelope.body)
        if self._signed.setdefault((node.name, slot), digest) != digest:
            raise Violation(f"one signature per slot: {node.name} signed twice for {slot}")

    def _certificate(self, node: Node, certificate: CheckpointCertificate) -> None:
        height, header = certificate.height, certificate.header
        try:
            verify_checkpoint(certificate, CHAIN, self.validators)
        except Refused as refusal:
            raise Violation(f"certificate: {node.name} accepted {refusal}") from refusal
        if self.headers.setdefault(height, header) != header:
            raise Violation(f"equal headers: {node.name} certified another one at {height}")
        if node.header(height) != header:
            raise Violation(f"equal headers: {node.name} executed another one at {height}")
        self.certified = max(self.certified, height)

    def _verify(self, node: Node, votes: tuple[Vote, ...], digest: bytes) -> None:
        if (digest, votes) in self._verified:
            return
        try:
            verify_votes(votes, digest, self.validators)
        except Refused as refusal:
            raise Violation(f"certificate: {node.name} accepted {refusal}") from refusal
        self._verified.add((digest, votes))
