"""A validator as a queue: the real replica and mempool, and the runtime's turns in simulated time.

What `node.validator.runtime` does is done here in the same order: events in batches, one sync, then
what is to be sent, and only then the next turn. Meanwhile the core takes in what arrives. Journal,
store and signatures of others are costs alone: nobody crashes or lies here.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

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
)
from consensus.journal import Held
from consensus.message import (
    COMPLAINTS_MAX,
    Block,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    PayloadReply,
    Prepare,
    PrePrepare,
    encode_envelope,
    is_signed,
)
from consensus.outbox import Sign
from consensus.replica import History, Replica, Start
from consensus.window import window_max
from node.api.admission import SUBMIT_MAX
from node.validator.gossip import RESEND_MAX, RESEND_MS
from node.validator.mempool import Mempool
from node.validator.runtime import (
    BATCH_EVENTS_MAX,
    GATHER_MS,
    IN_FLIGHT_MAX,
    PIPELINE_TRANSACTIONS_MIN,
    TURN_STEPS_MAX,
)
from tests.bench.scale.costs import Costs, Work
from tests.bench.scale.requests import Book
from tests.bench.scale.timeline import Action, Clock, Core, Links
from tests.consensus.node import CHAIN, GENESIS_HEADER, execute, genesis_epoch, key_of
from tests.harness import START_MS
from vm.block import Payload
from vm.certificate import CheckpointCertificate
from vm.keys import SigningKey
from vm.quorum import Validator as Seat
from vm.quorum import ValidatorSet
from vm.refusal import Refused
from vm.shape import Digest, pack
from vm.transaction import Verified

GOSSIP = "transactions"  # frames that hand transactions on

Ask = Callable[[Replica, Event], list[Effect]]
Request = Sequence[Verified]


def seats(n: int) -> ValidatorSet:
    """Validators v00, v01, ...; v00 is the primary of view 0."""
    return ValidatorSet(
        tuple(Seat(f"v{i:02}", f"hospital-{i:02}", key_of(i).public) for i in range(n))
    )


def work_of(body: Body) -> Work:
    """For what a message is sent."""
    match body:
        case Prepare() | Commit() | Checkpoint():
            return Work.VOTES
        case PrePrepare() | PayloadReply():
            return Work.PROPOSALS
    return Work.STATUS


def named(event: Event) -> tuple[str, Work]:
    """A step's name among costs, and for what it is made."""
    match event:
        case Received(envelope):
            return envelope.body.TAG, work_of(envelope.body)
        case Propose():
            return "propose", Work.PROPOSALS
        case Executed():
            return "executed", Work.VOTES  # it is what a Checkpoint comes from
    return type(event).__name__.lower(), Work.STATUS


