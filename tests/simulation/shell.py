"""A validator's shell without a machine: the runtime's work on a disk and a clock of memory.

It does what `node.validator.runtime` does, in the same order: all effects of a turn, then one sync,
then what is to be sent. Between any two of these steps the process can end (`Surroundings.strike`).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from consensus.event import (
    Broadcast,
    CancelTimer,
    Certified,
    Deliver,
    Effect,
    Event,
    Executed,
    Halt,
    Limits,
    Pending,
    Persist,
    Propose,
    Received,
    Send,
    SetTimer,
    Timer,
    TimerFired,
    TimerName,
    Turned,
)
from consensus.journal import Entry, frame, read_frames
from consensus.message import (
    COMPLAINTS_MAX,
    decode_envelope,
    encode_envelope,
    is_signed,
    signing_digest,
)
from consensus.outbox import Sign
from consensus.replica import History, Replica, Start
from node.validator.chain import Chain
from node.validator.journal import IDENTITY_BYTES
from node.validator.mempool import Mempool
from node.validator.promises import Promises
from node.validator.runtime import DEADLINE_GRACE_MS
from node.validator.store import Store
from tests.simulation.disk import Disk
from tests.simulation.network import Parcel
from tests.simulation.signatures import signer
from vm.access import check_access
from vm.block import PAYLOAD_BYTES_MAX, PAYLOAD_ITEMS_MAX, Header, Payload, Receipt
from vm.certificate import CheckpointCertificate
from vm.execute import Program
from vm.genesis import Genesis
from vm.keys import SigningKey, verify
from vm.record import Member
from vm.refusal import Refused
from vm.shape import PublicKey, pack, unpack
from vm.state import State
from vm.transaction import Verified, read

JOURNAL_BYTES_MAX = 8 * 1024  # before it is made anew: several times in a run
PIPELINE_TRANSACTIONS_MIN = 2  # waiting before a block is proposed beside one in flight
IN_FLIGHT_MAX = 4
TURN_MS_MAX = 2  # what arrives meanwhile shares the next turn and its sync
BATCH_EVENTS_MAX = 16
RESEND_MS = 1_000  # between two looks for transactions that still wait
RESEND_MAX = 50


class Crashed(Exception):  # noqa: N818 - what befalls a process
    """The process ends here."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A certified receipt: what a client holds when its transaction is acknowledged."""

    receipt: Receipt
    header: Header  # of the receipt's block
    receipts: tuple[Receipt, ...]  # all of the block: its header holds their root
    certificate: CheckpointCertificate  # of this height or a later one


