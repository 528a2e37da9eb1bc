"""Whatever is proposed and approved in whatever order, the network that comes out can run."""

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import Chain
from tests.vm.council import (
    admission,
    approve,
    council,
    fault,
    propose,
    rotation,
    seating,
    unseating,
    upgrade,
    validator,
)
from vm.epoch import epochs
from vm.quorum import VALIDATORS_MIN
from vm.record import KeyOwner, Member

SEATS_MAX = 7  # as many as the window of these chains is possible for
numbers = st.integers(1, 8)
changes = st.one_of(
    st.builds(admission, numbers),
    st.builds(seating, numbers, st.sampled_from(["", "rival-1", "rival-2"])),
    st.builds(unseating, numbers),
    st.builds(rotation, numbers, st.sampled_from(["", "x", "y", validator(1), validator(6)])),
    st.builds(upgrade, st.integers(1, 3)),
)
decisions = st.tuples(st.just("decide"), changes, st.lists(numbers, min_size=3, max_size=8))
proposals = st.tuples(st.just("propose"), numbers, st.integers(0, 9), changes)
approvals = st.tuples(st.just("approve"), numbers, st.integers(0, 9))
faults = st.tuples(st.just("fault"), numbers, st.integers(0, 4))
blocks = st.tuples(st.just("block"))
steps = st.lists(st.one_of(decisions, decisions, proposals, approvals, faults, blocks), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 6), steps)
def test_no_sequence_of_decisions_breaks_the_network(
    organisations: int, steps: list[tuple[Any, ...]]
) -> None:
    """Seats, organisations, keys, voters and firsts hold after every block, decided or refused."""
    chain = council(organisations, lambda n: 64 if n <= SEATS_MAX else 1)
    for serial, step in enumerate(steps):
        perform(chain, serial, step)
        check_epochs(chain)
        check_keys(chain)


def perform(chain: Chain, serial: int, step: tuple[Any, ...]) -> None:
    """Execute one step, in one block."""
    match step:
        case ("decide", change, voices):
            items = [approve(number, f"d{serial}") for number in voices]
            chain.block([propose(voices[0], f"d{serial}", change, chain.height + 2), *items])
        case ("propose", number, id, change):
            chain.block([propose(number, f"p{id}", change)])
        case ("approve", number, id):
            chain.block([approve(number, f"p{id}")])
        case ("fault", number, epoch):
            chain.block([fault(chain, validator(number), epoch)])
        case _:
            chain.block()


def check_epochs(chain: Chain) -> None:
    """Every epoch's set can run the network, and each begins after the one before it."""
    found = epochs(chain.state)
    assert [epoch.number for epoch in found] == list(range(len(found)))
    assert all(one.first < two.first for one, two in pairwise(found))
    assert found[-1].first <= chain.height + chain.genesis.window + 1
    for epoch in found:
        members, seats = epoch.validators, epoch.validators.validators
        assert VALIDATORS_MIN <= members.n <= SEATS_MAX
        assert len({seat.organisation for seat in seats}) == members.n
        assert len({seat.key for seat in seats}) == members.n
        assert len(members.voters) >= members.quorum


def check_keys(chain: Chain) -> None:
    """The seats scheduled last are members with those keys, which are nobody else's."""
    for seat in epochs(chain.state)[-1].validators.validators:
        member = chain.get(Member, seat.id)
        assert (member.organisation, member.public_key) == (seat.organisation, seat.key)
        assert chain.get(KeyOwner, seat.key.hex()).member == seat.id
