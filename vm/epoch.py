"""Epochs of a state: which validators and which protocol version rule a height, and the next ones.

A change that is executed at height h rules from h + window + 1 on: a primary may be that far ahead
of execution, so every height that it can order by then still has the set that it had before.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vm.quorum import Epoch, ValidatorSet
from vm.record import Chain
from vm.shape import Count
from vm.state import State


@dataclass(frozen=True, slots=True)
class EpochHead:
    """The number of the newest epoch that is scheduled; all down to 0 have records."""

    KIND: ClassVar[str] = "epoch_head"
    VERSION: ClassVar[int] = 1

    number: Count

    @property
    def key(self) -> tuple[()]:
        """There is one."""
        return ()


def ruling(epochs: Sequence[Epoch], height: int) -> Epoch:
    """The one of `epochs`, in order of number, that rules `height`; genesis is under the first.

    The caller holds every epoch from one that begins no later than `height`.
    """
    place = bisect_right(epochs, max(height, 1), key=lambda epoch: epoch.first)
    assert place, f"expected an epoch that rules {height}, found none before {epochs[0].first}"
    return epochs[place - 1]


def current(state: State, height: int) -> tuple[Epoch, ...]:
    """The epoch that rules `height`, and all that are scheduled after it, in order."""
    found = [newest(state)]
    while found[-1].number and found[-1].first > height:
        found.append(state.require(Epoch, found[-1].number - 1))
    return tuple(reversed(found))


def newest(state: State) -> Epoch:
    """The epoch that was scheduled last, whether it has begun or not."""
    return state.require(Epoch, state.require(EpochHead).number)


def epochs(state: State, first: int = 0) -> tuple[Epoch, ...]:
    """Every epoch of the state from number `first` on, in order."""
    last = state.require(EpochHead).number
    return tuple(state.require(Epoch, number) for number in range(first, last + 1))


def scheduled(state: State, height: int) -> Epoch | None:
    """The epoch that the block at `height`, the newest of the state, has scheduled."""
    epoch = newest(state)
    return epoch if epoch.first == _first_after(state, height) else None


def schedule(
    state: State,
    height: int,
    *,
    validators: ValidatorSet | None = None,
    protocol: str | None = None,
) -> None:
    """Let other `validators` or another `protocol` rule from height + window + 1 on.

    What is None stays as in the newest epoch. Changes in one block make one epoch together.
    """
    epoch, first = newest(state), _first_after(state, height)
    assert epoch.first <= first, "epochs are scheduled in order of height"
    number = epoch.number + (epoch.first < first)
    state.put(Epoch(number, first, protocol or epoch.protocol, validators or epoch.validators))
    state.put(EpochHead(number))


def _first_after(state: State, height: int) -> int:
    return height + state.require(Chain).window + 1
