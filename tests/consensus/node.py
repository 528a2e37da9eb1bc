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
)
from consensus.journal import Entry, frame, read_frames
from consensus.message import Block, Envelope, Evidence
from consensus.replica import History, Replica, Start
from vm.certificate import CheckpointCertificate
from vm.digest import digest
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


def validator_set(n: int) -> ValidatorSet:
    """Validators v00, v01, ...; v00 is the primary of view 0."""
    return ValidatorSet(
        tuple(Validator(f"v{i:02}", f"hospital-{i:02}", KEYS[i].public) for i in range(n))
    )


def genesis_epoch(validators: ValidatorSet) -> Epoch:
    """The epoch that begins with the chain."""
    return Epoch(0, 1, PROTOCOL, validators)


def execute(parent: bytes, height: int, payload: bytes) -> bytes:
    """The header digest of a block; stands for execution."""
    return digest("test.header.v1", parent + height.to_bytes(8, "big") + payload)


def accept_all(_height: int, _payload: bytes) -> None:
    """The payload rules of a chain that has none."""


@dataclass(slots=True)
class Disk:
    """What survives a crash, and what may not."""

    journal: bytearray = field(default_factory=bytearray)  # synced
    unsynced: bytearray = field(default_factory=bytearray)
    store: list[tuple[Block, bytes]] = field(default_factory=list)  # block and header, from 1
    durable: int = 0  # heights of the store that survive a crash
    stable: CheckpointCertificate | None = None
    stable_durable: CheckpointCertificate | None = None


class Node:
    """One validator. `send` takes what leaves, as (receiver, envelope)."""

    def __init__(
        self,
        index: int,
        validators: ValidatorSet,
        send: Callable[[str, Envelope], None],
        limits: Limits = LIMITS,
        check: Callable[[int, bytes], None] = accept_all,
    ) -> None:
        self.index = index
        self.name = validators.validators[index].id
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
                for validator in self.validators.validators:
                    if validator.id != self.name:
                        self.send(validator.id, envelope)
            case Send(to, envelope):
                self.sync()
                self.send(to, envelope)
            case Deliver(sequence, payload, certificate):
                self._execute(sequence, Block(payload, certificate))
            case Certified(certificate):
                self.disk.stable = certificate
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
        self.answers.append(Executed(sequence, header, None))

    def _make(self) -> Replica:
        executed, epoch = len(self.disk.store), genesis_epoch(self.validators)
        return Replica(
            chain=CHAIN,
            me=self.name,
            signer=self._signer,
            check=self.check,
            history=History(self._read, self._certificate, lambda _height: epoch),
            start=Start(executed, self.header(executed), self.disk.stable, (epoch,)),
            limits=self.limits,
        )

    def _signer(self, key: bytes) -> Callable[[bytes], bytes] | None:
        mine = KEYS[self.index]
        return mine.sign if mine.public == key else None

    def _certificate(self, at_most: int) -> CheckpointCertificate | None:
        stable = self.disk.stable
        return stable if stable is not None and stable.height <= at_most else None

    def _read(self, first: int, last: int) -> Iterator[Block]:
        for block, _ in self.disk.store[max(first, 1) - 1 : last]:
            yield block