class Surroundings(Protocol):
    """What a shell needs of the world."""

    genesis: Genesis
    program: Program
    limits: Limits

    def next_deadline(self, state: State) -> int | None:
        """When a block is due without transactions, in milliseconds UTC."""

    def now_ms(self, shell: "Shell") -> int:
        """The shell's own clock."""

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Act after the delay."""

    def turn_ms(self) -> int:
        """How long until a turn begins."""

    def send(self, sender: str, receiver: str | None, parcel: Parcel) -> None:
        """Carry a message to a receiver, or to all."""

    def gossip(self, sender: str, packed: bytes) -> None:
        """Carry a transaction to all other validators."""

    def strike(self, shell: "Shell") -> None:
        """Between two steps; raises `Crashed` if the process ends here."""

    def ended(self, shell: "Shell", why: str) -> None:
        """The process has ended."""

    def watch(self, shell: "Shell", effect: Effect) -> None:
        """An effect was run."""

    def rotated(self, shell: "Shell", entries: Sequence[Entry]) -> None:
        """The journal was made anew."""

    def draw(self, shell: "Shell", drawn: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """What of these transactions is proposed: all, by whoever is honest."""

    def floods(self, shell: "Shell") -> bool:
        """Whether it proposes blocks that nobody wants: never, if it is honest."""


class Shell:
    """One validator; `start` begins a life, `end` ends it wherever it is."""

    def __init__(
        self,
        name: str,
        key: SigningKey,
        around: Surroundings,
        *,
        drift: float,
        skew_ms: int,
        execution_ms: int,
    ) -> None:
        self.name = name
        self.disk = Disk()
        self.drift = drift  # of its timers
        self.skew_ms = skew_ms  # of its clock
        self.up = False
        self.life = 0  # counts starts: what an earlier life scheduled is void
        self.halted: str | None = None
        self.forgetful = False  # whether a real validator would take its journal for lost
        self.keys: dict[PublicKey, Sign] = {}  # that it may use, by public key
        self.hold(key)
        self._around = around
        self._execution_ms = execution_ms  # until an executed block is reported; 0: in its turn

    # A life

    def start(self) -> None:
        """Begin on whatever the disk holds."""
        around = self._around
        self.up, self.life = True, self.life + 1
        self._inbox: deque[Event] = deque()
        self._follow_up: deque[Event] = deque()
        self._outbox: list[Broadcast | Send] = []
        self._certified: list[Certified] = []
        self._timers: dict[TimerName, Timer] = {}
        self._view = (0, 0)  # epoch and view
        self._pending = Pending(waiting=False)
        self._turning = False
        self._idle_ms = 0  # when the last execution will be reported
        self._deadline_ms: int | None = None
        self._kept_bytes = 0  # of the journal when it was last made anew
        self._waited: set[bytes] = set()
        self.mempool = Mempool()
        self.disk.database.open()
        store = Store(self.disk.database)
        self.chain = Chain(store, around.genesis, around.program, self.mempool.by_bytes)
        self.replica = self._make(store)
        self._guard(self._recover)
        self._schedule(RESEND_MS, self._resend)

    def kill(self) -> None:
        """End the process alone: what it has written is there, synced or not, till power fails."""
        self.up = self.disk.journal.dirty = False

    def end(self, *, batches: int, kept: int, zeros: int) -> None:
        """End the process; of the unsynced so many batches and journal bytes were written."""
        self.up = False
        self.disk.database.crash(batches)
        self.disk.journal.crash(kept, zeros)

    def hold(self, key: SigningKey) -> None:
        """Have another key, made for the journal in use."""
        self.keys[key.public] = signer(key)

    def lose_journal(self, rng: Random) -> bool:
        """Its journal is damaged while it is down: its keys never vote again, and it may observe.

        What `concilium validator recover` does. Whether the damage would have been noticed.
        """
        journal = self.disk.journal
        try:
            journal.open()
            noticed = not journal.synced or read_frames(journal.damage(rng))[1] < 0
        except Refused:
            noticed = True
        journal.replace(b"")
        self.disk.identity = rng.randbytes(IDENTITY_BYTES)
        Store(self.disk.database).bind_journal(self.disk.identity)
        self.keys.clear()
        return noticed

    def _make(self, store: Store) -> Replica:
        head, stable = self.chain.head, store.certified(self.chain.head.height)
        settled = min(head.height, 0 if stable is None else stable.height)
        first = self.chain.epoch_at(settled + 1).number
        return Replica(
            chain=self.chain.id,
            me=self.name,
            signer=self.keys.get,
            check=lambda height, payload: self.chain.check(
                height, payload, self._around.now_ms(self)
            ),
            history=History(store.blocks, store.certified, self.chain.epoch_at),
            start=Start(head.height, head.header, stable, self.chain.epochs[first:]),
            limits=self._around.limits,
        )

    def _recover(self) -> None:
        entries = self.disk.journal.open()
        self._promises = Promises(self.name, entries)
        self.forgetful = not self.disk.is_whole()
        self.chain.store.bind_journal(self.disk.identity)
        self._watch_deadline()
        self._perform(self.replica.recover(entries))
        self._drain()
        self._settle([])

    # What comes in

    def receive(self, parcel: Parcel) -> None:
        """A message from a peer; what its sender has not signed is dropped."""
        if not self.up:
            return
        envelope = parcel.envelope
        if not is_signed(envelope.body) or self._is_genuine(parcel):
            self._post(Received(envelope))

    def _is_genuine(self, parcel: Parcel) -> bool:
        envelope = parcel.envelope
        if envelope.epoch >= len(self.chain.epochs):
            return False  # so far ahead that this validator does not know the keys
        if parcel.sound is None:
            seat = self.chain.epochs[envelope.epoch].validators.get(envelope.sender)
            message = signing_digest(self.chain.id, envelope.epoch, envelope.body)
            parcel.sound = seat is not None and verify(seat.key, message, envelope.seal)
        return parcel.sound

    @property
    def certified(self) -> int:
        """The newest height that it serves."""
        certificate = self.chain.store.certified(self.chain.head.height)
        return 0 if certificate is None else certificate.height

    def submit(self, packed: bytes, *, forward: bool = False) -> Proof | None:
        """A transaction from a peer, or from a client (`forward`); its proof, if there is one."""
        if not self.up:
            return None
        try:
            transaction = self.mempool.by_bytes.get(packed) or read(packed, self.chain.id)
            proof = self._prove(transaction)
            if proof is not None or self.chain.store.place(transaction.id) is not None:
                return proof
            self._check_access(transaction)
            fresh = self.mempool.admit(transaction, self.chain.head.height + 1)
        except Refused:
            return None
        if fresh:
            self._wake()
            if forward:
                self._around.gossip(self.name, packed)
        return None

    def _check_access(self, transaction: Verified) -> None:
        intent = transaction.intent
        member = self.chain.state().get(Member, intent.sender)
        check_access(intent.kind, member, intent.sender, intent.public_key)

    def _prove(self, transaction: Verified) -> Proof | None:
        store = self.chain.store
        place = store.place(transaction.id)
        if place is None:
            return None
        certificate = store.certified(self.chain.head.height)
        if certificate is None or certificate.height < place.height:
            return None
        exact = store.certificate(place.height)
        row = store.row(place.height)
        if row is None:
            return None  # from before this validator came
        return Proof(row.receipts[place.index], row.header, row.receipts, exact or certificate)

    # Turns

    def _post(self, event: Event) -> None:
        self._inbox.append(event)
        self._wake()

    def _wake(self) -> None:
        if not self._turning:
            self._turning = True
            self._schedule(self._around.turn_ms(), self._turn)

    def _schedule(self, delay_ms: int, action: Callable[[], None]) -> None:
        life = self.life

        def act() -> None:
            if self.up and self.life == life:
                self._guard(action)

        self._around.later(delay_ms, act)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Crashed:
            self._around.ended(self, "crash")
        except OSError as error:  # no room: the process says so and ends
            self._around.ended(self, str(error.strerror))

    def _turn(self) -> None:
        self._turning = False
        events = [self._inbox.popleft() for _ in range(min(BATCH_EVENTS_MAX, len(self._inbox)))]
        self._settle(events)
        if self._inbox:
            self._wake()

    def _settle(self, events: Sequence[Event]) -> None:
        for event in events:
            self._step(event)
        self._tell_pending()
        self._propose()
        self._around.strike(self)
        if self.disk.journal.dirty:
            self.disk.journal.sync()
        self._flush()
        if len(self.disk.journal.synced) > max(JOURNAL_BYTES_MAX, 2 * self._kept_bytes):
            self._rotate()

    def _step(self, event: Event) -> None:
        self._follow_up.append(event)
        self._drain()

    def _drain(self) -> None:
        while self._follow_up:
            self._perform(self.replica.step(self._follow_up.popleft()))
        view = (self.replica.epoch.number, self.replica.view)
        if view != self._view:
            self._view = view
            self.mempool.release()

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._around.strike(self)
            match effect:
                case Persist(entry):
                    self.disk.journal.append(frame(entry))
                    self._promises.remember(entry)
                case Broadcast() | Send():
                    self._outbox.append(effect)
                case Deliver():
                    self._execute(effect)
                case Certified(certificate):
                    self._expect_known(self._promises.knows_checkpoint(certificate))
                    self._certified.append(effect)
                case Turned():
                    self.chain.store.sync()  # before any later entry of the journal is
                case SetTimer(timer, delay_ms):
                    self._set_timer(timer, delay_ms)
                case CancelTimer(name):
                    self._timers.pop(name, None)
                case Halt(reason):
                    self.halted = reason
            if not isinstance(effect, Broadcast | Send | Certified):
                self._around.watch(self, effect)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        for effect in outbox:
            self._around.strike(self)
            to = effect.to if isinstance(effect, Send) else None
            self._around.watch(self, effect)
            self._around.send(self.name, to, Parcel(effect.envelope))
        certified, self._certified = self._certified, []
        for done in certified:  # only now: the journal has them on disk
            self._around.strike(self)
            self.chain.store.write_certificate(done.certificate)
            self._around.watch(self, done)

    def _rotate(self) -> None:
        self.chain.store.sync()
        self._around.strike(self)
        entries = self.replica.entries()
        fresh = b"".join(map(frame, entries))
        self.disk.journal.replace(fresh)
        self._around.rotated(self, entries)
        self._kept_bytes = len(fresh)

    # Execution

    def _expect_known(self, known: bool) -> None:
        """A real validator would bar its key for a promise that its journal lacks."""
        self.forgetful = self.forgetful or (self.replica.voting and not known)

    def _execute(self, effect: Deliver) -> None:
        epoch = self.chain.epoch_at(effect.sequence).number
        view, certificate = self.replica.view, effect.certificate
        self._expect_known(self._promises.knows_commit(epoch, view, certificate))
        header = self.chain.execute(effect.sequence, effect.payload, effect.certificate)
        row = self.chain.store.row(effect.sequence)
        assert row is not None, "the block was just written"
        self.mempool.remove(receipt.transaction for receipt in row.receipts)
        self.mempool.expire(effect.sequence + 1)
        self._watch_deadline()
        if effect.payload and effect.certificate.view == self.replica.view:
            items = unpack(Payload, effect.payload, PAYLOAD_BYTES_MAX, PAYLOAD_ITEMS_MAX)
            self.mempool.passed_over([items.transactions[place] for place in row.positions])
        answer = Executed(effect.sequence, header.digest, self.chain.scheduled, row.wrote)
        if self._execution_ms == 0:
            self._follow_up.append(answer)
            return
        now_ms = self._around.now_ms(self)
        self._idle_ms = max(now_ms, self._idle_ms) + self._execution_ms
        self._schedule(self._idle_ms - now_ms, lambda: self._post(answer))

    # Requests

    def _tell_pending(self) -> None:
        waiting = len(self.mempool) > 0 or self._due(DEADLINE_GRACE_MS)
        pending = Pending(waiting, self.mempool.omitted(COMPLAINTS_MAX))
        if pending != self._pending:
            self._pending = pending
            self._step(pending)

    def _propose(self) -> None:
        while self.replica.may_propose:
            in_flight = self.replica.next_sequence - 1 - self.chain.head.height
            if in_flight and self.mempool.waiting < PIPELINE_TRANSACTIONS_MIN:
                return
            if in_flight >= IN_FLIGHT_MAX:
                return
            drawn = self._around.draw(self, self.mempool.draw(self.replica.next_sequence))
            if not drawn and (in_flight or not (self._due(0) or self._around.floods(self))):
                return
            self._step(Propose(pack(Payload(self._around.now_ms(self), drawn))))

    def _due(self, grace_ms: int) -> bool:
        """Whether a block is wanted without transactions."""
        due_ms = self._deadline_ms
        late = due_ms is not None and due_ms + grace_ms <= self._around.now_ms(self)
        return late or self.replica.turning

    def _watch_deadline(self) -> None:
        before, due_ms = self._deadline_ms, self._around.next_deadline(self.chain.state())
        self._deadline_ms = due_ms
        if due_ms is not None and due_ms != before:
            for grace_ms in (0, DEADLINE_GRACE_MS):
                delay_ms = max(0, due_ms + grace_ms - self._around.now_ms(self))
                self._schedule(delay_ms, self._wake)

    def _resend(self) -> None:
        """Give away again what waited at the last call too."""
        oldest = self.mempool.oldest(RESEND_MAX)
        for packed in oldest:
            if packed in self._waited:
                self._around.gossip(self.name, packed)
        self._waited = set(oldest)
        self._schedule(RESEND_MS, self._resend)

    # Timers

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        self._timers[timer.name] = timer

        def fire() -> None:
            if self._timers.get(timer.name) == timer:
                del self._timers[timer.name]
                self._post(TimerFired(timer))

        self._schedule(round(delay_ms * self.drift), fire)


def through_bytes(parcel: Parcel) -> Parcel:
    """The same parcel after its way over a wire."""
    return Parcel(decode_envelope(encode_envelope(parcel.envelope)))
