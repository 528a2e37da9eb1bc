"""A deadline in the state, as a learning round has one: an idle chain must make a block for it."""

from dataclasses import dataclass
from typing import ClassVar

from vm.execute import BlockContext
from vm.shape import TimeMs
from vm.state import State

EVERY_BLOCKS = 5  # one of so many sets the alarm, if none is set
AFTER_MS = 700  # of block time; long enough for the chain to fall idle


@dataclass(frozen=True, slots=True)
class Alarm:
    """There is one; a block whose time has reached `due_ms` ends it, 0 is none."""

    KIND: ClassVar[str] = "test-alarm"
    VERSION: ClassVar[int] = 1

    due_ms: TimeMs

    @property
    def key(self) -> tuple[str | int, ...]:
        """There is one."""
        return ()


def strike(state: State, block: BlockContext) -> None:
    """The hook; a block that ends an alarm sets none, or the chain would never be idle."""
    due_ms = next_deadline(state)
    if due_ms is not None and block.time_ms >= due_ms:
        state.put(Alarm(0))
    elif due_ms is None and block.height % EVERY_BLOCKS == 0:
        state.put(Alarm(block.time_ms + AFTER_MS))


def next_deadline(state: State) -> int | None:
    """When the alarm is due, in milliseconds UTC."""
    alarm = state.get(Alarm)
    return None if alarm is None or not alarm.due_ms else alarm.due_ms
