"""The replica: what lasts from epoch to epoch, the parent of the run of PBFT that is at hand.

`pbft` orders the heights of one epoch and ends with it. Here each event is handed down, decided
blocks go to execution one height after the other, and at the last height of an epoch the replica
turns: it begins a new `pbft` with the next set of validators. What lasts are the `epochs` known,
`catchup` (blocks for a replica that was away), `recovery` (the journal as it was found), `timer`
and `outbox` (what we said, and the effects). Nothing here waits, draws or reads a clock.
"""

from collections.abc import Callable, Sequence

from consensus.catchup import CatchUp
from consensus.epochs import Epochs, base_of
from consensus.event import (
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
from consensus.journal import Entry, Held, Section
from consensus.message import (
    NULL_DIGEST,
    Block,
    BlockReply,
    BlockRequest,
    Envelope,
    PayloadReply,
    PayloadRequest,
    Status,
    is_signed,
)
from consensus.outbox import Outbox, Sign
from consensus.pbft import Pbft
from consensus.recovery import Recollection
from consensus.start import History, Signer, Start
from consensus.timer import Timers
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
        self._resting = False  # whether the status timer runs at its idle period
        self._attempt = 0  # status periods, to turn among the holders of a payload
        self._chain = chain
        self._outbox = Outbox(chain, me, self.epoch.number, None)
        self._catch_up = CatchUp(self._outbox, history, limits.window)
        self._timers = Timers(self._outbox)
        for epoch in start.epochs:
            check_window(epoch.validators.n, limits.window)
        self._pbft = self._begin(start.executed, start.header, start.stable)

    def _begin(self, executed: int, header: Digest, stable: CheckpointCertificate | None) -> Pbft:
        """The current epoch as PBFT starts: view 0 and an empty log above its base."""
        self._outbox.turn(self.epoch.number, self._signature())
        return Pbft(
            chain=self._chain,
            epochs=self._epochs,
            executed=executed,
            header=header,
            stable=stable,
            check=self._check,
            limits=self._limits,
            outbox=self._outbox,
            timers=self._timers,
        )

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
        return self._pbft.ordering.view

    @property
    def active(self) -> bool:
        """False during a view change."""
        return self._pbft.ordering.active

    @property
    def voting(self) -> bool:
        """Whether we say what is signed; else we observe."""
        return self._outbox.voting

    @property
    def delivered(self) -> int:
        """The height up to which blocks were handed to execution."""
        return self._pbft.delivered

    @property
    def executed(self) -> int:
        """The height that the shell has executed."""
        return self._pbft.checkpoints.executed

    @property
    def stable(self) -> CheckpointCertificate | None:
        """The newest stable checkpoint: its height is the low watermark."""
        return self._pbft.checkpoints.stable

    @property
    def primary(self) -> str:
        """The primary of the current view."""
        return self._pbft.ordering.primary

    @property
    def may_propose(self) -> bool:
        """Whether `Propose` is welcome: primary of an active view, with room in the window."""
        return self.halted is None and self._pbft.ordering.may_propose

    @property
    def next_sequence(self) -> int:
        """The sequence number that the next `Propose` gets: what it holds must be good for it."""
        return self._pbft.ordering.next

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
            self._pbft.complete_store()
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
        kept.extend(self._pbft.entries())
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
                    self._pbft.ordering.propose(payload)
                case Received(envelope):
                    self._on_message(envelope)
                case TimerFired(timer) if self._timers.fired(timer):
                    self._on_timer(timer.name)
                case Executed():
                    self._on_executed(event)
                case Pending(waiting, omitted):
                    self._waiting = waiting
                    self._pbft.complaints.pending(waiting, omitted)
                case Connected(peer):
                    self._pbft.status.connected(peer)
            self._settle()
        except Diverged as divergence:
            self._halt(divergence)
        return self._outbox.take()

    def _halt(self, divergence: Diverged) -> None:
        self.halted = str(divergence)
        self._outbox.put(Halt(self.halted))

    def _settle(self) -> None:
        """Turn, lead a view or deliver what is now due; then set the timers as the state asks."""
        self._turn()
        self._pbft.settle()
        self._deliver_decided()
        self._pbft.set_timers(waiting=self._waiting)
        if self._resting and not self._at_rest():
            self._set_status_timer()

    # Messages and timers

    def _on_message(self, envelope: Envelope) -> None:
        if envelope.sender == self.me:
            return
        try:
            if is_signed(envelope.body):
                self._pbft.on_message(envelope)
            elif self._hears(envelope.sender):
                self._on_transfer(envelope)
        except Refused as refusal:
            self._outbox.reject(envelope.sender, refusal)

    def _hears(self, sender: str) -> bool:
        """Whether transfer from this peer counts; of any epoch, for it brings one who lags along.

        Of peers without a seat so many are heard in a status period: what we give and note for each
        peer is bounded by that.
        """
        if self.epoch.validators.get(sender) is not None:
            return True
        if len(self._guests) < GUESTS_MAX:
            self._guests.add(sender)
        return sender in self._guests

    def _on_transfer(self, envelope: Envelope) -> None:
        sender = envelope.sender
        match envelope.body:
            case Status() as body:
                self._on_status(envelope, body)
            case PayloadRequest() as body:
                self._pbft.ordering.on_payload_request(sender, body)
            case PayloadReply() as body:
                self._pbft.ordering.on_payload_reply(envelope, body)
            case BlockRequest() as body:
                self._catch_up.on_block_request(sender, body, self.executed)
            case BlockReply() as body:
                self._on_block_reply(sender, body)

    def _on_timer(self, name: TimerName) -> None:
        match name:
            case TimerName.VIEW:
                self._pbft.on_view_timer()
            case TimerName.PACE:
                self._pbft.complaints.pace.tick()
            case TimerName.STATUS:
                self._guests.clear()
                self._broadcast_status()
                self._pbft.ordering.retry(self._attempt)
                self._attempt += 1
                self._catch_up.tick(self.delivered)

    # The turn of an epoch

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
            self._pbft = self._begin(stable.height, stable.header, stable)
            self._recall()
            self._broadcast_status()

    def _recall(self) -> None:
        """Take back what the journal holds of this epoch, and deliver what was decided in it."""
        decided = self._pbft.recall(self._recollection.take(self.epoch.number))
        while (block := decided.get(self.delivered + 1)) is not None:
            self._deliver(block)
        self._pbft.ordering.resume()

    # Blocks: delivered, executed, fetched

    def _deliver_decided(self) -> None:
        """Deliver the blocks that are next, ordered here or fetched; fetch on where there is more.

        A fetched payload is new to the journal.
        """
        while self._may_deliver():
            block = self._next_block()
            if block is None:
                break
            if self._pbft.ordering.payloads.get(block.certificate.digest) is None:
                self._outbox.persist(Held(block.certificate.sequence, block.payload))
            self._outbox.persist(block.certificate)
            self._deliver(block)
        if self._may_deliver():
            self._catch_up.go_on(self.delivered)

    def _may_deliver(self) -> bool:
        waiting = self.delivered - self.executed
        return waiting < UNEXECUTED_MAX and self.delivered < self._pbft.reach(self.executed)

    def _next_block(self) -> Block | None:
        sequence = self.delivered + 1
        return self._pbft.ordering.block(sequence) or self._catch_up.take(sequence)

    def _deliver(self, block: Block) -> None:
        certificate = block.certificate
        self._unexecuted[certificate.sequence] = block
        self._outbox.put(Deliver(certificate.sequence, block.payload, certificate))
        self._pbft.on_delivered(certificate)
        self._catch_up.forget(self.delivered)

    def _on_executed(self, executed: Executed) -> None:
        height, epoch = executed.height, executed.epoch
        assert height <= self.delivered, f"executed {height}, delivered {self.delivered}"
        if epoch is not None:
            assert epoch.first == height + self._limits.window + 1, f"{epoch.first} set at {height}"
            self._epochs.schedule(epoch)
        certificate = self._unexecuted.pop(height).certificate
        if certificate.view == self.view:
            null = certificate.digest == NULL_DIGEST
            self._pbft.complaints.executed(hollow=not (executed.wrote or null or self.turning))
        self._pbft.on_executed(height, executed.header)

    def _on_block_reply(self, sender: str, reply: BlockReply) -> None:
        self._pbft.observe(reply.stable)
        self._turn()  # the blocks are perhaps the next epoch's
        reach, verifier = self._pbft.reach(self.executed), self._pbft.verifier
        self._catch_up.on_block_reply(sender, reply, self.delivered, reach, verifier)

    # Status

    def _on_status(self, envelope: Envelope, status: Status) -> None:
        sender = envelope.sender
        self._pbft.on_status(envelope, status)
        self._catch_up.heard(sender, status.executed)
        if status.stable is not None and status.stable.height > self.delivered:
            self._catch_up.ask(sender, self.delivered)  # it no longer has votes to send again

    def _broadcast_status(self) -> None:
        self._set_status_timer()
        self._pbft.status.broadcast(self._status_delay_ms() // self._limits.status_ms)

    def _set_status_timer(self) -> None:
        self._resting = self._at_rest()
        self._timers.set(TimerName.STATUS, self._status_delay_ms())

    def _status_delay_ms(self) -> int:
        return self._limits.status_idle_ms if self._resting else self._limits.status_ms

    def _at_rest(self) -> bool:
        """Whether everything heard of is certified, so that only peers can lack something."""
        behind = self._catch_up.behind(self.delivered)
        return self._pbft.at_rest and not self._waiting and not behind
