"""A replica with a shell of memory: journal, store and execution, all of which a crash can hit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from consensus.event import (
    Broadcast,
    CancelTimer,
    Certified,
    Deliver,
    Effect,
    Event,
    Executed,
    Fault,
    Halt,
    Limits,
    Persist,
    Rejected,
    Send,
    SetTimer,
    Turned,
)
from consensus.journal import Entry, frame, read_frames
from consensus.message import Block, Envelope
from consensus.replica import History, Replica, Start
from vm.certificate import CheckpointCertificate
from vm.digest import digest
from vm.evidence import Evidence
from vm.keys import SigningKey
from vm.quorum import Epoch, Validator, ValidatorSet

CHAIN = digest("test.chain.v1", b"")
GENESIS_HEADER = digest("test.header.v1", b"genesis")
LIMITS = Limits(window=8)
PROTOCOL = "test.1"


def key_of(index: int) -> SigningKey:
    """The fixed key of the validator with this index."""
    return SigningKey(bytes([index + 1]) * 32)


KEYS = tuple(key_of(index) for index in range(16))
ROTATED = tuple(key_of(index + 100) for index in range(16))  # the validators' next keys
SEATS = b"seats "  # a payload that begins so changes the validators
HOLLOW = b"hollow"  # a payload that begins so changes nothing


def validator_set(n: int) -> ValidatorSet:
    """Validators v00, v01, ...; v00 is the primary of view 0."""
    return ValidatorSet(
        tuple(Validator(f"v{i:02}", f"hospital-{i:02}", KEYS[i].public) for i in range(n))
    )


def seats(*items: int | str) -> bytes:
    """A payload that gives seats to these: 3 to v03, "3+" with its next key, "3!" suspended."""
    return SEATS + " ".join(map(str, items)).encode()


def elected(payload: bytes) -> ValidatorSet | None:
    """The validators that a payload asks for."""
    if not payload.startswith(SEATS):
        return None
    chosen = []
    for item in payload.removeprefix(SEATS).decode().split():
        i = int(item.rstrip("+!"))
        key = (ROTATED if "+" in item else KEYS)[i].public
        chosen.append(Validator(f"v{i:02}", f"hospital-{i:02}", key, "!" in item))
    return ValidatorSet(tuple(chosen))


def genesis_epoch(validators: ValidatorSet) -> Epoch:
    """The epoch that begins with the chain."""
    return Epoch(0, 1, PROTOCOL, validators)


def execute(parent: bytes, height: int, payload: bytes) -> bytes:
    """The header digest of a block; stands for execution."""
    return digest("test.header.v1", parent + height.to_bytes(8, "big") + payload)


def changes(payload: bytes) -> bool:
    """Whether execution of a payload writes anything."""
    return payload != b"" and not payload.startswith(HOLLOW)


def accept_all(_height: int, _payload: bytes) -> None:
    """The payload rules of a chain that has none."""


@dataclass(slots=True)
class Disk:
    """What survives a crash, and what may not."""

    journal: bytearray = field(default_factory=bytearray)  # synced
    unsynced: bytearray = field(default_factory=bytearray)
    store: list[tuple[Block, bytes]] = field(default_factory=list)  # block and header, from 1
    durable: int = 0  # heights of the store that survive a crash
    certificates: dict[int, CheckpointCertificate] = field(default_factory=dict)
    stable: CheckpointCertificate | None = None
    stable_durable: CheckpointCertificate | None = None


class Node:
    """One node. `send` takes what leaves, as (receiver, envelope).

    `validators` are the genesis', of whom it need not be one; it is connected to all `peers`.
    """

    def __init__(
        self,
        index: int,
        validators: ValidatorSet,
        send: Callable[[str, Envelope], None],
        limits: Limits = LIMITS,
        check: Callable[[int, bytes], None] = accept_all,
        peers: tuple[str, ...] = (),
    ) -> None:
        self.index = index
        self.name = f"v{index:02}"
        self.peers = peers or tuple(seat.id for seat in validators.validators)
        self.keys = {key.public: key for key in (KEYS[index], ROTATED[index])}  # it may use
        self.turns: list[Epoch] = []  # as they were reported, also again after a restart
        self.wrote = changes  # by a block's payload: whether its execution writes anything
        self.validators = validators
        self.limits = limits
        self.check = check
        self.send = send
        self.disk = Disk()
        self.timers: dict[str, SetTimer] = {}
        self.answers: list[Executed] = []  # events that the shell owes the replica
        self.faults: list[Evidence] = []
        self.rejected: list[Rejected] = []
        self.halted: str | None = None
        self.replica = self._make()

    def header(self, height: int) -> bytes:
        """The header digest at an executed height."""
        return self.disk.store[height - 1][1] if height else GENESIS_HEADER

    @property
    def payloads(self) -> list[bytes]:
        """The payloads executed so far, in order."""
        return [block.payload for block, _ in self.disk.store]

    def recover(self) -> list[Effect]:
        """Start (again) from the disk; returns the first effects."""
        self.timers, self.answers = {}, []
        self.replica = self._make()
        entries, good = read_frames(bytes(self.disk.journal))
        del self.disk.journal[good:]
        return self.replica.recover(entries)

    def crash(
        self, kept: int = 0, tail: bytes = b"", blocks: int = 0, *, certificate: bool = False
    ) -> None:
        """Lose what was not synced, but for what the system happened to write.

        That is `kept` bytes of the journal and a torn `tail`, the next `blocks` of the store and
        perhaps its certificate: journal and store are two files, and either may be ahead.
        """
        disk = self.disk
        disk.journal += disk.unsynced[:kept] + tail
        disk.unsynced.clear()
        del disk.store[disk.durable + blocks :]
        stable = disk.stable
        if not certificate or stable is None or stable.height > len(disk.store):
            disk.stable = disk.stable_durable
        top = 0 if disk.stable is None else disk.stable.height
        disk.certificates = {h: kept for h, kept in disk.certificates.items() if h <= top}
        self.flush()  # what a restart finds stays

    def flush(self) -> None:
        """Make the store durable."""
        self.disk.durable = len(self.disk.store)
        self.disk.stable_durable = self.disk.stable

    def rotate(self) -> None:
        """Begin a fresh journal."""
        assert not self.answers, "the store is behind what was delivered"
        self.flush()
        self.disk.unsynced.clear()
        self.disk.journal = bytearray(b"".join(map(frame, self.replica.entries())))

    def step(self, event: Event) -> list[Effect]:
        """Give the replica one event."""
        return self.replica.step(event)

    def apply(self, effect: Effect) -> None:
        """Run one effect as the shell does."""
        match effect:
            case Persist(entry):
                self.disk.unsynced += frame(entry)
            case Broadcast(envelope):
                self.sync()
                for peer in self.peers:
                    if peer != self.name:
                        self.send(peer, envelope)
            case Send(to, envelope):
                self.sync()
                self.send(to, envelope)
            case Deliver(sequence, payload, certificate):
                self._execute(sequence, Block(payload, certificate))
            case Certified(certificate):
                self.disk.stable = self.disk.certificates[certificate.height] = certificate
            case Turned(epoch):
                self.turns.append(epoch)
            case SetTimer(timer):
                self.timers[timer.name] = effect
            case CancelTimer(name):
                self.timers.pop(name, None)
            case Fault(evidence):
                self.faults.append(evidence)
            case Rejected():
                self.rejected.append(effect)
            case Halt(reason):
                self.halted = reason

    def sync(self) -> None:
        """Make the journal durable."""
        self.disk.journal += self.disk.unsynced
        self.disk.unsynced.clear()

    def entries(self) -> list[Entry]:
        """What the journal holds, synced or not."""
        return list(read_frames(bytes(self.disk.journal + self.disk.unsynced))[0])

    def _execute(self, sequence: int, block: Block) -> None:
        assert sequence == len(self.disk.store) + 1, f"{self.name} delivered {sequence} out of turn"
        header = execute(self.header(sequence - 1), sequence, block.payload)
        self.disk.store.append((block, header))
        scheduled = [epoch for epoch in self.epochs() if epoch.first == self._after(sequence)]
        epoch = scheduled[0] if scheduled else None
        self.answers.append(Executed(sequence, header, epoch, self.wrote(block.payload)))

    def _after(self, height: int) -> int:
        """Where the epoch begins that the block at this height schedules."""
        return height + self.limits.window + 1

    def epochs(self) -> list[Epoch]:
        """The epochs of the chain as far as it is executed."""
        found = [genesis_epoch(self.validators)]
        for height, payload in enumerate(self.payloads, start=1):
            validators = elected(payload)
            if validators is not None:
                found.append(Epoch(len(found), self._after(height), PROTOCOL, validators))
        return found

    def epoch_at(self, height: int) -> Epoch:
        """The epoch that rules a height."""
        return next(epoch for epoch in reversed(self.epochs()) if epoch.first <= max(1, height))

    def _make(self) -> Replica:
        executed, stable = len(self.disk.store), self.disk.stable
        first = self.epoch_at(min(executed, 0 if stable is None else stable.height) + 1)
        return Replica(
            chain=CHAIN,
            me=self.name,
            signer=self._signer,
            check=self.check,
            history=History(self._read, self._certificate, self.epoch_at),
            start=Start(
                executed, self.header(executed), stable, tuple(self.epochs()[first.number :])
            ),
            limits=self.limits,
        )

    def _signer(self, key: bytes) -> Callable[[bytes], bytes] | None:
        return self.keys[key].sign if key in self.keys else None

    def _certificate(self, at_most: int) -> CheckpointCertificate | None:
        kept = [h for h in self.disk.certificates if h <= at_most]
        return self.disk.certificates[max(kept)] if kept else None

    def _read(self, first: int, last: int) -> Iterator[Block]:
        for block, _ in self.disk.store[max(first, 1) - 1 : last]:
            yield block
