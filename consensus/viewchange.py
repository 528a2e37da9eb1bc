"""View changes: what a new primary may propose, computed by everyone alike (section 4.4)."""

from dataclasses import dataclass, replace

from consensus.certificate import Verifier
from consensus.event import Limits
from consensus.journal import Said
from consensus.message import (
    NULL_DIGEST,
    Envelope,
    NewView,
    PreparedCertificate,
    PrePrepare,
    SignedPrePrepare,
    SignedViewChange,
    ViewChange,
    content_of,
)
from consensus.ordering import Ordering
from consensus.outbox import Outbox
from vm.certificate import CheckpointCertificate
from vm.refusal import Refused


@dataclass(frozen=True, slots=True)
class Plan:
    """What a set of view changes makes of a new view: min-s, O, and who holds the payloads."""

    base: int  # height of the newest stable checkpoint in the set; the view starts above it
    proposals: tuple[PrePrepare, ...]  # contiguous; NULL_DIGEST where nothing was prepared
    holders: dict[int, tuple[str, ...]]  # by sequence number: the signers of the certificate


def plan(view: int, view_changes: tuple[SignedViewChange, ...], base: int) -> Plan:
    """Choose the proposals of `view` from the whole set of view changes, as section 4.4 does.

    `base` is the height before the epoch, stable at everybody in it. The set is used in full:
    taking only those that share a checkpoint led to endless view changes (fabric#1111).
    """
    base = max(_height(change.message.stable, base) for change in view_changes)
    chosen: dict[int, PreparedCertificate] = {}
    for change in view_changes:
        for certificate in change.message.prepared:
            best = chosen.get(certificate.sequence)
            if certificate.sequence > base and (best is None or best.view < certificate.view):
                chosen[certificate.sequence] = certificate
    top = max(chosen, default=base)
    digests = {n: certificate.digest for n, certificate in chosen.items()}
    proposals = tuple(
        PrePrepare(view, n, digests.get(n, NULL_DIGEST)) for n in range(base + 1, top + 1)
    )
    holders = {n: tuple(v.validator for v in cert.votes) for n, cert in chosen.items()}
    return Plan(base, proposals, holders)


def verify_view_change(message: ViewChange, verifier: Verifier, window: int) -> None:
    """Check what a ViewChange claims; raises `Refused`."""
    if message.stable is not None:
        verifier.checkpoint(message.stable)
    low = previous = _height(message.stable, verifier.base)
    if low < verifier.base:
        raise Refused(
            "consensus.bad_view_change",
            f"expected a checkpoint above {verifier.base}, where this epoch begins, found {low}",
        )
    for certificate in message.prepared:
        if not previous < certificate.sequence <= low + window:
            raise Refused(
                "consensus.bad_view_change",
                f"expected sequence numbers that rise from {low} to at most {low + window}, "
                f"found {certificate.sequence} after {previous}",
            )
        if certificate.view >= message.view:
            raise Refused(
                "consensus.bad_view_change",
                f"expected certificates of views below {message.view}, found {certificate.view}",
            )
        verifier.prepared(certificate)
        previous = certificate.sequence


def verify_new_view(message: NewView, verifier: Verifier, window: int) -> Plan:
    """Recompute O from V and compare; raises `Refused` unless the new primary did the same."""
    validators = verifier.validators
    if len(message.view_changes) < validators.quorum:
        raise Refused(
            "consensus.bad_new_view",
            f"expected {validators.quorum} view changes, found {len(message.view_changes)}",
        )
    previous = ""
    for change in message.view_changes:
        if change.message.view != message.view or change.sender <= previous:
            raise Refused(
                "consensus.bad_new_view",
                f"expected view changes to {message.view} in order of sender, found "
                f"{change.sender}'s to {change.message.view} after {previous or 'none'}",
            )
        verifier.signed(change.sender, change)
        verify_view_change(change.message, verifier, window)
        previous = change.sender
    expected = plan(message.view, message.view_changes, verifier.base)
    if tuple(item.message for item in message.pre_prepares) != expected.proposals:
        raise Refused(
            "consensus.bad_new_view", "expected the proposals that its view changes call for"
        )
    primary = validators.primary(message.view).id
    for item in message.pre_prepares:
        verifier.signed(primary, item)
    return expected


