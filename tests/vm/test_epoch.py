"""Epochs of a state: which rules a height, and when a change begins to rule."""

from dataclasses import replace

import pytest

from tests.harness import genesis_of
from vm.epoch import current, epochs, newest, ruling, schedule, scheduled
from vm.genesis import check_genesis, genesis_writes
from vm.quorum import Epoch, ValidatorSet
from vm.record import Chain
from vm.state import State

GENESIS = genesis_of(5)
FIRST = check_genesis(GENESIS)
WINDOW = GENESIS.window


def without(place: int) -> ValidatorSet:
    """The set of genesis with the seat at `place` suspended."""
    seats = enumerate(FIRST.validators.validators)
    return ValidatorSet(tuple(replace(seat, suspended=i == place) for i, seat in seats))


@pytest.fixture
def state() -> State:
    """The state of genesis."""
    return State(genesis_writes(GENESIS).get)


def test_genesis_begins_epoch_0(state: State) -> None:
    """It rules height 0 too, and says so until the end of heights."""
    assert epochs(state) == (FIRST,)
    assert newest(state) == FIRST
    assert [ruling(epochs(state), height) for height in (0, 1, 2**53)] == [FIRST] * 3


def test_a_change_at_a_height_rules_from_window_plus_1_above_it(state: State) -> None:
    """Whatever a primary may have ordered by then still has the set that it had before."""
    schedule(state, 7, validators=without(1))

    found = epochs(state)
    assert found == (FIRST, Epoch(1, 7 + WINDOW + 1, FIRST.protocol, without(1)))
    assert ruling(found, 7 + WINDOW) == FIRST
    assert ruling(found, 7 + WINDOW + 1) == found[1]
    assert epochs(state, 1) == found[1:]


def test_the_changes_of_one_block_make_one_epoch(state: State) -> None:
    """Each is made to what the one before it left, and no two epochs have one first height."""
    schedule(state, 7, validators=without(1))
    schedule(state, 7, protocol="concilium.2")

    assert epochs(state)[1:] == (Epoch(1, 7 + WINDOW + 1, "concilium.2", without(1)),)


def test_a_change_is_made_to_the_newest_scheduled_epoch(state: State) -> None:
    """Made to the set that rules now, it would undo what was decided a moment ago."""
    schedule(state, 7, validators=without(1))
    schedule(state, 8, protocol="concilium.2")

    assert epochs(state)[2:] == (Epoch(2, 8 + WINDOW + 1, "concilium.2", without(1)),)
    assert ruling(epochs(state), 7 + WINDOW + 1).number == 1
    assert ruling(epochs(state), 8 + WINDOW + 1).number == 2


def test_what_a_block_scheduled_is_told_after_it_alone(state: State) -> None:
    """The shell asks after each block; most schedule nothing."""
    assert scheduled(state, 6) is None

    schedule(state, 7, protocol="concilium.2")

    assert scheduled(state, 7) == newest(state)
    assert scheduled(state, 8) is None


def test_the_epochs_of_some_heights_need_no_others(state: State) -> None:
    """A replica holds those from the one that rules its stable height on."""
    schedule(state, 7, validators=without(1))
    schedule(state, 9, validators=without(2))

    later = epochs(state, 1)

    assert ruling(later, 9 + WINDOW).number == 1
    with pytest.raises(AssertionError, match="expected an epoch that rules"):
        ruling(later, 7 + WINDOW)


def test_an_epoch_is_current_from_its_first_height_on(state: State) -> None:
    """At the height before, the one that ends there is: a replica needs both."""
    schedule(state, 7, protocol="concilium.2")
    first = newest(state).first

    assert [epoch.number for epoch in current(state, first - 1)] == [0, 1]
    assert [epoch.number for epoch in current(state, first)] == [1]


def test_the_window_is_that_of_the_chain_s_record(state: State) -> None:
    """Execution reads nothing but the state, so the window stands there."""
    state.put(replace(state.require(Chain), window=3))

    schedule(state, 7, protocol="concilium.2")

    assert newest(state).first == 11
