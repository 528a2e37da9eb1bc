"""The genesis document: whom it seats, and every unsound one that is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.harness import genesis_of, key_of
from vm.epoch import newest
from vm.genesis import (
    MEMBERS_MAX,
    ORGANISATIONS_MAX,
    ROTATION_MAX,
    Genesis,
    check_genesis,
    genesis_writes,
    validator_set,
)
from vm.quorum import VALIDATORS_MAX
from vm.record import WINDOW_MAX, Chain, KeyOwner, Member, Organisation, Role, Sanction, Standing
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.state import State

GENESIS = genesis_of(4)


def with_member(index: int, **changes: object) -> Callable[[Genesis], Genesis]:
    """Change the member at `index`."""

    def change(genesis: Genesis) -> Genesis:
        members = list(genesis.members)
        members[index] = replace(members[index], **changes)  # type: ignore[arg-type]
        return replace(genesis, members=tuple(members))

    return change


def test_the_seats_are_the_validators_in_order_of_id() -> None:
    """The order in the document does not matter to who is primary when."""
    shuffled = replace(GENESIS, members=GENESIS.members[::-1])

    seats = check_genesis(GENESIS).validators

    assert [seat.id for seat in seats.validators] == [
        f"hospital-{n}.validator" for n in (1, 2, 3, 4)
    ]
    assert validator_set(shuffled.members) == seats
    assert seats.validators[0].key == key_of("hospital-1.validator").public


def test_any_change_makes_another_chain() -> None:
    """The chain's id is the digest of the whole document."""
    changes = (
        replace(GENESIS, title="Another"),
        replace(GENESIS, time_ms=GENESIS.time_ms + 1),
        replace(GENESIS, window=GENESIS.window + 1),
        replace(GENESIS, rotation=GENESIS.rotation + 1),
        replace(GENESIS, equivocation=Sanction.RECORD),
        replace(GENESIS, members=GENESIS.members[::-1]),
        with_member(0, transport=bytes(32))(GENESIS),
    )

    assert len({GENESIS.chain, *(changed.chain for changed in changes)}) == 8


def test_the_state_of_block_0_is_the_document() -> None:
    """Each organisation, member and key is a record, beside the chain's own facts and epoch 0."""
    writes = genesis_writes(GENESIS)
    state = State(writes.get)

    assert state.require(Chain) == Chain(GENESIS.title, GENESIS.window, GENESIS.equivocation)
    assert newest(state) == check_genesis(GENESIS)
    for organisation in GENESIS.organisations:
        assert state.require(Organisation, organisation.id) == organisation
    for member in GENESIS.members:
        assert state.require(Member, member.id) == member
        assert state.require(KeyOwner, member.public_key.hex()).member == member.id
    assert len(writes) == 3 + len(GENESIS.organisations) + 3 * len(GENESIS.members)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda g: replace(g, protocol="concilium.2"), "genesis.protocol"),
        (
            lambda g: replace(g, organisations=(*g.organisations, g.organisations[0])),
            "genesis.organisations",
        ),
        (with_member(0, id="hospital-2.admin"), "genesis.members"),
        (with_member(0, public_key=key_of("hospital-2.admin").public), "genesis.keys"),
        (with_member(0, organisation="hospital-9"), "genesis.organisation"),
        (with_member(0, standing=Standing.SUSPENDED), "genesis.standing"),
        (with_member(0, enrolled_height=1), "genesis.height"),
        (with_member(0, changed_height=1), "genesis.height"),
        (with_member(0, role=Role.AUDITOR), "validators.size"),
        (with_member(0, organisation="hospital-2"), "validators.organisations"),
        (
            lambda g: with_member(0, transport=bytes(32))(with_member(1, transport=bytes(32))(g)),
            "genesis.transports",
        ),
    ],
)
def test_an_unsound_genesis_is_refused(change: Callable[[Genesis], Genesis], code: str) -> None:
    """Each rule has its code: too few seats, two for one organisation, shared keys and so on."""
    with pytest.raises(Refused) as refused:
        check_genesis(change(GENESIS))

    assert refused.value.code == code


def test_the_largest_genesis_is_read_back() -> None:
    """A document at all of its bounds packs, unpacks and passes."""
    base = genesis_of(VALIDATORS_MAX)
    auditors = tuple(
        Member(
            f"auditor-{n}",
            base.organisations[0].id,
            Role.AUDITOR,
            n.to_bytes(32, "big"),
            None,
            Standing.ENROLLED,
            0,
            0,
        )
        for n in range(MEMBERS_MAX - len(base.members))
    )
    genesis = replace(base, window=WINDOW_MAX, members=(*base.members, *auditors))

    assert check_genesis(unpack(Genesis, pack(genesis))).validators.n == VALIDATORS_MAX


@pytest.mark.parametrize(
    "over",
    [
        lambda g: replace(g, window=WINDOW_MAX + 1),
        lambda g: replace(g, window=0),
        lambda g: replace(g, rotation=ROTATION_MAX + 1),
        lambda g: replace(g, members=(g.members[0],) * (MEMBERS_MAX + 1)),
        lambda g: replace(g, organisations=(g.organisations[0],) * (ORGANISATIONS_MAX + 1)),
        lambda g: replace(g, organisations=g.organisations[:3]),
    ],
)
def test_a_genesis_past_its_bounds_cannot_even_be_packed(
    over: Callable[[Genesis], Genesis],
) -> None:
    """The bounds of the document are bounds of its encoding."""
    with pytest.raises(AssertionError, match="breaks its bound"):
        pack(over(GENESIS))
