"""The normal case: one view's proposals, votes and certificates between the watermarks (4.2).

Prepared and committed are the predicates of Castro-Liskov section 4.2, with the general quorum of
`vm.quorum`. A PrePrepare carries the primary's vote, so a prepared certificate is a quorum of votes
over one statement, as the paper's pre-prepare with its 2f prepares is.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from consensus.event import Diverged, Limits
from consensus.journal import Held, Said
from consensus.log import Ballot, Instance, cast, votes_for
from consensus.message import (
    NULL_DIGEST,
    PAYLOAD_BYTES_MAX,
    Block,
    Commit,
    CommitCertificate,
    Envelope,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    SignedPrePrepare,
    payload_digest,
)
from consensus.outbox import Outbox
from consensus.payloads import Payloads
from vm.quorum import ValidatorSet
from vm.refusal import Refused
from vm.shape import Digest
from vm.statement import SlotKind


class Ordering:
    """Agreement on the sequence numbers above the low watermark, in the current view.

    `check` holds the payload rules that bytes and height decide and raises `Refused`; it judges
    fresh proposals only, never what a certificate carries.
    """

    def __init__(
        self,
        validators: ValidatorSet,
        outbox: Outbox,
        check: Callable[[int, bytes], None],
        limits: Limits,
        base: int,
    ) -> None:
        self.view = 0
        self.active = True  # False from our ViewChange for `view` to its NewView
        self.low = base  # low watermark: height of the stable checkpoint
        self.high = base  # high watermark: no vote of ours lies above it
        self.base = base  # of this view: proposals start above it
        self.top = 0  # the highest sequence number accepted in this view
        self.payloads = Payloads()
        self._next = base + 1  # the sequence number that we propose next as primary
        self._instances: dict[int, Instance] = {}
        self._given: set[tuple[str, Digest]] = set()  # payloads by peer, in this status period
        self._validators = validators
        self._outbox = outbox
        self._check = check
        self._limits = limits

    @property
    def primary(self) -> str:
        """The primary of the current view."""
        return self._validators.primary(self.view).id

    @property
    def may_propose(self) -> bool:
        """Whether we are the primary of an active view with room below the high watermark."""
        leading = self._outbox.voting and self.primary == self._outbox.me
        return leading and self.active and self._next <= self.high

    @property
    def next(self) -> int:
        """The sequence number of our next proposal as primary."""
        return self._next

    @property
    def empty(self) -> bool:
        """Whether nothing is known of any number above the low watermark."""
        return not self._instances

    def propose(self, payload: bytes) -> None:
        """Assign the next sequence number to `payload` as primary."""
        assert self.may_propose, "proposed without asking may_propose"
        assert 0 < len(payload) <= PAYLOAD_BYTES_MAX, f"proposed {len(payload)} bytes"
        sequence = self._next
        self._hold(payload, sequence)
        said = self._outbox.say(
            PrePrepare(self.view, sequence, payload_digest(payload)), payload=payload
        )
        self.recall(said)
        self._advance(sequence)

    def on_pre_prepare(self, envelope: Envelope, body: PrePrepare) -> None:
        """Accept the primary's proposal and vote for it; raises `Refused` for one out of rule."""
        if not self.active or body.view != self.view or body.sequence <= self.low:
            return
        self._check_proposal(envelope, body)
        instance = self._instances.setdefault(body.sequence, Instance())
        if self._conflicts(instance.prepares, envelope, body):
            return
        payload = envelope.payload
        assert payload is not None, "a checked proposal carries its payload"
        if instance.proposal is None:
            if self._proposed_bytes() + len(payload) > self._limits.payload_bytes_max:
                raise Refused("consensus.payloads_full", "expected room for another payload")
            self._check(body.sequence, payload)
        elif instance.proposal.digest != body.digest:
            raise Refused("consensus.conflict", "expected the proposal of the new view")
        self._hold(payload, body.sequence)
        if instance.proposal is None:
            accepted = replace(envelope, payload=None)
            self._outbox.persist(Said(accepted))
            self.recall(accepted)
        self._advance(body.sequence)

    def on_prepare(self, envelope: Envelope, body: Prepare) -> None:
        """Count a backup's vote in this view or one that we have yet to enter."""
        if body.view < self.view or not self.low < body.sequence <= self.high:
            return
        instance = self._instances.setdefault(body.sequence, Instance())
        if not self._conflicts(instance.prepares, envelope, body):
            self._advance(body.sequence)

    def on_commit(self, envelope: Envelope, body: Commit) -> None:
        """Count a vote of any view: a quorum of one view decides in every view."""
        if not self.low < body.sequence <= self.high:
            return
        instance = self._instances.setdefault(body.sequence, Instance())
        if not self._conflicts(instance.commits, envelope, body):
            self._decide(instance, body)

    def on_payload_request(self, sender: str, body: PayloadRequest) -> None:
        """Give a payload that we hold, to each peer once in a status period."""
        payload = self.payloads.get(body.digest)
        if payload is not None and (sender, body.digest) not in self._given:
            self._given.add((sender, body.digest))
            self._outbox.send(sender, PayloadReply(body.digest), payload=payload)

    def on_payload_reply(self, envelope: Envelope, body: PayloadReply) -> None:
        """Take a payload that we asked for; raises `Refused` if it is another one."""
        sequence = self.payloads.wanted(body.digest)
        if sequence is None:
            return
        _check_payload(envelope.payload, body.digest)
        assert envelope.payload is not None
        self._hold(envelope.payload, sequence)
        if sequence in self._instances:
            self._advance(sequence)

    def obtain(self, certificate: PreparedCertificate, sender: str) -> bool:
        """Whether a view may order this for what we have; else its sender is asked for the payload.

        A replica without fault holds what it has prepared until that is stable, so it can give it.
        """
        sequence, digest = certificate.sequence, certificate.digest
        instance = self._instances.get(sequence)
        decided = instance is not None and instance.committed is not None
        if sequence <= self.low or decided or self.payloads.get(digest) is not None:
            return True
        voters = tuple(vote.validator for vote in certificate.votes)
        self._fetch(digest, sequence, (sender, *voters))
        return False

    def release(self) -> None:
        """Drop payloads that were proposed in earlier views and never prepared here.

        Others may still hold a certificate for one, in which our vote is. If they are without
        fault they hold the payload too. If not, it may be gone, and the next primary without fault
        starts its view without the view change of whoever keeps it back (`ViewChanges.lead`).
        """
        named: set[bytes] = set()
        for instance in self._instances.values():
            for item in (instance.proposal, instance.prepared, instance.committed):
                if item is not None:
                    named.add(item.digest)
        self.payloads.keep(named)

    def leave(self, view: int) -> None:
        """Stop taking part in earlier views; what was in flight is cancelled, proofs are kept."""
        assert view > self.view, "views only grow"
        self.view, self.active, self.top = view, False, 0
        for instance in self._instances.values():
            instance.proposal, instance.holders = None, ()
        self.payloads.cancel()

    def enter(
        self,
        base: int,
        proposals: tuple[SignedPrePrepare, ...],
        holders: dict[int, tuple[str, ...]],
    ) -> None:
        """Start the view with the proposals of its NewView; `resume` then votes for them."""
        self.payloads.cancel()
        self.active, self.base, self.top = True, base, base
        self._next = base + 1
        for proposal in proposals:
            body = proposal.message
            self._next = body.sequence + 1
            if body.sequence <= self.low:
                continue
            self._accept(body, Ballot(body.view, body.digest, proposal.signature))
            instance = self._instances[body.sequence]
            instance.holders = (self.primary, *holders.get(body.sequence, ()))
            if instance.committed is not None and instance.committed.digest != body.digest:
                raise Diverged(f"view {body.view} orders other bytes at height {body.sequence}")

    def reach(self, high: int) -> None:
        """Move the high watermark, and vote for what lies between the watermarks now."""
        if high != self.high:
            self.high = high
            self.resume()

    def resume(self) -> None:
        """Do whatever the log allows: after entering a view, a restart or moving watermarks."""
        for sequence in sorted(self._instances):
            self._advance(sequence)

    def retry(self, attempt: int) -> None:
        """At each status period: ask the next holder for each payload that is still missing."""
        self._given.clear()
        for digest, holders in self.payloads.missing():
            self._outbox.send(holders[attempt % len(holders)], PayloadRequest(digest))

    def block(self, sequence: int) -> Block | None:
        """The decided block, once its payload is here too."""
        instance = self._instances.get(sequence)
        if instance is None or instance.committed is None:
            return None
        certificate = instance.committed
        payload = self.payloads.get(certificate.digest)
        if payload is None:
            voters = tuple(vote.validator for vote in certificate.votes)
            self._fetch(certificate.digest, sequence, voters)
            return None
        return Block(payload, certificate)

    def prepared(self) -> tuple[PreparedCertificate, ...]:
        """P of section 4.4: the newest prepared certificate of each number above the stable one."""
        return tuple(
            instance.prepared
            for _, instance in sorted(self._instances.items())
            if instance.prepared is not None
        )

    def proposed(self, sequence: int) -> bool:
        """Whether the primary has assigned this number in the current view."""
        instance = self._instances.get(sequence)
        return instance is not None and instance.proposal is not None

    def accepted(self, above: int) -> tuple[int, ...]:
        """The sequence numbers whose proposal of this view and payload we have."""
        first = max(above, self.low) + 1
        last = min(self.top, self.high)
        return tuple(n for n in range(first, last + 1) if self._proposed_payload(n) is not None)

    def proposal(self, sequence: int) -> tuple[Envelope, bytes] | None:
        """Our own proposal as primary with its payload, to send it again."""
        said = self._outbox.said(SlotKind.PREPARE, self.view, sequence)
        payload = self._proposed_payload(sequence)
        if said is None or payload is None or not isinstance(said.body, PrePrepare):
            return None
        return said, payload

    def forget(self, stable: int) -> None:
        """Move the low watermark to a stable checkpoint and collect what lies below (4.3)."""
        self.low = stable
        self._next = max(self._next, stable + 1)
        for sequence in [n for n in self._instances if n <= stable]:
            del self._instances[sequence]
        self.payloads.forget(stable)

    def recall(self, envelope: Envelope) -> None:
        """Count a journaled message: our own vote, or a proposal that we accepted."""
        body = envelope.body
        match body:
            case PrePrepare(view, sequence, digest):
                if view == self.view and self.active:
                    self._accept(body, Ballot(view, digest, envelope.seal))
                    self._next = max(self._next, sequence + 1)
            case Prepare(view, sequence, digest):
                instance = self._instances.setdefault(sequence, Instance())
                cast(instance.prepares, envelope.sender, Ballot(view, digest, envelope.seal))
            case Commit(view, sequence, digest):
                instance = self._instances.setdefault(sequence, Instance())
                cast(instance.commits, envelope.sender, Ballot(view, digest, envelope.seal))

    def recall_certificate(self, certificate: PreparedCertificate | CommitCertificate) -> None:
        """Take a certificate from the journal or from a transferred block.

        What our journal holds counts also above the high watermark, which a restart may have set
        back until execution is where it was.
        """
        if not self.low < certificate.sequence <= self.low + self._limits.window:
            return
        instance = self._instances.setdefault(certificate.sequence, Instance())
        if isinstance(certificate, PreparedCertificate):
            instance.prepared = certificate
        else:
            instance.committed = certificate
        self.payloads.name(certificate.digest, certificate.sequence)

    def entries(self) -> Iterator[Said | PreparedCertificate | CommitCertificate]:
        """What the journal must hold of the log: proposals of this view and certificates."""
        for sequence, instance in sorted(self._instances.items()):
            proposal = instance.proposal
            if proposal is not None:
                body = PrePrepare(proposal.view, sequence, proposal.digest)
                yield Said(
                    Envelope(self.primary, self._outbox.epoch, body, proposal.signature, None)
                )
            if instance.prepared is not None:
                yield instance.prepared
            if instance.committed is not None:
                yield instance.committed

    def _check_proposal(self, envelope: Envelope, body: PrePrepare) -> None:
        if envelope.sender != self.primary:
            raise Refused(
                "consensus.not_primary", f"expected {self.primary}, found {envelope.sender}"
            )
        if not self.base < body.sequence <= self.high:
            raise Refused(
                "consensus.out_of_watermarks",
                f"expected {max(self.low, self.base)} < n <= {self.high}, found {body.sequence}",
            )
        if body.digest == NULL_DIGEST:
            raise Refused("consensus.null_request", "expected it to fill holes of a new view only")
        _check_payload(envelope.payload, body.digest)

    def _conflicts(
        self,
        ballots: dict[str, Ballot],
        envelope: Envelope,
        body: PrePrepare | Prepare | Commit,
    ) -> bool:
        """Count the vote in `envelope`; whether the sender contradicts itself."""
        ballot = Ballot(body.view, body.digest, envelope.seal)
        earlier = cast(ballots, envelope.sender, ballot)
        if earlier is None:
            return False
        self._outbox.accuse(earlier.digest, earlier.signature, envelope)
        return True

    def _accept(self, body: PrePrepare, ballot: Ballot) -> None:
        instance = self._instances.setdefault(body.sequence, Instance())
        instance.proposal = ballot
        cast(instance.prepares, self.primary, ballot)
        self.payloads.name(body.digest, body.sequence)
        self.top = max(self.top, body.sequence)

    def _hold(self, payload: bytes, sequence: int) -> None:
        if self.payloads.hold(payload, sequence):
            self._outbox.persist(Held(sequence, payload))

    def _proposed_bytes(self) -> int:
        """Bytes held for the proposals of this view alone: those of others leave it its room."""
        payloads = (self._proposed_payload(sequence) for sequence in self._instances)
        return sum(len(payload) for payload in payloads if payload is not None)

    def _fetch(self, digest: Digest, sequence: int, holders: tuple[str, ...]) -> None:
        others = tuple(holder for holder in holders if holder != self._outbox.me)
        if others and self.payloads.want(digest, sequence, others):
            self._outbox.send(others[0], PayloadRequest(digest))

    def _proposed_payload(self, sequence: int) -> bytes | None:
        instance = self._instances.get(sequence)
        if instance is None or instance.proposal is None:
            return None
        return self.payloads.get(instance.proposal.digest)

    def _advance(self, sequence: int) -> None:
        """Vote wherever the log now allows it; every vote is said once."""
        instance = self._instances[sequence]
        proposal = instance.proposal
        if proposal is None or not self.low < sequence <= self.high:
            return
        if self.payloads.get(proposal.digest) is None:
            self._fetch(proposal.digest, sequence, instance.holders)
            return
        self.payloads.name(proposal.digest, sequence)
        said = self._outbox.said
        if not self._outbox.voting:
            self._prepare(sequence, instance, proposal)
            return
        if said(SlotKind.PREPARE, self.view, sequence) is None and self.primary != self._outbox.me:
            self.recall(self._outbox.say(Prepare(self.view, sequence, proposal.digest)))
        self._prepare(sequence, instance, proposal)
        in_this_view = instance.prepared is not None and instance.prepared.view == self.view
        if in_this_view and said(SlotKind.COMMIT, self.view, sequence) is None:
            vote = Commit(self.view, sequence, proposal.digest)
            self.recall(self._outbox.say(vote))
            self._decide(instance, vote)

    def _prepare(self, sequence: int, instance: Instance, proposal: Ballot) -> None:
        """Become prepared in this view once a quorum agrees, the primary in it (section 4.2)."""
        if instance.prepared is not None and instance.prepared.view == self.view:
            return
        ballots = {**instance.prepares, self.primary: proposal}
        votes = votes_for(ballots, self.view, proposal.digest)
        if len(votes) >= self._validators.quorum:
            instance.prepared = PreparedCertificate(self.view, sequence, proposal.digest, votes)
            self._outbox.persist(instance.prepared)

    def _decide(self, instance: Instance, vote: Commit) -> None:
        """Become committed once a quorum of one view has prepared (section 4.2)."""
        if instance.committed is not None and instance.committed.digest == vote.digest:
            return
        votes = votes_for(instance.commits, vote.view, vote.digest)
        if len(votes) < self._validators.quorum:
            return
        if instance.committed is not None:
            raise Diverged(f"two quorums decided differently at height {vote.sequence}")
        instance.committed = CommitCertificate(vote.view, vote.sequence, vote.digest, votes)


def _check_payload(payload: bytes | None, digest: Digest) -> None:
    if payload is None or payload_digest(payload) != digest:
        raise Refused(
            "consensus.payload_mismatch", "expected the payload of the digest, found another"
        )
