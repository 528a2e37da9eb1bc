"""PBFT in one epoch: one fixed set of validators, from view 0 and an empty log to its last height.

Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), section 4, signed variant. The parts
are: `ordering` (4.2), `checkpoint` (4.3), `viewchange` (4.4), `timer` (4.5.2), `status` (what got
lost) and `complaints` (of a slow or unfair primary). Here is what one of them means to the others:
when the watermarks move, and when the view is left. Everything here ends with the epoch (ADR 11);
what outlives it is the `replica`'s, which hands down the outbox, the timers and each event.
"""

from collections.abc import Callable, Sequence

from consensus.certificate import Verifier
from consensus.checkpoint import Checkpoints
from consensus.complaints import Complaints
from consensus.epochs import Epochs, base_of
from consensus.event import Certified, Limits, TimerName
from consensus.journal import Entry, Held, Said, Stable
from consensus.message import (
    Block,
    Checkpoint,
    Commit,
    CommitCertificate,
    Envelope,
    NewView,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
)
from consensus.ordering import Ordering
from consensus.outbox import Outbox
from consensus.recovery import recall
from consensus.status import StatusExchange
from consensus.timer import Backoff, Timers
from consensus.viewchange import ViewChanges
from vm.certificate import CheckpointCertificate
from vm.refusal import Refused
from vm.shape import Digest
from vm.statement import SlotKind


