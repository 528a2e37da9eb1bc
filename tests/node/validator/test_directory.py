"""Members by their TLS keys: newcomers, the revoked, and keys that belong to somebody else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.validator import directory as directory_module
from node.validator.directory import Directory, wrote
from node.validator.store import Store
from tests.harness import genesis_of
from tests.node.network import HOSPITALS, Network, open_network
from tests.vm import council
from vm.block import Header
from vm.governance import Approve, Propose
from vm.proposal import Endpoint
from vm.record import Member, Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.shape import pack
from vm.sparse import Root
from vm.state import Record, state_key
from vm.transaction import Transaction

A, B, *_ = HOSPITALS


def spki(name: str) -> bytes:
    """The digest of the TLS key that a member would hold."""
    return name.encode().ljust(32, b".")


class Door:
    """A chain and the directory that follows it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.directory = Directory(network.chain)
        self._keys = 0

    def block(self, *transactions: Transaction) -> bool:
        """Execute a block; whether the directory saw a member change."""
        height = self.network.block(*transactions).height
        row = self.network.chain.store.row(height)
        assert row is not None
        return wrote(row, Member)

    def enrol(self, id: str, transport: bytes | None, hospital: str = A) -> Transaction:
        """An admin enrols an auditor who connects with this TLS key."""
        self._keys += 1
        body = EnrolMember(id, Role.AUDITOR, self._keys.to_bytes(32, "big"), transport)
        return self.network.sign(f"{hospital}.admin", "member.enrol", body)

    def identify(self, transport: bytes) -> str | None:
        """Who the directory says is at the other end."""
        member = self.directory.identify(transport)
        return None if member is None else member.id


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """A directory at genesis, in which nobody has a TLS key yet."""
    with open_network(tmp_path) as network:
        yield Door(network)


def test_an_unknown_key_is_nobodys(door: Door) -> None:
    """Neither a foreign key nor the absence of one finds a member."""
    door.block(door.enrol("zoe", None))

    assert door.directory.identify(spki("stranger")) is None
    assert door.directory.identify(b"") is None


def test_a_member_is_known_from_the_block_that_enrols_it(door: Door) -> None:
    """Not before it, and with the record of the newest block."""
    before = door.identify(spki("zoe"))

    changed = door.block(door.enrol("zoe", spki("zoe")))

    assert (before, changed) == (None, True)
    assert door.directory.identify(spki("zoe")) == Member(
        "zoe", A, Role.AUDITOR, (1).to_bytes(32, "big"), spki("zoe"), Standing.ENROLLED, 1, 1
    )


def test_a_block_that_changes_no_member_says_so(door: Door) -> None:
    """Open connections are looked at again only when a member changed."""
    assert door.block() is False


def test_a_revoked_member_is_found_with_its_standing(door: Door) -> None:
    """So the gate can say that the key is revoked, rather than unknown, with its block."""
    door.block(door.enrol("zoe", spki("zoe")))
    body = SetStanding("zoe", Standing.REVOKED)

    changed = door.block(door.network.sign(f"{A}.admin", "member.standing", body))

    found = door.directory.identify(spki("zoe"))
    assert changed
    assert found is not None
    assert found.standing is Standing.REVOKED


@pytest.mark.parametrize("thief", ["aaron", "zz-top"])
def test_enrolling_anothers_tls_key_does_not_shut_it_out(door: Door, thief: str) -> None:
    """A rival's admin who enrols a hospital's TLS key for a member of its own takes nothing over.

    Else one admin could cut every validator off from the others.
    """
    door.block(door.enrol("victim", spki("victim")))

    door.block(door.enrol(thief, spki("victim"), B))

    assert door.identify(spki("victim")) == "victim"
    door.directory = Directory(door.network.chain)  # a restart
    assert door.identify(spki("victim")) == "victim"


def test_a_restart_finds_the_members_of_all_blocks(door: Door) -> None:
    """The directory is rebuilt from the store."""
    for name in ("yan", "zoe"):
        door.block(door.enrol(name, spki(name)))

    door.directory = Directory(door.network.chain)

    assert [door.identify(spki(name)) for name in ("yan", "zoe")] == ["yan", "zoe"]


def test_members_of_genesis_are_known_at_once(tmp_path: Path) -> None:
    """The first validators find each other before there is a block."""
    genesis = genesis_of(4)
    member = replace(genesis.members[0], transport=spki("first"))
    genesis = replace(genesis, members=(member, *genesis.members[1:]))
    store = Store(tmp_path)

    found = Directory(Network(store, genesis).chain).identify(spki("first"))

    store.close()
    assert found == member


def seat_fifth(network: Network) -> Header:
    """A fifth hospital is admitted and its validator seated, by all four admins."""
    admission, seating = council.admission(5), council.seating(5)
    for id, change in (("admit", admission), ("seat", seating)):
        last = network.chain.head.height + 100
        propose = network.sign(f"{A}.admin", "governance.propose", Propose(id, change, last))
        approvals = [
            network.sign(f"{hospital}.admin", "governance.approve", Approve(id))
            for hospital in HOSPITALS[1:3]
        ]
        header = network.block(propose, *approvals)
    return header


def test_a_seated_validator_is_reached_where_the_chain_says(door: Door) -> None:
    """Those of genesis are not: the chain does not know their addresses."""
    before = door.directory.addresses()

    header = seat_fifth(door.network)
    row = door.network.chain.store.row(header.height)

    assert before == {}
    assert door.directory.addresses() == {"hospital-5.validator": "hospital-5.example:7100"}
    assert row is not None
    assert wrote(row, Endpoint)


def test_a_validator_without_standing_has_no_address(door: Door) -> None:
    """Suspended for a fault, it is cut off and not dialled."""
    seat_fifth(door.network)
    member = door.network.chain.state().require(Member, "hospital-5.validator")

    door.network.chain.store = Overlaid(  # type: ignore[assignment]
        door.network.chain.store, replace(member, standing=Standing.SUSPENDED)
    )

    assert door.directory.addresses() == {}


class Overlaid:
    """A store in which one record is another."""

    def __init__(self, store: Store, record: Record) -> None:
        self._store = store
        self._key, self._data = state_key(record.KIND, record.key), pack(record)

    def read(self, root: Root, key: bytes) -> bytes | None:
        """As the store, but for one key."""
        return self._data if key == self._key else self._store.read(root, key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_too_many_addresses_leave_those_of_the_seats(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mesh is bounded, and a seat is worth more than a member without one."""
    seat_fifth(door.network)
    monkeypatch.setattr(directory_module, "ADDRESSES_MAX", 0)

    assert door.directory.addresses() == {"hospital-5.validator": "hospital-5.example:7100"}
