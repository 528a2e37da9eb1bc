"""What a replica says: signed once for a slot, journaled before it is sent, kept to send again."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from consensus.event import Broadcast, Effect, Fault, Persist, Rejected, Send
from consensus.journal import Entry, Said
from consensus.message import (
    Body,
    Envelope,
    content_of,
    signing_digest,
    slot_of,
)
from vm.evidence import Evidence, SignedContent
from vm.refusal import Refused
from vm.shape import Digest, Signature
from vm.statement import Slot, SlotKind

Sign: TypeAlias = Callable[[Digest], Signature]


class Outbox:
    """Collects the effects of one step and remembers every message that fills a slot.

    Without `sign` the replica observes: it says nothing that is signed.
    """

    def __init__(self, chain: Digest, me: str, epoch: int, sign: Sign | None) -> None:
        self.me = me
        self._chain = chain
        self._effects: list[Effect] = []
        self.turn(epoch, sign)

    def turn(self, epoch: int, sign: Sign | None) -> None:
        """Begin an epoch, in which nothing has been said yet."""
        self.epoch = epoch
        self._sign = sign
        self._said: dict[Slot, Envelope] = {}
        self._accused: set[str] = set()  # validators whose evidence was given out

    @property
    def voting(self) -> bool:
        """Whether we may say what is signed."""
        return self._sign is not None

    def put(self, effect: Effect) -> None:
        """Append an effect."""
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """The effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def persist(self, entry: Entry) -> None:
        """Journal an entry."""
        self.put(Persist(entry))

    def reject(self, peer: str, refusal: Refused) -> None:
        """Report a peer's message that was dropped."""
        self.put(Rejected(peer, refusal.code, refusal.message))

    def accuse(self, earlier: Digest, signature: Signature, envelope: Envelope) -> None:
        """Give out evidence that a sender said `earlier` for the slot that it now fills again.

        Once for each validator.
        """
        sender, slot = envelope.sender, slot_of(envelope.body)
        assert slot is not None, f"a {envelope.body.TAG} fills no slot"
        if sender not in self._accused:
            self._accused.add(sender)
            first = SignedContent(earlier, signature)
            second = SignedContent(content_of(envelope.body), envelope.seal)
            self.put(Fault(Evidence(sender, self.epoch, slot, first, second)))

    def say(self, body: Body, payload: bytes | None = None) -> Envelope:
        """Sign, journal and broadcast the one message for its slot; a second one is our bug."""
        envelope = Envelope(self.me, self.epoch, body, self.sign(body), None)
        self.recall(envelope)
        self.persist(Said(envelope))
        self.put(Broadcast(replace(envelope, payload=payload)))
        return envelope

    def sign(self, body: Body) -> Signature:
        """Our signature of a message that travels inside another one."""
        assert self._sign is not None, "an observer signs nothing"
        return self._sign(signing_digest(self._chain, self.epoch, body))

    def recall(self, envelope: Envelope) -> None:
        """Remember a message of our own, just signed or from the journal."""
        slot = slot_of(envelope.body)
        assert slot is not None, f"a {envelope.body.TAG} fills no slot"
        assert self._said.setdefault(slot, envelope) == envelope, f"two messages for slot {slot}"

    def broadcast(self, body: Body) -> None:
        """Send everybody a message that promises nothing."""
        self.put(Broadcast(Envelope(self.me, self.epoch, body, None, None)))

    def send(self, to: str, body: Body, payload: bytes | None = None) -> None:
        """Send one peer a message that promises nothing."""
        self.put(Send(to, Envelope(self.me, self.epoch, body, None, payload)))

    def resend(self, to: str, envelope: Envelope, payload: bytes | None = None) -> None:
        """Send one peer again what was journaled before."""
        self.put(Send(to, replace(envelope, payload=payload)))

    def said(self, kind: SlotKind, view: int, sequence: int) -> Envelope | None:
        """Our message for a slot."""
        return self._said.get(Slot(kind, view, sequence))

    def everything(self) -> list[Envelope]:
        """Our messages that still bind us, oldest first."""
        return list(self._said.values())

    def forget(self, view: int, stable: int, executed: int) -> None:
        """Drop what can never be said again.

        That is earlier views, heights up to the low watermark, and checkpoints up to `executed`: of
        what lies a window below execution the others have a certificate, or nobody could be here.
        """
        self._said = {
            slot: envelope
            for slot, envelope in self._said.items()
            if _binds(slot, view, stable, executed)
        }


def _binds(slot: Slot, view: int, stable: int, executed: int) -> bool:
    match slot.kind:
        case SlotKind.PREPARE | SlotKind.COMMIT:
            return slot.view >= view and slot.sequence > stable
        case SlotKind.VIEW_CHANGE | SlotKind.NEW_VIEW:
            return slot.view >= view
        case SlotKind.CHECKPOINT:
            return slot.sequence > max(stable, executed)
