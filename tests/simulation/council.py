"""Admins who change the validators while a run goes on: seats come and go, and keys are rotated."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tests.harness import genesis_of, key_of, organisation
from tests.simulation.client import Clients, Wish
from tests.simulation.world import World
from vm.digest import digest
from vm.epoch import ruling
from vm.evidence import Evidence
from vm.genesis import Genesis
from vm.governance import Approve, Propose
from vm.keys import SigningKey
from vm.proposal import Change, RotateKey, SeatValidator, UnseatValidator
from vm.quorum import VALIDATORS_MIN, Epoch, faults
from vm.record import Role

SEATS_MAX = 7  # larger sets make runs slow and show nothing new
OPEN_BLOCKS = 500  # until a proposal expires: longer than a run
LIFETIME_BLOCKS = 400
CHANGE_EVERY_MS = 120


def genesis_with_guests(seats: int, guests: int) -> Genesis:
    """A genesis in which the last organisations have no validator yet."""
    genesis = genesis_of(seats + guests)
    late = {organisation(seats + 1 + number) for number in range(guests)}
    members = tuple(
        member
        for member in genesis.members
        if member.organisation not in late or member.role is not Role.VALIDATOR
    )
    return replace(genesis, members=members)


def admin_of(validator: str) -> str:
    """The admin of a validator's organisation."""
    return f"{validator.split('.', maxsplit=1)[0]}.admin"


class Council:
    """One proposal at a time, approved by everybody else who governs.

    Sets stay such that no more of a set are `faulty` than it tolerates. `give(name, key)` hands a
    validator the key that a proposal is to rotate it to, as its organisation does before it
    proposes; `holds(name, public)` tells whether it has a key and may use it.
    """

    def __init__(
        self,
        world: World,
        clients: Clients,
        guests: Iterable[str],
        give: Callable[[str, SigningKey], None],
        holds: Callable[[str, bytes], bool],
    ) -> None:
        self.faulty: set[str] = set()  # traitors, and those whose key is barred
        self.barred: list[str] = []  # those of them that wait for another key
        self._world = world
        self._clients = clients
        self._guests = list(guests)
        self._give = give
        self._holds = holds
        self._reported: set[str] = set()
        self._made = 0
        self._wishes: list[Wish] = []
        self._to_approve: tuple[str, list[str]] | None = None  # a proposal, and whose admins

    def bar(self, name: str, epochs: Sequence[Epoch], certified: int) -> bool:
        """Whether a validator may lose its key: each set that it sits in bears it."""
        now = ruling(epochs, certified + 1).number
        sets = [[seat.id for seat in epoch.validators.validators] for epoch in epochs[now:]]
        self.faulty.add(name)
        if any(name in seats and not self.bearable(seats) for seats in sets):
            self.faulty.remove(name)
            return False
        self.barred.append(name)
        return True

    def look(self, epoch: Epoch) -> None:
        """In the epoch that rules now, who was barred may have a key again."""
        for name in tuple(self.barred):
            seat = epoch.validators.get(name)
            if seat is not None and self._holds(name, seat.key):
                self.barred.remove(name)
                self.faulty.remove(name)

    def go_on(self, epoch: Epoch, height: int) -> None:
        """Approve what was proposed once it is certified; with nothing to do propose a change.

        `epoch` is the newest that is scheduled.
        """
        if any(wish.open for wish in self._wishes):
            return
        if self._to_approve is not None:
            proposal, admins = self._to_approve
            self._to_approve = None
            self._wishes = [
                self._clients.wish(
                    admin, "governance.approve", Approve(proposal), height + LIFETIME_BLOCKS
                )
                for admin in admins
            ]
        else:
            self._propose(epoch, height)

    def bearable(self, names: Iterable[str]) -> bool:
        """Whether a set of these validators tolerates those of it that are faulty."""
        seats = list(names)
        return sum(name in self.faulty for name in seats) <= faults(len(seats))

    def report(self, evidence: Evidence, finder: str, height: int) -> None:
        """Bring the proof against a traitor before the chain, once."""
        if evidence.validator not in self._reported:
            self._reported.add(evidence.validator)
            until = height + LIFETIME_BLOCKS
            self._clients.wish(admin_of(finder), "validator.fault", evidence, until)

    def _propose(self, epoch: Epoch, height: int) -> None:
        seats = [seat.id for seat in epoch.validators.validators]
        waiting = [
            seat.id
            for seat in epoch.validators.validators
            if seat.id in self.barred and not self._holds(seat.id, seat.key)
        ]
        chosen = self._choose(seats, waiting)
        if chosen is None:
            return
        proposer, change = chosen
        self._made += 1
        proposal = f"proposal-{self._made}"
        body = Propose(proposal, change, height + OPEN_BLOCKS)
        until = height + LIFETIME_BLOCKS
        self._wishes = [self._clients.wish(proposer, "governance.propose", body, until)]
        others = [admin_of(seat) for seat in seats if admin_of(seat) != proposer]
        self._to_approve = (proposal, others)

    def _choose(self, seats: list[str], waiting: list[str]) -> tuple[str, Change] | None:
        """A proposer and a change that leaves a set able to go on; None if chance found none.

        Those who are `waiting` have no key to vote with, and come first.
        """
        rng = self._world.rng
        what = rng.choice(("seat", "seat", "unseat", "rotate"))
        if waiting or what == "rotate":
            name = rng.choice(waiting or seats)
            if name in self.faulty and name not in waiting:
                return None
            return admin_of(name), self._rotate(name)
        if what == "seat" and self._guests and len(seats) < SEATS_MAX:
            guest = self._guests.pop(0)
            if self.bearable([*seats, guest]):
                return admin_of(rng.choice(seats)), _seat(guest)
        if what == "unseat" and len(seats) > VALIDATORS_MIN:
            gone = rng.choice(seats)
            if self.bearable([name for name in seats if name != gone]):
                return admin_of(rng.choice(seats)), UnseatValidator(gone)
        return None

    def _rotate(self, name: str) -> RotateKey:
        key = key_of(f"{name}#{self._made + 1}")
        self._give(name, key)
        return RotateKey(name, key.public, None, None)


def _seat(name: str) -> SeatValidator:
    return SeatValidator(
        id=name,
        organisation=name.split(".", maxsplit=1)[0],
        public_key=key_of(name).public,
        transport=digest("simulation.transport.v1", name.encode()),
        address="127.0.0.1:7000",
    )