class Validator:
    """One validator; `peers` are all of them by index, and are set before `start`."""

    def __init__(
        self,
        index: int,
        validators: ValidatorSet,
        costs: Costs,
        clock: Clock,
        links: Links,
        book: Book,
        *,
        ask: Ask,
        sign: Callable[[SigningKey], Sign],
    ) -> None:
        self.index = index
        self.core = Core(clock)
        self.sent: Counter[str] = Counter()  # frames by kind of message
        self.sent_bytes: Counter[str] = Counter()
        self.executed = 0
        self.certified = 0
        self.peers: Sequence[Validator] = ()
        self.own_certified: Callable[[int, int], None] = lambda _place, _count: None
        self._costs, self._clock, self._links, self._book = costs, clock, links, book
        self._ask = ask
        self._pool = Mempool()
        self._done: set[bytes] = set()  # ids of executed transactions
        self._waited: set[bytes] = set()  # when transactions were handed on again
        self._header: Digest = GENESIS_HEADER
        self._blocks: dict[int, Block] = {}
        self._certificates: dict[int, CheckpointCertificate] = {}
        self._inbox: deque[Event] = deque()
        self._follow_up: deque[Event] = deque()
        self._outbox: list[Broadcast | Send] = []
        self._news: list[CheckpointCertificate] = []  # to be written after the sync
        self._timers: dict[TimerName, Timer] = {}
        self._told = Pending(waiting=False)
        self._view = 0
        self._unsynced = self._turning = self._woken = False
        self._gathering = self._gathered = False
        epoch = genesis_epoch(validators)
        signer = sign(key_of(index))
        self.replica = Replica(
            chain=CHAIN,
            me=f"v{index:02}",
            signer=lambda _key: signer,
            check=self._check,
            history=History(self._read, self._certificate, lambda _height: epoch),
            start=Start(0, GENESIS_HEADER, None, (epoch,)),
            limits=Limits(window=min(Limits().window, window_max(validators.n))),
        )

    def start(self) -> None:
        """Begin at genesis."""
        self._turning = True
        self.core.run(self._begin)

    def _begin(self) -> Action:
        self._resend_later()
        self._perform(self.replica.recover(()), Work.STATUS)
        return self._sync

    # What comes in

    def submit(self, request: Request) -> None:
        """A client's transactions."""
        self.core.run(lambda: self._admit(request, forward=True))

    def receive(self, envelope: Envelope) -> None:
        """A message of another validator."""
        self.core.run(lambda: self._read_message(envelope))

    def hear(self, request: Request) -> None:
        """Transactions that another validator hands on."""
        self.core.run(lambda: self._admit(request, forward=False))

    def _read_message(self, envelope: Envelope) -> Action:
        costs, body = self._costs, envelope.body
        cost_s = costs.frame_s + costs.decode(body.TAG)
        cost_s += len(envelope.payload or b"") * (costs.frame_byte_s + costs.decode_byte_s)
        verify_s = (costs.verify_s + costs.ask_s) * is_signed(body)
        self.core.spend(work_of(body), cost_s + verify_s)
        return lambda: self._post(Received(envelope))

    def _admit(self, request: Request, *, forward: bool) -> Action:
        costs, known = self._costs, self._pool.by_bytes
        again = sum(item.packed in known for item in request)
        self.core.spend(
            Work.TRANSACTIONS,
            (0.0 if forward else costs.frame_s)
            + costs.batch_s
            + (len(request) - again) * costs.intake_s
            + again * costs.again_s,
        )
        for item in request:
            if item.id not in self._done:
                with suppress(Refused):  # it is full: who brought it is told to come again
                    self._pool.admit(item, self.executed + 1)
        if forward:
            self._forward(request)
        return self._wake

    def _forward(self, request: Request) -> None:
        costs, size = self._costs, sum(len(item.packed) for item in request)
        for peer in self._others():
            self.core.spend(Work.TRANSACTIONS, costs.frame_s + size * costs.frame_byte_s)
            self._carry(peer, GOSSIP, size, lambda peer=peer: peer.hear(request))  # type: ignore[misc]

    def _resend(self) -> None:
        """What waits for long is handed on again, by everybody who has it: see `Gossip.resend`."""
        oldest = self._pool.oldest(RESEND_MAX)
        again = [self._pool.by_bytes[item] for item in oldest if item in self._waited]
        for at in range(0, len(again), SUBMIT_MAX):
            self._forward(again[at : at + SUBMIT_MAX])
        self._waited = set(oldest)
        self._resend_later()

    def _resend_later(self) -> None:
        due_s = self._clock.now_s + RESEND_MS / 1_000
        self._clock.at(due_s, lambda: self.core.run(self._resend))

    # Turns

    def _post(self, event: Event) -> None:
        self._inbox.append(event)
        self._wake()

    def _wake(self) -> None:
        self._woken = True
        if not self._turning:
            self._turning = True
            self.core.run(self._turn)

    def _turn(self) -> Action:
        self._woken = False
        batch = min(BATCH_EVENTS_MAX, len(self._inbox))
        self._follow_up.extend(self._inbox.popleft() for _ in range(batch))
        for _ in range(TURN_STEPS_MAX):
            if not self._follow_up:
                break
            self._step(self._follow_up.popleft())
        if self.replica.view != self._view:
            self._view = self.replica.view
            self._pool.release()
        self._tell_pending()
        self._propose()
        return self._sync

    def _sync(self) -> None:
        delay_s = self._costs.sync_s if self._unsynced else 0.0
        self._unsynced = False
        self._clock.at(self._clock.now_s + delay_s, lambda: self.core.run(self._flush))

    def _flush(self) -> Action:
        outbox, self._outbox = self._outbox, []
        for effect in outbox:
            to = effect.to if isinstance(effect, Send) else None
            self._send(effect.envelope, to)
        return self._end_turn

    def _end_turn(self) -> None:
        self._turning = False
        for certificate in self._news:
            self._certify(certificate)
        self._news.clear()
        if self._woken or self._inbox or self._follow_up:
            self._wake()

    def _step(self, event: Event) -> None:
        name, work = named(event)
        self.core.spend(work, self._costs.step(name))
        self._perform(self._ask(self.replica, event), work)

    def _perform(self, effects: Iterable[Effect], work: Work) -> None:
        costs = self._costs
        for effect in effects:
            match effect:
                case Persist(entry):
                    self._unsynced = True
                    held = len(entry.payload) if isinstance(entry, Held) else 0
                    self.core.spend(work, costs.entry_s + held * costs.held_byte_s)
                case Broadcast(envelope):
                    signed = is_signed(envelope.body)
                    self.core.spend(work_of(envelope.body), costs.sign_s * signed)
                    self._outbox.append(effect)
                case Send():
                    self._outbox.append(effect)
                case Deliver(sequence, payload, certificate):
                    self._execute(sequence, Block(payload, certificate))
                case Certified(certificate):
                    self._news.append(certificate)
                case SetTimer(timer, delay_ms):
                    self._set_timer(timer, delay_ms)
                case CancelTimer(name):
                    self._timers.pop(name, None)
                case Halt(reason):
                    raise AssertionError(reason)

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        self._timers[timer.name] = timer

        def fire() -> None:
            if self._timers.get(timer.name) == timer:
                del self._timers[timer.name]
                self._post(TimerFired(timer))

        self._clock.at(self.core.now_s + delay_ms / 1_000, fire)

    # What goes out

    def _others(self) -> Iterator["Validator"]:
        return (peer for peer in self.peers if peer is not self)

    def _send(self, envelope: Envelope, to: str | None) -> None:
        costs, tag = self._costs, envelope.body.TAG
        work, held = work_of(envelope.body), len(envelope.payload or b"")
        self.core.spend(work, costs.encode(tag) + held * costs.encode_byte_s)
        size = len(encode_envelope(envelope))
        for peer in self._others():
            if to is None or peer.replica.me == to:
                self.core.spend(work, costs.frame_s + held * costs.frame_byte_s)
                self._carry(peer, tag, size, lambda peer=peer: peer.receive(envelope))  # type: ignore[misc]

    def _carry(self, peer: "Validator", kind: str, size: int, arrive: Action) -> None:
        self.sent[kind] += 1
        self.sent_bytes[kind] += size
        arrival_s = self._links.arrival_s(self.index, peer.index, size, self.core.now_s)
        self._clock.at(arrival_s, arrive)

    # Proposing: see `Runtime._propose`

    def _propose(self) -> None:
        while self.replica.may_propose:
            in_flight = self.replica.next_sequence - 1 - self.executed
            if in_flight and self._pool.waiting < PIPELINE_TRANSACTIONS_MIN:
                return
            if in_flight >= IN_FLIGHT_MAX or self._gathers():
                return
            drawn = self._pool.draw(self.replica.next_sequence)
            if not drawn:
                return
            self._gathered = False
            self.core.spend(Work.PROPOSALS, len(drawn) * self._costs.draw_s)
            time_ms = START_MS + round(self._clock.now_s * 1_000)
            self._step(Propose(pack(Payload(time_ms, drawn))))

    def _gathers(self) -> bool:
        waiting = self._pool.waiting
        if self._gathered or not waiting or waiting >= PIPELINE_TRANSACTIONS_MIN:
            return False
        if not self._gathering:
            self._gathering = True
            self._clock.at(self.core.now_s + GATHER_MS / 1_000, self._end_gathering)
        return True

    def _end_gathering(self) -> None:
        self._gathering, self._gathered = False, True
        self._wake()

    def _tell_pending(self) -> None:
        pending = Pending(len(self._pool) > 0, self._pool.omitted(COMPLAINTS_MAX))
        if pending != self._told:
            self._told = pending
            self._step(pending)

    # Blocks

    def _checking_s(self, items: Sequence[bytes]) -> float:
        """What this validator has not met before is verified now."""
        fresh = sum(item not in self._pool.by_bytes for item in items)
        return fresh * self._costs.intake_s + (len(items) - fresh) * self._costs.check_s

    def _check(self, _height: int, payload: bytes) -> None:
        self.core.spend(Work.PROPOSALS, self._checking_s(self._book.items(payload)))

    def _execute(self, height: int, block: Block) -> None:
        certificate = block.certificate
        items = self._book.items(block.payload)
        known = sum(item in self._pool.by_bytes for item in items)
        self.core.spend(
            Work.EXECUTION,
            self._costs.block_s
            + len(items) * self._costs.transaction_s
            + (len(items) - known) * self._costs.intake_s,
        )
        ids = [self._book.ids[item] for item in items]
        self._done.update(ids)
        self._pool.remove(ids)
        self._pool.expire(height + 1)
        if items and certificate.view == self.replica.view:
            self._pool.passed_over(items)
        self.executed = height
        self._header = execute(self._header, height, certificate.digest)
        self._blocks[height] = block
        self._follow_up.append(Executed(height, self._header, None, bool(items)))

    def _certify(self, certificate: CheckpointCertificate) -> None:
        self._certificates[certificate.height] = certificate
        for height in range(self.certified + 1, certificate.height + 1):
            items = self._book.items(self._blocks[height].payload)
            count = self._book.certify(self.index, items, self._clock.now_s)
            self.own_certified(self.index, count)
        self.certified = certificate.height

    def _read(self, first: int, last: int) -> Iterator[Block]:
        return (self._blocks[h] for h in range(max(first, 1), min(last, self.executed) + 1))

    def _certificate(self, at_most: int) -> CheckpointCertificate | None:
        kept = [height for height in self._certificates if height <= at_most]
        return self._certificates[max(kept)] if kept else None