class Pbft:
    """The run of PBFT that orders the heights of the epoch that is current when it begins.

    Then `executed` is the height executed here, with the digest of its header, and `stable` the
    newest checkpoint certificate. What `check` holds is in `Ordering`.
    """

    def __init__(
        self,
        *,
        chain: Digest,
        epochs: Epochs,
        executed: int,
        header: Digest,
        stable: CheckpointCertificate | None,
        check: Callable[[int, bytes], None],
        limits: Limits,
        outbox: Outbox,
        timers: Timers,
    ) -> None:
        epoch = epochs.current
        validators, base = epoch.validators, base_of(epoch)
        self.epoch = epoch
        self.delivered = executed
        self._certified = 0 if stable is None else stable.height  # newest reported
        self._epochs = epochs  # where this one ends, once another is scheduled
        self._limits = limits
        self._outbox = outbox
        self._timers = timers
        self.verifier = Verifier(chain, epoch)
        self.checkpoints = Checkpoints(validators, limits.window, executed, header, stable, base)
        self.ordering = Ordering(validators, outbox, check, limits, base)
        self._views = ViewChanges(self.verifier, self.ordering, outbox, limits)
        self.complaints = Complaints(validators, self.ordering, outbox)
        self.status = StatusExchange(
            self.ordering, self.checkpoints, self._views, self.complaints, outbox
        )
        self._backoff = Backoff(limits)
        self._move_watermarks()

    # Events

    def on_message(self, envelope: Envelope) -> None:
        """Take what is signed; raises `Refused` for what breaks a rule, as a vote without a seat.

        What is signed in another epoch is said again once both are in the same one.
        """
        if envelope.epoch != self.epoch.number:
            return
        seat = self.epoch.validators.get(envelope.sender)
        if seat is None:
            raise Refused("consensus.unknown_sender", "expected a validator of this epoch")
        if seat.suspended:
            raise Refused("consensus.suspended", "expected a seat that is not suspended")
        match envelope.body:
            case PrePrepare() as body:
                self.ordering.on_pre_prepare(envelope, body)
            case Prepare() as body:
                self.ordering.on_prepare(envelope, body)
            case Commit() as body:
                self.ordering.on_commit(envelope, body)
            case Checkpoint() as body:
                self._on_checkpoint(envelope, body)
            case ViewChange() as body:
                self._views.on_view_change(envelope, body)
                self._join()
            case NewView() as body:
                if self._views.on_new_view(envelope, body):
                    self._entered()

    def on_status(self, envelope: Envelope, status: Status) -> None:
        """Learn where a peer stands, and send it what it lacks; raises `Refused`."""
        same_epoch = envelope.epoch == self.epoch.number
        if same_epoch:
            self.complaints.hear(envelope.sender, status)
        self.observe(status.stable)
        self.status.on_status(envelope.sender, status, same_epoch=same_epoch)

    def on_view_timer(self) -> None:
        """Leave the view: its primary has brought nothing in time."""
        self._backoff.failed()
        self._start_view_change(self.ordering.view + 1)

    def on_delivered(self, certificate: CommitCertificate) -> None:
        """The next block goes to execution: ordered here or fetched."""
        self.delivered = certificate.sequence
        self.ordering.recall_certificate(certificate)
        self._backoff.progressed()
        self.complaints.pace.delivered()
        self._timers.cancel(TimerName.VIEW)  # set again at the end of the step if still needed

    def on_executed(self, height: int, header: Digest) -> None:
        """Vote for our header of the next height, if that is still of use."""
        low = self.checkpoints.low
        if self.checkpoints.execute(height, header):
            self._say_checkpoint(height, header)
        self.checkpoints.settle(height)
        self._stabilise(low)
        self._certify()
        if height > self.checkpoints.low + self._limits.window:
            self._forget()  # what we say while far ahead of a certificate is bounded too

    # At the end of each event

    def settle(self) -> None:
        """Move the high watermark; leave the view or lead the next one, if that is due."""
        self.ordering.reach(self.reach(self.checkpoints.low))
        self._judge_primary()
        if self._views.lead():
            self._entered()

    def set_timers(self, *, waiting: bool) -> None:
        """Set the timers of the view as the state asks; `waiting`: whether requests do."""
        if not self._needs_view_timer(waiting=waiting):
            self._timers.cancel(TimerName.VIEW)
        elif not self._timers.running(TimerName.VIEW):
            self._timers.set(TimerName.VIEW, self._backoff.delay_ms)
        self._set_pace_timer(waiting=waiting)

    def _set_pace_timer(self, *, waiting: bool) -> None:
        """Ticks grow with the view timeout: where messages take long, waiting says less."""
        if not (self.ordering.active and waiting):
            self._timers.cancel(TimerName.PACE)
        elif not self._timers.running(TimerName.PACE):
            limits = self._limits
            delay_ms = limits.pace_ms * self._backoff.delay_ms // limits.view_timeout_ms
            self._timers.set(TimerName.PACE, delay_ms)

    def _needs_view_timer(self, *, waiting: bool) -> bool:
        """A backup times the primary while requests wait; a view change, once a quorum joins."""
        if not self._outbox.voting:
            return False  # an observer follows those who time the primary
        if not self.ordering.active:
            return self._views.quorum_has_left()
        in_flight = self.ordering.top > self.delivered
        return self.ordering.primary != self._outbox.me and (waiting or in_flight)

    # Checkpoints and watermarks (4.3)

    @property
    def at_rest(self) -> bool:
        """Whether the view is active, and everything in it executed and certified."""
        certified = self.checkpoints.low == self.delivered
        return self.ordering.active and self.ordering.empty and certified

    def reach(self, low: int) -> int:
        """A window above `low`, but no further than this epoch is known to go.

        A change that is executed at h is in force a window later. So nothing is known of what lies
        more than a window above execution, which after a restart may be below what is stable.
        """
        return min(min(low, self.checkpoints.executed) + self._limits.window, self._epochs.last)

    def observe(self, certificate: CheckpointCertificate | None) -> None:
        """Take a checkpoint certificate out of a peer's message; raises `Refused` if it is bad.

        One from beyond our reach cannot be judged: perhaps another set signs there.
        """
        if certificate is None:
            return
        if self.checkpoints.known < certificate.height <= self.reach(self.checkpoints.executed):
            self.verifier.checkpoint(certificate)
            low = self.checkpoints.low
            self.checkpoints.observe(certificate)
            self._stabilise(low)

    def _on_checkpoint(self, envelope: Envelope, body: Checkpoint) -> None:
        low = self.checkpoints.low
        earlier = self.checkpoints.vote(envelope.sender, body.height, body.header, envelope.seal)
        if earlier is not None:
            self._outbox.accuse(earlier.digest, earlier.signature, envelope)
        self.checkpoints.settle(body.height)
        self._stabilise(low)

    def _say_checkpoint(self, height: int, header: Digest) -> None:
        if self._outbox.voting and self._outbox.said(SlotKind.CHECKPOINT, 0, height) is None:
            said = self._outbox.say(Checkpoint(height, header))
            self.checkpoints.vote(self._outbox.me, height, header, said.seal)

    def _stabilise(self, before: int) -> None:
        """After the stable checkpoint has moved: tell, and collect garbage below it."""
        stable = self.checkpoints.stable
        if stable is not None and stable.height > before:
            self._outbox.persist(Stable(stable))
            self._certify()
            self._forget()

    def _certify(self) -> None:
        """Report the stable checkpoint once our execution is there; again if the store lost it."""
        stable = self.checkpoints.stable
        if stable is not None and self._certified < stable.height <= self.checkpoints.executed:
            self._certified = stable.height
            self._outbox.put(Certified(stable))

    def _move_watermarks(self) -> None:
        low = self.checkpoints.low
        self.ordering.forget(low)
        self.ordering.reach(self.reach(low))

    def _forget(self) -> None:
        self.checkpoints.forget()
        self.ordering.forget(self.checkpoints.low)
        self._forget_said()

    def _forget_said(self) -> None:
        # The oldest header that is still compared lies a window below execution.
        known = self.checkpoints.executed - self._limits.window
        self._outbox.forget(self.ordering.view, self.checkpoints.low, known - 1)

    # View changes (4.4)

    def _start_view_change(self, view: int) -> None:
        self._timers.cancel(TimerName.VIEW)
        self._views.start(view, self.checkpoints.stable)
        self._join()

    def _join(self) -> None:
        """Join a view change early."""
        view = self._views.early()
        if view is not None and self._outbox.voting:
            if not self._views.others_planned():
                self._backoff.failed()
            self._start_view_change(view)

    def _entered(self) -> None:
        self._timers.cancel(TimerName.VIEW)
        self._timers.cancel(TimerName.PACE)
        self.complaints.turn()
        self._forget_said()
        self.ordering.release()
        self.ordering.resume()

    def _judge_primary(self) -> None:
        """Complain of a slow or unfair primary; leave it if a quorum does, or its turn is over."""
        low, executed = self.checkpoints.low, self.checkpoints.executed
        if self.ordering.proposed(self.delivered + 1) or self.delivered > executed:
            self.complaints.pace.under_way()
        if self.complaints.draw_up():
            self.status.complain()
        if self.complaints.agreed():
            self._backoff.failed()
            self._start_view_change(self.ordering.view + 1)
        elif self.ordering.active and self._outbox.voting and self._views.planned(low):
            self._start_view_change(self.ordering.view + 1)

    # The journal

    def recall(self, entries: Sequence[Entry]) -> dict[int, Block]:
        """Take back what the journal holds of this epoch: what we said binds us still.

        By height, the blocks that were decided. Once they are delivered, the ordering resumes.
        """
        for entry in entries:
            if isinstance(entry, Stable):
                self.checkpoints.restore(entry.certificate)
        self._move_watermarks()
        decided = recall(entries, self._outbox, self.checkpoints, self.ordering, self._views)
        self._forget()
        self.ordering.release()
        return decided

    def complete_store(self) -> None:
        """Do what a crash between store and journal left undone, either being ahead."""
        self._certify()
        if self.checkpoints.executed > self.checkpoints.known:
            self._say_checkpoint(self.checkpoints.executed, self.checkpoints.header)

    def entries(self) -> list[Entry]:
        """What a fresh journal must hold of this epoch, but for blocks that await execution."""
        kept: list[Entry] = []
        if self.checkpoints.stable is not None:
            kept.append(Stable(self.checkpoints.stable))
        if self.ordering.active and self._views.new_view is not None:
            kept.append(Said(self._views.new_view))
        kept.extend(Held(sequence, data) for sequence, data in self.ordering.payloads.entries())
        kept.extend(Said(envelope) for envelope in self._outbox.everything())
        kept.extend(self.ordering.entries())
        return kept
