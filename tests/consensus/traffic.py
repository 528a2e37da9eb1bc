"""Replicas with their mempools and a shell like the real one, under requests, in simulated time.

Messages take `delay_ms`, execution takes `execution_ms` a transaction and keeps a node from all
else, as the shell's loop does. Nothing is lost. What a primary proposes is its `policy`, so that a
test can write a faulty one in a few lines.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection

from consensus.event import (
    Deliver,
    Effect,
    Event,
    Limits,
    Pending,
    Propose,
    Received,
    SetTimer,
    TimerFired,
)
from consensus.message import COMPLAINTS_MAX, Body, Envelope, ViewChange
from node.validator import runtime
from node.validator.mempool import Mempool
from tests.consensus.node import Node, validator_set
from tests.harness import as_read
from vm.block import Payload
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.transaction import TX_LIFETIME_BLOCKS_MAX, Intent, Transaction

BYTES_MAX = 4 * 1024 * 1024


def request(number: int, height: int = 0) -> Transaction:
    """One of many transactions; nobody verifies its signature here."""
    until = height + TX_LIFETIME_BLOCKS_MAX
    nonce = number.to_bytes(16, "big")
    return Transaction(Intent(bytes(32), "k", "s", bytes(32), b"x", until, nonce), bytes(64))


def items_of(payload: bytes) -> tuple[bytes, ...]:
    """The transactions of a block's payload; a null request has none."""
    return unpack(Payload, payload, BYTES_MAX, 10_000).transactions if payload else ()


class Seat:
    """A node, its mempool and what its shell remembers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.done: set[bytes] = set()  # packed transactions that were executed
        self.pool = Mempool()
        self.policy: Callable[[Seat], tuple[bytes, ...]] = fair
        self.told = Pending(False)
        self.view = 0
        self.busy_ms = 0  # until when it executes
        self.proposed_ms = 0  # when it last proposed

    def wrote(self, payload: bytes) -> bool:
        """Whether any of a block's transactions is new: a repeat leaves no receipt."""
        return any(item not in self.done for item in items_of(payload))


def fair(seat: Seat) -> tuple[bytes, ...]:
    """What a primary without fault proposes now, perhaps nothing: see `Runtime._propose`."""
    replica = seat.node.replica
    in_flight = replica.next_sequence - 1 - replica.executed
    few = in_flight and seat.pool.waiting < runtime.PIPELINE_TRANSACTIONS_MIN
    if few or in_flight >= runtime.IN_FLIGHT_MAX:
        return ()
    return seat.pool.draw(replica.next_sequence)


class Traffic:
    """Seats and time."""

    def __init__(self, n: int = 4, limits: Limits | None = None) -> None:
        self.now_ms = 0
        self.delay_ms = 10
        self.execution_ms = 1
        self.sent: Counter[type[Body]] = Counter()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        validators = validator_set(n)
        self.seats = [
            Seat(Node(i, validators, self._wire(f"v{i:02}"), limits or Limits())) for i in range(n)
        ]
        for seat in self.seats:
            seat.node.wrote = seat.wrote
        self._by_name = {seat.node.name: seat for seat in self.seats}
        for seat in self.seats:
            self._apply(seat, seat.node.recover())

    @property
    def views(self) -> set[int]:
        """The views in which the replicas are."""
        return {seat.node.replica.view for seat in self.seats}

    @property
    def heights(self) -> list[int]:
        """How far each has come."""
        return [len(seat.node.disk.store) for seat in self.seats]

    @property
    def view_changes(self) -> int:
        """ViewChange messages sent, resent ones included."""
        return self.sent[ViewChange]

    def submit(self, item: Transaction, holders: Collection[int] | None = None) -> None:
        """Bring a request to all, or to some; who has no room refuses it."""
        for i in range(len(self.seats)) if holders is None else holders:
            seat = self.seats[i]
            try:
                seat.pool.admit(as_read(item), seat.node.replica.executed + 1)
            except Refused:
                continue
            self.at(0, lambda seat=seat: self._shell(seat))  # type: ignore[misc]

    def flow(self, every_ms: int, numbers: range) -> None:
        """Bring requests to all, one after another."""
        for i, number in enumerate(numbers):
            self.at(i * every_ms, lambda number=number: self.submit(request(number)))  # type: ignore[misc]

    def every(self, ms: int, action: Callable[[], None]) -> None:
        """Do something again and again."""

        def again() -> None:
            action()
            self.at(ms, again)

        self.at(ms, again)

    def look(self, seat: Seat) -> None:
        """Wake a shell: its policy may have become willing by the clock."""
        self._shell(seat)

    def run(self, ms: int) -> None:
        """Let time pass."""
        end = self.now_ms + ms
        while self._queue and self._queue[0][0] <= end:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
        self.now_ms = end

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something later."""
        self._order += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._order, action))

    def give(self, seat: Seat, event: Event) -> None:
        """Give a node an event, once it is done with what it executes."""
        if seat.busy_ms > self.now_ms:
            self.at(seat.busy_ms - self.now_ms, lambda: self.give(seat, event))
            return
        self._apply(seat, seat.node.step(event))
        self._shell(seat)

    def _apply(self, seat: Seat, effects: list[Effect]) -> None:
        for effect in effects:
            seat.node.apply(effect)
            match effect:
                case SetTimer(timer, delay_ms):
                    begin = max(self.now_ms, seat.busy_ms) - self.now_ms
                    event = TimerFired(timer)
                    self.at(begin + delay_ms, lambda event=event: self.give(seat, event))  # type: ignore[misc]
                case Deliver(_, payload, certificate) if payload:
                    self._after_block(seat, payload, certificate.view)
        while seat.node.answers:
            self._apply(seat, seat.node.step(seat.node.answers.pop(0)))

    def _after_block(self, seat: Seat, payload: bytes, view: int) -> None:
        items = items_of(payload)
        seat.done.update(items)
        seat.pool.remove([unpack(Transaction, item, BYTES_MAX).id for item in items])
        if view == seat.node.replica.view:
            seat.pool.passed_over(items)
        seat.busy_ms = max(self.now_ms, seat.busy_ms) + self.execution_ms * len(items)

    def _shell(self, seat: Seat) -> None:
        if seat.busy_ms > self.now_ms:
            self.at(seat.busy_ms - self.now_ms, lambda: self._shell(seat))
            return
        replica = seat.node.replica
        if replica.view != seat.view:
            seat.view = replica.view
            seat.pool.release()
        pending = Pending(len(seat.pool) > 0, seat.pool.omitted(COMPLAINTS_MAX))
        if pending != seat.told:
            seat.told = pending
            self._apply(seat, seat.node.step(pending))
        while replica.may_propose and (drawn := seat.policy(seat)):
            seat.proposed_ms = self.now_ms
            self._apply(seat, seat.node.step(Propose(pack(Payload(self.now_ms, drawn)))))

    def _wire(self, sender: str) -> Callable[[str, Envelope], None]:
        def send(receiver: str, envelope: Envelope) -> None:
            self.sent[type(envelope.body)] += 1
            begin = max(0, self._by_name[sender].busy_ms - self.now_ms)
            event = Received(envelope)
            self.at(begin + self.delay_ms, lambda: self.give(self._by_name[receiver], event))

        return send