class ViewChanges:
    """The view changes heard, and the way from one view to the next.

    Of each replica the newest ViewChange is kept. Methods that can start a view change return as
    soon as one has started (a second new-view was once sent here: sawtooth-pbft#98).
    """

    def __init__(
        self, verifier: Verifier, ordering: Ordering, outbox: Outbox, limits: Limits
    ) -> None:
        self.new_view: Envelope | None = None  # of the current view, None in view 0
        self._heard: dict[str, SignedViewChange] = {}
        self._verifier = verifier
        self._ordering = ordering
        self._outbox = outbox
        self._window = limits.window
        self._rotation = limits.rotation

    def start(self, view: int, stable: CheckpointCertificate | None) -> None:
        """Leave the current view and ask for `view`.

        The checkpoint before the epoch is another set's, and nobody in the epoch lacks it.
        """
        proof = stable if _height(stable, 0) > self._verifier.base else None
        message = ViewChange(view, proof, self._ordering.prepared())
        self.recall_view_change(self._outbox.say(message), message)

    def on_view_change(self, envelope: Envelope, body: ViewChange) -> None:
        """Keep a valid ViewChange; raises `Refused` for another."""
        sender = envelope.sender
        earlier = self._heard.get(sender)
        if earlier is not None and earlier.message.view >= body.view:
            if earlier.message.view == body.view and earlier.message != body:
                self._outbox.accuse(content_of(earlier.message), earlier.signature, envelope)
            return
        verify_view_change(body, self._verifier, self._window)
        self._heard[sender] = SignedViewChange(sender, body, envelope.seal)

    def early(self) -> int | None:
        """A view above ours that a correct replica asks for: f + 1 have gone at least that far.

        Section 4.5.2: join the smallest such view without waiting for the timer. A lone faulty
        replica cannot pull us along, whatever view it names.
        """
        me, f = self._outbox.me, self._verifier.validators.f
        views = sorted(
            (item.message.view for sender, item in self._heard.items() if sender != me),
            reverse=True,
        )
        if len(views) <= f or views[f] <= self._ordering.view:
            return None
        return views[f]

    def planned(self, height: int) -> bool:
        """Whether a stable checkpoint at `height` ends this view, every `rotation` heights.

        Derived from where the view began, not counted: so whoever enters a view late, or catches up
        over the boundary, neither leaves it again nor stays behind.
        """
        every = self._rotation
        return every > 0 and height // every > self._ordering.base // every

    def others_planned(self) -> bool:
        """Whether somebody leaves our view because it is over by plan."""
        base = self._verifier.base
        return self._ordering.active and any(
            self.planned(_height(item.message.stable, base)) for item in self._heard.values()
        )

    def quorum_has_left(self) -> bool:
        """Whether a quorum asks for our view or a later one, so that the new primary is due."""
        view = self._ordering.view
        count = sum(item.message.view >= view for item in self._heard.values())
        return count >= self._verifier.validators.quorum

    def lead(self) -> bool:
        """As primary of the view we asked for, start it once a quorum has asked; whether we did.

        A view change counts once we have the payloads that it claims as prepared. A faulty replica
        may hold a certificate for bytes that nobody else kept; a view with it would stand still.
        """
        view = self._ordering.view
        leading = self._outbox.voting and self._ordering.primary == self._outbox.me
        if self._ordering.active or not leading:
            return False
        supporting = tuple(
            item
            for _, item in sorted(self._heard.items())
            if item.message.view == view and self._obtain(item)
        )
        if len(supporting) < self._verifier.validators.quorum:
            return False
        chosen = plan(view, supporting, self._verifier.base)
        signed = tuple(SignedPrePrepare(item, self._outbox.sign(item)) for item in chosen.proposals)
        message = NewView(view, supporting, signed)
        self._enter(self._outbox.say(message), message, chosen)
        return True

    def on_new_view(self, envelope: Envelope, body: NewView) -> bool:
        """Enter a view whose NewView is valid; whether we did; raises `Refused` for another."""
        view = self._ordering.view
        if body.view < view or (body.view == view and self._ordering.active):
            self._compare(envelope, body)
            return False
        primary = self._verifier.validators.primary(body.view).id
        if envelope.sender != primary:
            raise Refused("consensus.not_primary", f"expected {primary}, found {envelope.sender}")
        chosen = verify_new_view(body, self._verifier, self._window)
        accepted = replace(envelope, payload=None)
        self._outbox.persist(Said(accepted))
        self._enter(accepted, body, chosen)
        return True

    def recall_view_change(self, envelope: Envelope, body: ViewChange) -> None:
        """Count our own ViewChange, just said or from the journal."""
        if body.view > self._ordering.view:
            self._ordering.leave(body.view)
        self._heard[envelope.sender] = SignedViewChange(envelope.sender, body, envelope.seal)

    def recall_new_view(self, envelope: Envelope, body: NewView) -> None:
        """Enter again the view of a journaled NewView."""
        self._enter(envelope, body, plan(body.view, body.view_changes, self._verifier.base))

    def _obtain(self, item: SignedViewChange) -> bool:
        """Whether we have every payload of its certificates; what is missing is asked for."""
        here = [self._ordering.obtain(proof, item.sender) for proof in item.message.prepared]
        return all(here)

    def _enter(self, envelope: Envelope, body: NewView, chosen: Plan) -> None:
        if body.view > self._ordering.view:
            self._ordering.leave(body.view)
        self.new_view = envelope
        self._ordering.enter(chosen.base, body.pre_prepares, chosen.holders)

    def _compare(self, envelope: Envelope, body: NewView) -> None:
        accepted = self.new_view
        if (
            accepted is not None
            and isinstance(accepted.body, NewView)
            and accepted.sender == envelope.sender
            and accepted.body.view == body.view
            and accepted.body != body
        ):
            self._outbox.accuse(content_of(accepted.body), accepted.seal, envelope)


def _height(certificate: CheckpointCertificate | None, none: int) -> int:
    return none if certificate is None else certificate.height
