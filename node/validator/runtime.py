"""The one place where consensus events become effects on disk, network, chain and clock.

Events are taken in batches: all their effects are worked off, then the journal is synced once, and
only then do messages leave. So one sync serves many slots, and nothing is said before it is
remembered. A turn executes a bounded number of blocks: a node that catches up still answers.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import structlog

from consensus.event import (
    Broadcast,
    CancelTimer,
    Certified,
    Connected,
    Deliver,
    Effect,
    Event,
    Executed,
    Fault,
    Halt,
    Pending,
    Persist,
    Propose,
    Received,
    Rejected,
    Send,
    SetTimer,
    Timer,
    TimerFired,
    TimerName,
    Turned,
)
from consensus.message import (
    COMPLAINTS_MAX,
    CommitCertificate,
    Envelope,
    Status,
    decode_envelope,
    encode_envelope,
    is_signed,
    signing_digest,
)
from consensus.replica import Replica
from node.validator.chain import CLOCK_SKEW_MS_MAX, Chain
from node.validator.halted import Halted, Outdated
from node.validator.journal import Journal
from node.validator.mempool import Mempool
from node.validator.promises import Promises
from node.validator.signatures import Check, Signatures
from node.validator.store import BlockRow
from node.validator.threads import to_the_end
from vm.block import PAYLOAD_BYTES_MAX, PAYLOAD_ITEMS_MAX, TRANSACTIONS_MAX, Payload
from vm.certificate import CheckpointCertificate
from vm.evidence import Evidence
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.state import State

EVENTS_MAX = 4_096  # waiting for the loop; a full queue stops reading from peers
BATCH_EVENTS_MAX = 256  # between two syncs, so that messages do not wait for ever
DECODE_ON_LOOP_BYTES_MAX = 16 * 1024  # votes and statuses; larger ones are read in a thread
PIPELINE_TRANSACTIONS_MIN = 200  # waiting before a block is proposed beside one in flight
GATHER_MS = 25  # after the first transaction: what several sites send at once is one block's work
TURN_STEPS_MAX = 32  # of the replica between two syncs: each may execute a block
# Executed between two syncs, and more only within one block: half a second in which peers, whose
# pings are answered by the same loop, have no answer.
TURN_TRANSACTIONS_MAX = TRANSACTIONS_MAX
THREADS = 2  # for signatures and syncs alone: neither waits behind blobs
DEADLINE_GRACE_MS = CLOCK_SKEW_MS_MAX  # until backups time it: their clocks may be so far ahead
IN_FLIGHT_MAX = 4  # own proposals not executed yet: full ones are 16 MiB on every link

T = TypeVar("T")

log = structlog.get_logger()


class Network(Protocol):
    """How consensus messages leave: the mesh of validators, or a wire in a test."""

    def send(self, to: str, data: bytes) -> None:
        """Queue for one validator; may be lost."""

    def broadcast(self, data: bytes) -> None:
        """Queue for every other validator; may be lost."""


class Node(Protocol):
    """Who hears what became of it: the rest of the validator, or a test."""

    def on_executed(self, row: BlockRow) -> None:
        """A block was executed."""

    def on_certified(self, certificate: CheckpointCertificate) -> None:
        """A header of ours is certified, and the store has the certificate."""

    def on_turned(self, epoch: Epoch) -> None:
        """An epoch begins."""

    def on_status(self, peer: str, status: Status) -> None:
        """A peer has said where it stands."""

    def on_fault(self, evidence: Evidence) -> None:
        """A validator signed two contents for one slot; the store has the evidence."""

    def on_forgotten(self) -> None:
        """Our key has promised what our journal does not know: it must never vote again."""


class Runtime:
    """Drives one replica.

    `protocols` are the versions that this software knows: before the first block of another one
    `run` raises `Outdated`.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        chain: Chain,
        journal: Journal,
        mempool: Mempool,
        network: Network,
        node: Node,
        protocols: frozenset[str],
        next_deadline: Callable[[State], int | None],
        clock_ms: Callable[[], int],
    ) -> None:
        self.replica = replica
        self._chain = chain
        self._journal = journal
        self._mempool = mempool
        self._network = network
        self._node = node
        self._protocols = protocols
        self._next_deadline = next_deadline
        self._clock_ms = clock_ms
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(EVENTS_MAX)
        self._follow_up: deque[Event] = deque()
        self._effects: deque[Effect] = deque()  # of steps taken, in order; a full turn leaves some
        self._outbox: list[Broadcast | Send] = []
        self._certified: list[CheckpointCertificate] = []
        self._timers: dict[TimerName, asyncio.TimerHandle] = {}
        self._gathering: asyncio.TimerHandle | None = None
        self._gathered = False  # what waits has waited for others long enough
        self._alarms: list[asyncio.TimerHandle] = []  # for the deadline
        self._deadline_ms: int | None = None
        self._promises = Promises(replica.me, journal.entries)
        self._pool = ThreadPoolExecutor(THREADS, "consensus")
        self._signatures = Signatures(self._pool)
        self._steps = 0  # of this turn
        self._executed = 0  # transactions, in this turn
        self._view = (0, 0)  # epoch and view
        self._pending = Pending(False)

    # What others hand in

    async def receive(self, peer: str, data: bytes) -> None:
        """A message from `peer`: make sure of its sender, then queue it.

        What is signed may come by way of others; its signature is verified off the loop. Transfer
        is good if it came from its sender, which the connection has proven.
        """
        try:
            large = len(data) > DECODE_ON_LOOP_BYTES_MAX
            envelope = await self._aside(decode_envelope, data) if large else decode_envelope(data)
        except Refused as refused:
            log.warning("message.refused", code=refused.code, reason=refused.message)
            return
        if is_signed(envelope.body):
            genuine = await self._is_signed_by_seat(envelope)
        else:
            genuine = envelope.sender == peer
        if genuine:
            if isinstance(envelope.body, Status):
                self._node.on_status(peer, envelope.body)
            await self._events.put(Received(envelope))
        else:
            log.warning("message.signature", sender=envelope.sender, kind=envelope.body.TAG)

    async def _is_signed_by_seat(self, envelope: Envelope) -> bool:
        if envelope.epoch >= len(self._chain.epochs):
            return False
        seat = self._chain.epochs[envelope.epoch].validators.get(envelope.sender)
        if seat is None:
            return False
        message = signing_digest(self._chain.id, envelope.epoch, envelope.body)
        return await self._signatures.good(Check(seat.key, message, envelope.seal))

    async def _aside(self, work: Callable[..., T], *arguments: object) -> T:
        """Run in a thread of our own."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def connected(self, peer: str) -> None:
        """A validator can be reached."""
        await self._events.put(Connected(peer))

    def wake(self) -> None:
        """The mempool has news, or a deadline is due."""
        if not self._events.full():  # a full queue wakes the loop anyway
            self._events.put_nowait(None)

    # The loop

    async def run(self) -> None:
        """Recover from the journal, then work until cancelled.

        Raises `Halted`, `Outdated`, and `Refused("journal.old")` if others hold a promise of ours
        that the journal lacks.
        """
        try:
            self._watch_deadline()
            await self._turn(lambda: self._perform(self.replica.recover(self._journal.entries)))
            self._journal.entries.clear()
            while True:
                events = await self._take()
                await self._turn(partial(self._follow_up.extend, events))
        finally:
            self._pool.shutdown(wait=False)

    async def _take(self) -> list[Event]:
        """What has come; waits for something unless an earlier turn left work."""
        left = self._follow_up or self._effects
        events = [] if left else [await self._events.get()]
        while len(events) < BATCH_EVENTS_MAX and not self._events.empty():
            events.append(self._events.get_nowait())
        return [event for event in events if event is not None]

    async def _turn(self, begin: Callable[[], None]) -> None:
        """Work off effects, sync once, send: in this order also when the software is too old."""
        self._steps = self._executed = 0
        outdated = None
        try:
            begin()
            self._drain()
            self._tell_pending()
            self._propose()
        except Outdated as error:
            outdated = error
        if self._journal.dirty:
            await to_the_end(self._journal.sync, self._pool)
        self._flush()
        if outdated is not None:
            raise outdated
        if self._journal.oversized:
            await to_the_end(self._chain.store.sync, self._pool)
            await to_the_end(partial(self._journal.replace, self.replica.entries()), self._pool)
        await asyncio.sleep(0)  # others have their turn, however much is left

    def _drain(self) -> None:
        """Hand the replica what its own effects led to; the next turn goes on where this ends."""
        self._perform(())
        while self._follow_up and not self._effects and self._steps < TURN_STEPS_MAX:
            self._steps += 1
            self._perform(self.replica.step(self._follow_up.popleft()))
        view = (self.replica.epoch.number, self.replica.view)
        if view != self._view:
            self._view = view
            self._mempool.release()

    def _perform(self, effects: Sequence[Effect]) -> None:
        """Do these behind what an earlier turn has left, as many as the turn has room for."""
        self._effects.extend(effects)
        while self._effects and self._executed < TURN_TRANSACTIONS_MAX:
            effect = self._effects.popleft()
            match effect:
                case Persist(entry):
                    self._journal.append(entry)
                    self._promises.remember(entry)
                case Broadcast() | Send():
                    self._outbox.append(effect)
                case Deliver(sequence, payload, certificate):
                    self._deliver(sequence, payload, certificate)
                case Certified(certificate):
                    known = self._promises.knows_checkpoint(certificate)
                    self._expect_known(certificate.height, known)
                    self._certified.append(certificate)
                case Turned(epoch):
                    self._journal.sync()
                    self._write_certified()  # the last one leads everybody else into this epoch
                    self._chain.store.sync()  # entries of this epoch may rely on the blocks before
                    if epoch.protocol not in self._protocols:
                        raise Outdated(epoch, self._protocols)
                    self._node.on_turned(epoch)
                case SetTimer(timer, delay_ms):
                    self._set_timer(timer, delay_ms)
                case CancelTimer(name):
                    self._cancel_timer(name)
                case Fault(evidence):
                    self._chain.store.write_evidence(evidence)
                    kind = evidence.slot.kind.value
                    log.error("peer.equivocation", peer=evidence.validator, slot=kind)
                    self._node.on_fault(evidence)
                case Rejected(peer, code, message):
                    log.info("message.rejected", peer=peer, code=code, reason=message)
                case Halt(reason):
                    raise Halted(reason)

    def _deliver(self, sequence: int, payload: bytes, certificate: CommitCertificate) -> None:
        epoch = self._chain.epoch_at(sequence).number
        view = self.replica.view
        self._expect_known(sequence, self._promises.knows_commit(epoch, view, certificate))
        header = self._chain.execute(sequence, payload, certificate)
        row = self._chain.row(sequence)
        assert row is not None, "the block was just written"
        self._executed += len(row.receipts)
        self._after_block(row)
        if payload and certificate.view == view:
            self._pass_over(row, payload)
        self._follow_up.append(Executed(sequence, header.digest, self._chain.scheduled, row.wrote))

    def _expect_known(self, height: int, known: bool) -> None:
        """Stop if a vote of ours at this height is not known, and was given with our key of now.

        In an earlier epoch the seat may have had another key, and that one another journal.
        """
        epoch = self._chain.epoch_at(height).number
        if known or epoch != self.replica.epoch.number or not self.replica.voting:
            return
        self._node.on_forgotten()
        raise Refused(
            "journal.old",
            "expected a journal with all that its key has promised, found a promise of ours in a "
            "certificate that the journal lacks: this home, or its journal, is an older copy. The "
            "key never votes again. Start again to observe, and run: concilium validator rotate",
        )

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        for effect in outbox:
            match effect:
                case Broadcast(envelope):
                    self._network.broadcast(encode_envelope(envelope))
                case Send(to, envelope):
                    self._network.send(to, encode_envelope(envelope))
        self._write_certified()

    def _write_certified(self) -> None:
        """Put certificates into the store: only now that the journal has them on disk."""
        certified, self._certified = self._certified, []
        for certificate in certified:
            self._chain.store.write_certificate(certificate)
            self._node.on_certified(certificate)

    # Proposing and pending work

    def _propose(self) -> None:
        while self.replica.may_propose:
            in_flight = self.replica.next_sequence - 1 - self._chain.head.height
            if in_flight and self._mempool.waiting < PIPELINE_TRANSACTIONS_MIN:
                return
            if in_flight >= IN_FLIGHT_MAX or self._gathers():
                return
            drawn = self._mempool.draw(self.replica.next_sequence)
            if not drawn and (in_flight or not self._due(0)):
                return
            self._gathered = False
            proposal = Propose(pack(Payload(self._clock_ms(), drawn)))
            self._perform(self.replica.step(proposal))

    def _gathers(self) -> bool:
        """Whether a block waits for what comes right after the first transaction in it."""
        waiting = self._mempool.waiting
        if self._gathered or not waiting or waiting >= PIPELINE_TRANSACTIONS_MIN or self._due(0):
            return False
        if self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(GATHER_MS / 1_000, self._end_gathering)
        return True

    def _end_gathering(self) -> None:
        self._gathering, self._gathered = None, True
        self.wake()

    def _tell_pending(self) -> None:
        waiting = len(self._mempool) > 0 or self._due(DEADLINE_GRACE_MS)
        pending = Pending(waiting, self._mempool.omitted(COMPLAINTS_MAX))
        if pending != self._pending:
            self._pending = pending
            self._perform(self.replica.step(pending))

    def _due(self, grace_ms: int) -> bool:
        """Whether a block is wanted without transactions: for a deadline, or to get to an epoch.

        A backup allows for the primary's clock: else one whose own is ahead would leave the view
        alone at each deadline, and be missing from it.
        """
        due_ms = self._deadline_ms
        late = due_ms is not None and due_ms + grace_ms <= self._clock_ms()
        return late or self.replica.turning

    def _after_block(self, row: BlockRow) -> None:
        self._mempool.remove(receipt.transaction for receipt in row.receipts)
        self._mempool.expire(row.header.height + 1)
        self._watch_deadline()
        self._node.on_executed(row)

    def _pass_over(self, row: BlockRow, payload: bytes) -> None:
        """What waits still was left out of a block of the current primary."""
        items = unpack(Payload, payload, PAYLOAD_BYTES_MAX, PAYLOAD_ITEMS_MAX).transactions
        self._mempool.passed_over([items[position] for position in row.positions])

    def _watch_deadline(self) -> None:
        self._deadline_ms = self._next_deadline(self._chain.state())
        for alarm in self._alarms:
            alarm.cancel()
        self._alarms.clear()
        if self._deadline_ms is None:
            return
        for grace_ms in (0, DEADLINE_GRACE_MS):
            delay_ms = max(0, self._deadline_ms + grace_ms - self._clock_ms())
            alarm = asyncio.get_running_loop().call_later(delay_ms / 1_000, self.wake)
            self._alarms.append(alarm)

    # Timers

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        self._cancel_timer(timer.name)
        loop = asyncio.get_running_loop()
        self._timers[timer.name] = loop.call_later(delay_ms / 1_000, self._fire, timer)

    def _cancel_timer(self, name: TimerName) -> None:
        handle = self._timers.pop(name, None)
        if handle is not None:
            handle.cancel()

    def _fire(self, timer: Timer) -> None:
        if self._events.full():  # overload: try again when the loop has caught up
            self._set_timer(timer, 100)
        else:
            self._events.put_nowait(TimerFired(timer))


def wall_clock_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
