"""The replica: the parent that hands each event to its part and carries the results on.

Castro-Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99), section 4, signed variant. The parts
are: `ordering` (4.2), `checkpoint` (4.3), `viewchange` (4.4), `timer` (4.5.2), `status` (what got
lost), `catchup` (blocks for a replica that was away), `complaints` (of a slow or unfair primary),
`outbox` (what we said). Nothing here waits, draws or reads a clock.
"""

from collections.abc import Callable, Sequence

from consensus.catchup import CatchUp
from consensus.certificate import Verifier
from consensus.checkpoint import Checkpoints
from consensus.complaints import Complaints
from consensus.epochs import Epochs, base_of
from consensus.event import (
    Certified,
    Connected,
    Deliver,
    Diverged,
    Effect,
    Event,
    Executed,
    Halt,
    Limits,
    Pending,
    Propose,
    Received,
    TimerFired,
    TimerName,
    Turned,
)
from consensus.journal import Entry, Held, Said, Section, Stable
from consensus.message import (
    Block,
    BlockReply,
    BlockRequest,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
    is_signed,
)
from consensus.ordering import Ordering
from consensus.outbox import Outbox, Sign
from consensus.recovery import Recollection, recall
from consensus.start import History, Signer, Start
from consensus.status import StatusExchange
from consensus.timer import Backoff, Timers
from consensus.viewchange import ViewChanges
from consensus.window import check_window
from vm.certificate import CheckpointCertificate
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Digest

__all__ = ["GUESTS_MAX", "UNEXECUTED_MAX", "History", "Replica", "Signer", "Start"]

UNEXECUTED_MAX = 16  # blocks delivered and not yet executed: 64 MiB of payloads at most
GUESTS_MAX = 64  # peers without a seat that are heard in one status period


