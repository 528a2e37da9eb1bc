"""Four whole validators in one process, without sockets: replica, journal, store, mempool, intake.

Messages go from runtime to runtime through the event loop. `stop` and `start` are a crash and a
restart: a stopped validator's files are what it comes back with.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from consensus.event import Limits
from consensus.message import Status
from consensus.replica import History, Replica, Start
from fl.rounds import next_deadline
from node.api.admission import Admission
from node.api.feed import Feed
from node.program import program
from node.validator.chain import Chain
from node.validator.intake import Intake
from node.validator.journal import Journal, create_journal
from node.validator.mempool import Mempool
from node.validator.protocols import SUPPORTED
from node.validator.runtime import Runtime, wall_clock_ms
from node.validator.store import BlockRow, Store
from tests.harness import genesis_of, key_of
from vm.certificate import CheckpointCertificate
from vm.evidence import Evidence
from vm.genesis import Genesis
from vm.keys import SigningKey
from vm.quorum import Epoch
from vm.record import Member, Role
from vm.registry import EnrolMember
from vm.shape import pack
from vm.state import State
from vm.transaction import Transaction, sign

LIMITS = Limits(window=8, view_timeout_ms=400, status_ms=50, status_idle_ms=500)


@dataclass
class Seat:
    """One running validator."""

    chain: Chain
    journal: Journal
    mempool: Mempool
    intake: Intake
    runtime: Runtime
    heard: "Heard"
    task: asyncio.Task[None]
    deliveries: set[asyncio.Task[None]] = field(default_factory=set)


class Heard:
    """What a runtime told the rest of its validator."""

    def __init__(self) -> None:
        self.certified = Feed()
        self.turned: list[Epoch] = []
        self.faults: list[Evidence] = []
        self.statuses: dict[str, Status] = {}
        self.forgotten = False

    def on_executed(self, row: BlockRow) -> None:
        """The store has it."""

    def on_certified(self, certificate: CheckpointCertificate) -> None:
        """Tests wait for it."""
        self.certified.publish(certificate.height)

    def on_turned(self, epoch: Epoch) -> None:
        """In order."""
        self.turned.append(epoch)

    def on_status(self, peer: str, status: Status) -> None:
        """The newest of each."""
        self.statuses[peer] = status

    def on_fault(self, evidence: Evidence) -> None:
        """In order."""
        self.faults.append(evidence)

    def on_forgotten(self) -> None:
        """The runtime stops next."""
        self.forgotten = True


class Committee:
    """The validators by id, and the wires between those that run."""

    def __init__(self, folder: Path, organisations: int = 4) -> None:
        self.genesis: Genesis = genesis_of(organisations)
        self.ids = tuple(f"hospital-{i + 1}.validator" for i in range(organisations))
        self.seats: dict[str, Seat] = {}
        self.protocols = SUPPORTED
        self.next_deadline: Callable[[State], int | None] = next_deadline
        self.clock_ms: dict[str, Callable[[], int]] = {}  # of those whose clock is wrong
        self.keys: dict[str, SigningKey] = {id: key_of(id) for id in self.ids}
        self._folder = folder
        self._nonce = 0

    def start(self, id: str) -> Seat:
        """Start a validator on whatever its folder holds."""
        home = self._folder / id
        mempool, heard = Mempool(), Heard()
        store = Store(home / "chain")
        chain = Chain(store, self.genesis, program(), mempool.by_bytes)
        if not (home / "journal").exists():
            create_journal(home / "journal")
        journal = Journal(home / "journal")
        stable = store.certified()
        first = chain.epoch_at(1 if stable is None else stable.height + 1).number
        voting_key = self.keys[id]
        replica = Replica(
            chain=chain.id,
            me=id,
            signer=lambda key: voting_key.sign if key == voting_key.public else None,
            check=lambda height, payload: chain.check(height, payload, wall_clock_ms()),
            history=History(store.blocks, store.certified, chain.epoch_at),
            start=Start(chain.head.height, chain.head.header, stable, chain.epochs[first:]),
            limits=LIMITS,
        )
        runtime = Runtime(
            replica=replica,
            chain=chain,
            journal=journal,
            mempool=mempool,
            network=_Wire(self, id),
            next_deadline=self.next_deadline,
            node=heard,
            protocols=self.protocols,
            clock_ms=self.clock_ms.get(id, wall_clock_ms),
        )
        intake = Intake(chain, mempool, home, runtime.wake)
        task = asyncio.create_task(runtime.run())
        seat = Seat(chain, journal, mempool, intake, runtime, heard, task)
        self.seats[id] = seat
        for other in self.seats:
            if other != id:
                seat.deliveries.add(asyncio.create_task(runtime.connected(other)))
        return seat

    def start_all(self) -> None:
        """Start every validator."""
        for id in self.ids:
            self.start(id)

    async def stop(self, id: str) -> None:
        """Stop a validator between two steps; nothing of it but its files remains."""
        seat = self.seats.pop(id)
        for task in (seat.task, *seat.deliveries):
            task.cancel()
        await asyncio.gather(seat.task, *seat.deliveries, return_exceptions=True)
        seat.journal.close()
        seat.chain.store.close()

    async def stop_all(self) -> None:
        """Stop all that run; raise what stopped one before."""
        failures = [seat.task.exception() for seat in self.seats.values() if seat.task.done()]
        for id in list(self.seats):
            await self.stop(id)
        for failure in failures:
            if failure is not None:
                raise failure

    def sign(self, sender: str, kind: str, body: object) -> Transaction:
        """A transaction of an enrolled member."""
        self._nonce += 1
        height = max(seat.chain.head.height for seat in self.seats.values())
        return sign(
            key_of(sender),
            chain=self.genesis.chain,
            kind=kind,
            sender=sender,
            body=body,
            valid_until_height=height + 100,
            nonce=self._nonce.to_bytes(16, "big"),
        )

    async def submit(self, transaction: Transaction) -> list[Admission]:
        """Hand a transaction to every running validator, as gossip does."""
        packed = pack(transaction)
        return [(await seat.intake.submit([packed]))[0] for seat in self.seats.values()]

    async def certified(self, height: int, ids: Callable[[str], bool] = lambda id: True) -> None:
        """Wait until the chosen running validators have certified `height`."""
        waits = [
            seat.heard.certified.wait(height - 1) for id, seat in self.seats.items() if ids(id)
        ]
        await asyncio.wait_for(asyncio.gather(*waits), 30)


class _Wire:
    """What one runtime sends through."""

    def __init__(self, committee: Committee, me: str) -> None:
        self._committee = committee
        self._me = me

    def send(self, to: str, data: bytes) -> None:
        seat = self._committee.seats.get(to)
        if seat is not None:
            task = asyncio.create_task(seat.runtime.receive(self._me, data))
            seat.deliveries.add(task)
            task.add_done_callback(seat.deliveries.discard)

    def broadcast(self, data: bytes) -> None:
        for id in list(self._committee.seats):
            if id != self._me:
                self.send(id, data)


def members(seat: Seat) -> list[str]:
    """The ids of extra members that the newest certified state of a validator has."""
    view = seat.chain.view()
    assert view is not None
    return [member.id for member in view.list(Member, (), 1) if "extra" in member.id]


def enrol(number: int) -> EnrolMember:
    """A transaction body that enrols one more auditor."""
    return EnrolMember(f"hospital-1.extra-{number}", Role.AUDITOR, number.to_bytes(32, "big"), None)