class Replica:
    """One replica of one chain.

    `signer(key)` gives what signs with the key of our seat, or None if this node does not hold that
    key or must not use it: then the replica observes. `check(height, payload)` raises `Refused` for
    a fresh proposal that breaks the payload rules. Call `recover` once before the first `step`.
    """

    def __init__(
        self,
        *,
        chain: Digest,
        me: str,
        signer: Signer,
        check: Callable[[int, bytes], None],
        history: History,
        start: Start,
        limits: Limits,
    ) -> None:
        self.me = me
        self.delivered = start.executed
        self.halted: str | None = None
        self._signer = signer
        self._check = check
        self._limits = limits
        self._epochs = Epochs(start.epochs)
        next_height = 1 + min(start.executed, 0 if start.stable is None else start.stable.height)
        assert base_of(self.epoch) < next_height <= self._epochs.last, f"no epoch {next_height}"
        while start.executed > self._epochs.last:  # a crash took the certificate of its end
            self._epochs.turn()
        self._recollection = Recollection(())
        self._waiting = False
        self._guests: set[str] = set()  # peers without a seat, heard in this status period
        self._unexecuted: dict[int, Block] = {}
        self._certified = 0 if start.stable is None else start.stable.height  # newest reported
        self._resting = False  # whether the status timer runs at its idle period
        self._attempt = 0  # status periods, to turn among the holders of a payload
        self._chain = chain
        self._outbox = Outbox(chain, me, self.epoch.number, None)
        self._catch_up = CatchUp(self._outbox, history, limits.window)
        self._timers = Timers(self._outbox)
        for epoch in start.epochs:
            check_window(epoch.validators.n, limits.window)
        self._begin(start.executed, start.header, start.stable)

    def _begin(self, executed: int, header: Digest, stable: CheckpointCertificate | None) -> None:
        """Start the current epoch as PBFT starts: view 0 and an empty log above its base."""
        epoch, window = self.epoch, self._limits.window
        validators, base = epoch.validators, base_of(epoch)
        self._outbox.turn(epoch.number, self._signature())
        self._verifier = Verifier(self._chain, epoch)
        self._checkpoints = Checkpoints(validators, window, executed, header, stable, base)
        self._ordering = Ordering(validators, self._outbox, self._check, self._limits, base)
        self._ordering.forget(self._checkpoints.low)
        self._ordering.reach(self._reach(self._checkpoints.low))
        self._views = ViewChanges(self._verifier, self._ordering, self._outbox, self._limits)
        self._complaints = Complaints(validators, self._ordering, self._outbox)
        self._status = StatusExchange(
            self._ordering, self._checkpoints, self._views, self._complaints, self._outbox
        )
        self._backoff = Backoff(self._limits)

    def _signature(self) -> Sign | None:
        """What signs for our seat in this epoch, if we have one and may.

        A journal that has seen a later epoch no longer holds what we promised in this one.
        """
        seat = self.epoch.validators.get(self.me)
        if seat is None or seat.suspended or self.epoch.number < self._recollection.newest:
            return None
        return self._signer(seat.key)

    @property
    def epoch(self) -> Epoch:
        """The epoch that orders the next height."""
        return self._epochs.current

    @property
    def turning(self) -> bool:
        """Whether another epoch is scheduled: blocks are wanted, if only empty ones, to get there.

        Without them a change of the validators would wait for traffic that may need it.
        """
        return self._epochs.last < HEIGHT_MAX

    @property
    def view(self) -> int:
        """The current view, or the one that we ask for during a view change."""
        return self._ordering.view

    @property
    def active(self) -> bool:
        """False during a view change."""
        return self._ordering.active

    @property
    def voting(self) -> bool:
        """Whether we say what is signed; else we observe."""
        return self._outbox.voting

    @property
    def executed(self) -> int:
        """The height that the shell has executed."""
        return self._checkpoints.executed

    @property
    def stable(self) -> CheckpointCertificate | None:
        """The newest stable checkpoint: its height is the low watermark."""
        return self._checkpoints.stable

    @property
    def primary(self) -> str:
        """The primary of the current view."""
        return self._ordering.primary

    @property
    def may_propose(self) -> bool:
        """Whether `Propose` is welcome: primary of an active view, with room in the window."""
        return self.halted is None and self._ordering.may_propose

    @property
    def next_sequence(self) -> int:
        """The sequence number that the next `Propose` gets: what it holds must be good for it."""
        return self._ordering.next

    def recover(self, entries: Sequence[Entry]) -> list[Effect]:
        """Take in the journal, oldest entry first, before anything else (votes: neo-modules#780).

        Re-delivers what the journal holds above the executed height, and starts the timers.
        """
        self._recollection = Recollection(entries)
        self._outbox.turn(self.epoch.number, self._signature())
        try:
            if self._recollection.open != self.epoch.number:
                self._outbox.persist(Section(self.epoch.number))
            self._recall()
            self._complete_store()
            self._broadcast_status()
            self._settle()
        except Diverged as divergence:
            self._halt(divergence)
        return self._outbox.take()

    def entries(self) -> list[Entry]:
        """Everything that a fresh journal must begin with, once the store is durable at `executed`.

        The shell syncs its store, writes these to a new journal, syncs that and its directory, and
        only then deletes the old one.
        """
        kept: list[Entry] = [*self._recollection.entries(), Section(self.epoch.number)]
        if self.stable is not None:
            kept.append(Stable(self.stable))
        if self.active and self._views.new_view is not None:
            kept.append(Said(self._views.new_view))
        kept.extend(Held(sequence, data) for sequence, data in self._ordering.payloads.entries())
        kept.extend(Said(envelope) for envelope in self._outbox.everything())
        kept.extend(self._ordering.entries())
        for sequence, block in sorted(self._unexecuted.items()):
            kept.extend((Held(sequence, block.payload), block.certificate))
        return kept

    def step(self, event: Event) -> list[Effect]:
        """Take one event; the effects are to be run in order. After `Halt` nothing happens."""
        if self.halted is not None:
            return []
        try:
            match event:
                case Propose(payload):
                    self._ordering.propose(payload)
                case Received(envelope):
                    self._on_message(envelope)
                case TimerFired(timer) if self._timers.fired(timer):
                    self._on_timer(timer.name)
                case Executed(height, header, epoch):
                    self._on_executed(height, header, epoch)
                case Pending(waiting, omitted):
                    self._waiting = waiting
                    self._complaints.pending(waiting, omitted)
                case Connected(peer):
                    self._status.connected(peer)
            self._settle()
        except Diverged as divergence:
            self._halt(divergence)
        return self._outbox.take()

    def _halt(self, divergence: Diverged) -> None:
        self.halted = str(divergence)
        self._outbox.put(Halt(self.halted))

    def _on_message(self, envelope: Envelope) -> None:
        if envelope.sender == self.me:
            return
        try:
            if self._is_for_us(envelope):
                self._dispatch(envelope)
        except Refused as refusal:
            self._outbox.reject(envelope.sender, refusal)

    def _is_for_us(self, envelope: Envelope) -> bool:
        """Whether to look at a message; raises `Refused` for a vote of one who has none.

        What is signed in another epoch is said again once both are in the same one. Transfer counts
        also between epochs, and from peers without a seat, of which so many are heard in a status
        period: what we give and note for each peer is bounded by that.
        """
        sender = envelope.sender
        seat = self.epoch.validators.get(sender)
        if not is_signed(envelope.body):
            if seat is None and len(self._guests) < GUESTS_MAX:
                self._guests.add(sender)
            return seat is not None or sender in self._guests
        if envelope.epoch != self.epoch.number:
            return False
        if seat is None:
            raise Refused("consensus.unknown_sender", "expected a validator of this epoch")
        if seat.suspended:
            raise Refused("consensus.suspended", "expected a seat that is not suspended")
        return True

    def _dispatch(self, envelope: Envelope) -> None:
        match envelope.body:
            case PrePrepare() as body:
                self._ordering.on_pre_prepare(envelope, body)
            case Prepare() as body:
                self._ordering.on_prepare(envelope, body)
            case Commit() as body:
                self._ordering.on_commit(envelope, body)
            case Checkpoint() as body:
                self._on_checkpoint(envelope, body)
            case ViewChange() as body:
                self._views.on_view_change(envelope, body)
                self._on_views()
            case NewView() as body:
                if self._views.on_new_view(envelope, body):
                    self._entered()
            case Status() as body:
                same_epoch = envelope.epoch == self.epoch.number
                if same_epoch:
                    self._complaints.hear(envelope.sender, body)
                self._on_status(envelope.sender, body, same_epoch=same_epoch)
            case PayloadRequest() as body:
                self._ordering.on_payload_request(envelope.sender, body)
            case PayloadReply() as body:
                self._ordering.on_payload_reply(envelope, body)
            case BlockRequest() as body:
                self._catch_up.on_block_request(envelope.sender, body, self.executed)
            case BlockReply() as body:
                self._on_block_reply(envelope.sender, body)

    def _on_timer(self, name: TimerName) -> None:
        match name:
            case TimerName.VIEW:
                self._backoff.failed()
                self._start_view_change(self.view + 1)
            case TimerName.PACE:
                self._complaints.pace.tick()
            case TimerName.STATUS:
                self._guests.clear()
                self._broadcast_status()
                self._ordering.retry(self._attempt)
                self._attempt += 1
                self._catch_up.tick(self.delivered)

    # Blocks and checkpoints (4.3)

    def _settle(self) -> None:
        """Turn, lead a view or deliver what is now due; then set the timers as the state asks."""
        self._turn()
        self._ordering.reach(self._reach(self._checkpoints.low))
        self._judge_primary()
        if self._views.lead():
            self._entered()
        while self._may_deliver():
            block = self._next_block()
            if block is None:
                break
            if self._ordering.payloads.get(block.certificate.digest) is None:
                self._outbox.persist(Held(block.certificate.sequence, block.payload))
            self._outbox.persist(block.certificate)
            self._deliver(block)
        if self._may_deliver():
            self._catch_up.go_on(self.delivered)
        self._set_timers()

    def _turn(self) -> None:
        """Enter the next epoch once the last block of this one is executed here and certified.

        Nothing is in flight then: no vote and no block lies above the last height of an epoch.
        """
        while (stable := self.stable) is not None and stable.height == self._epochs.last:
            if self.executed < stable.height:
                return  # a certificate from before a crash, whose blocks execution has yet to reach
            self._timers.cancel(TimerName.VIEW)
            self._timers.cancel(TimerName.PACE)
            epoch = self._epochs.turn()
            self._outbox.put(Turned(epoch))
            self._outbox.persist(Section(epoch.number))
            self._begin(stable.height, stable.header, stable)
            self._recall()
            self._broadcast_status()

    def _reach(self, low: int) -> int:
        """A window above `low`, but no further than this epoch is known to go.

        A change that is executed at h is in force a window later. So nothing is known of what lies
        more than a window above execution, which after a restart may be below what is stable.
        """
        return min(min(low, self.executed) + self._limits.window, self._epochs.last)

    def _may_deliver(self) -> bool:
        waiting = self.delivered - self.executed
        return waiting < UNEXECUTED_MAX and self.delivered < self._reach(self.executed)

    def _next_block(self) -> Block | None:
        sequence = self.delivered + 1
        return self._ordering.block(sequence) or self._catch_up.take(sequence)

    def _deliver(self, block: Block) -> None:
        certificate = block.certificate
        self.delivered = certificate.sequence
        self._unexecuted[certificate.sequence] = block
        self._ordering.recall_certificate(certificate)
        self._outbox.put(Deliver(certificate.sequence, block.payload, certificate))
        self._catch_up.forget(self.delivered)
        self._backoff.progressed()
        self._complaints.pace.delivered()
        self._timers.cancel(TimerName.VIEW)  # set again at the end of the step if still needed

    def _on_executed(self, height: int, header: Digest, epoch: Epoch | None) -> None:
        assert height <= self.delivered, f"executed {height}, delivered {self.delivered}"
        if epoch is not None:
            assert epoch.first == height + self._limits.window + 1, f"{epoch.first} set at {height}"
            self._epochs.schedule(epoch)
        low = self._checkpoints.low
        wanted = self._checkpoints.execute(height, header)
        del self._unexecuted[height]
        if wanted:
            self._say_checkpoint(height, header)
        self._checkpoints.settle(height)
        self._stabilise(low)
        self._certify()
        if height > self._checkpoints.low + self._limits.window:
            self._forget()  # what we say while far ahead of a certificate is bounded too

    def _say_checkpoint(self, height: int, header: Digest) -> None:
        if self.voting and self._outbox.said(Checkpoint.TAG, 0, height) is None:
            said = self._outbox.say(Checkpoint(height, header))
            self._checkpoints.vote(self.me, height, header, said.seal)

    def _on_checkpoint(self, envelope: Envelope, body: Checkpoint) -> None:
        low = self._checkpoints.low
        earlier = self._checkpoints.vote(envelope.sender, body.height, body.header, envelope.seal)
        if earlier is not None:
            said = Checkpoint(body.height, earlier.digest)
            self._outbox.accuse(said, earlier.signature, envelope)
        self._checkpoints.settle(body.height)
        self._stabilise(low)

    def _observe(self, certificate: CheckpointCertificate | None) -> None:
        """Take a checkpoint certificate out of a peer's message; raises `Refused` if it is bad.

        One from beyond our reach cannot be judged: perhaps another set signs there.
        """
        if certificate is None:
            return
        if self._checkpoints.known < certificate.height <= self._reach(self.executed):
            self._verifier.checkpoint(certificate)
            low = self._checkpoints.low
            self._checkpoints.observe(certificate)
            self._stabilise(low)

    def _stabilise(self, before: int) -> None:
        """After the stable checkpoint has moved: tell, and collect garbage below it."""
        stable = self.stable
        if stable is not None and stable.height > before:
            self._outbox.persist(Stable(stable))
            self._certify()
            self._forget()

    def _certify(self) -> None:
        """Report the stable checkpoint once our execution is there; again if the store lost it."""
        stable = self.stable
        if stable is not None and self._certified < stable.height <= self.executed:
            self._certified = stable.height
            self._outbox.put(Certified(stable))

    def _forget(self) -> None:
        low = self._checkpoints.low
        self._checkpoints.forget()
        self._ordering.forget(low)
        self._forget_said()

    def _forget_said(self) -> None:
        known = self.executed - self._limits.window  # the oldest header that is still compared
        self._outbox.forget(self.view, self._checkpoints.low, known - 1)

    # View changes (4.4)

    def _start_view_change(self, view: int) -> None:
        self._timers.cancel(TimerName.VIEW)
        self._views.start(view, self.stable)
        self._on_views()

    def _on_views(self) -> None:
        """Join a view change early."""
        view = self._views.early()
        if view is not None and self.voting:
            if not self._views.others_planned():
                self._backoff.failed()
            self._start_view_change(view)

    def _entered(self) -> None:
        self._timers.cancel(TimerName.VIEW)
        self._timers.cancel(TimerName.PACE)
        self._complaints.turn()
        self._forget_said()
        self._ordering.release()
        self._ordering.resume()

    def _judge_primary(self) -> None:
        """Complain of a slow or unfair primary; leave it if a quorum does, or its turn is over."""
        if self._ordering.proposed(self.delivered + 1) or self.delivered > self.executed:
            self._complaints.pace.under_way()
        if self._complaints.draw_up():
            self._status.complain()
        if self._complaints.agreed():
            self._backoff.failed()
            self._start_view_change(self.view + 1)
        elif self.active and self.voting and self._views.planned(self._checkpoints.low):
            self._start_view_change(self.view + 1)

    # Status and catching up

    def _on_status(self, sender: str, status: Status, *, same_epoch: bool) -> None:
        self._observe(status.stable)
        self._catch_up.heard(sender, status.executed)
        self._status.on_status(sender, status, same_epoch=same_epoch)
        if status.stable is not None and status.stable.height > self.delivered:
            self._catch_up.ask(sender, self.delivered)  # it no longer has votes to send again

    def _on_block_reply(self, sender: str, reply: BlockReply) -> None:
        self._observe(reply.stable)
        self._turn()  # the blocks are perhaps the next epoch's
        reach = self._reach(self.executed)
        self._catch_up.on_block_reply(sender, reply, self.delivered, reach, self._verifier)

    def _broadcast_status(self) -> None:
        self._set_status_timer()
        self._status.broadcast(self._status_delay_ms() // self._limits.status_ms)

    # Timers

    def _set_timers(self) -> None:
        if not self._needs_view_timer():
            self._timers.cancel(TimerName.VIEW)
        elif not self._timers.running(TimerName.VIEW):
            self._timers.set(TimerName.VIEW, self._backoff.delay_ms)
        self._set_pace_timer()
        if self._resting and not self._at_rest():
            self._set_status_timer()

    def _set_pace_timer(self) -> None:
        """Ticks grow with the view timeout: where messages take long, waiting says less."""
        if not (self.active and self._waiting):
            self._timers.cancel(TimerName.PACE)
        elif not self._timers.running(TimerName.PACE):
            limits = self._limits
            delay_ms = limits.pace_ms * self._backoff.delay_ms // limits.view_timeout_ms
            self._timers.set(TimerName.PACE, delay_ms)

    def _set_status_timer(self) -> None:
        self._resting = self._at_rest()
        self._timers.set(TimerName.STATUS, self._status_delay_ms())

    def _status_delay_ms(self) -> int:
        return self._limits.status_idle_ms if self._resting else self._limits.status_ms

    def _needs_view_timer(self) -> bool:
        """A backup times the primary while requests wait; a view change, once a quorum joins."""
        if not self.voting:
            return False  # an observer follows those who time the primary
        if not self.active:
            return self._views.quorum_has_left()
        in_flight = self._ordering.top > self.delivered
        return self.primary != self.me and (self._waiting or in_flight)

    def _at_rest(self) -> bool:
        """Whether everything heard of is certified, so that only peers can lack something."""
        return (
            self.active
            and not self._waiting
            and self._ordering.empty
            and self._checkpoints.low == self.delivered
            and not self._catch_up.behind(self.delivered)
        )

    # Recovery

    def _recall(self) -> None:
        """Take back what the journal holds of this epoch: what we said binds us still."""
        entries = self._recollection.take(self.epoch.number)
        for entry in entries:
            if isinstance(entry, Stable):
                self._checkpoints.restore(entry.certificate)
        self._ordering.forget(self._checkpoints.low)
        self._ordering.reach(self._reach(self._checkpoints.low))
        decided = recall(entries, self._outbox, self._checkpoints, self._ordering, self._views)
        self._forget()
        self._ordering.release()
        while (block := decided.get(self.delivered + 1)) is not None:
            self._deliver(block)
        self._ordering.resume()

    def _complete_store(self) -> None:
        """Do what a crash between store and journal left undone, either being ahead."""
        self._certify()
        if self.executed > self._checkpoints.known:
            self._say_checkpoint(self.executed, self._checkpoints.header)
