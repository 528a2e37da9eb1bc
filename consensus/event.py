"""What goes into a replica and what comes out: events, effects and limits.

The shell runs effects in list order. Before any `Broadcast` or `Send` it has synced every `Persist`
that came earlier. After a `Deliver` it executes the payload and answers with `Executed`, heights in
order.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from consensus.journal import Entry
from consensus.message import WINDOW_MAX, CommitCertificate, Envelope
from vm.certificate import CheckpointCertificate
from vm.evidence import Evidence
from vm.quorum import Epoch
from vm.shape import Digest


class Diverged(Exception):  # noqa: N818 - the name of the state, as with Halt
    """Replicas that follow the rules contradict each other: the step ends in `Halt`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and delays. `window` is part of the protocol: equal at every replica of a chain."""

    window: int = 32  # sequence numbers in flight above the newest stable checkpoint
    view_timeout_ms: int = 2_000  # twenty times the slowest honest block expected on a WAN
    view_timeout_ms_max: int = 60_000  # where doubling stops: an hour helps nobody (besu#7642)
    status_ms: int = 500  # between statuses while something is unfinished
    status_idle_ms: int = 5_000  # between statuses at rest, to find what a peer missed
    payload_bytes_max: int = 256 * 1024 * 1024  # proposed in one view: 64 of 4 MiB, the full window
    pace_ms: int = 250  # a tick of `consensus.pace`: eight in a view timeout
    rotation: int = 0  # stable checkpoints between planned view changes, 0 for none

    def __post_init__(self) -> None:
        assert 1 <= self.window <= WINDOW_MAX, f"expected a window of 1 to {WINDOW_MAX}"
        assert 0 < self.view_timeout_ms <= self.view_timeout_ms_max
        assert 0 < self.status_ms <= self.status_idle_ms
        assert 0 < self.pace_ms
        assert 0 <= self.rotation


class TimerName(StrEnum):
    """The timers of a replica."""

    VIEW = "view"
    STATUS = "status"
    PACE = "pace"


@dataclass(frozen=True, slots=True)
class Timer:
    """One setting of a timer; a firing of an earlier setting is known by its number."""

    name: TimerName
    setting: int


@dataclass(frozen=True, slots=True)
class Propose:
    """The shell, seeing `may_propose`, hands the primary a batch to order."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose sender the shell has made sure of.

    A signed one by its signature, with the key of the sender's seat in the message's epoch;
    transfer by the connection on which it came.
    """

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The delay of a `SetTimer` is over."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class Executed:
    """The shell has executed the delivered payload at `height`; its header has this digest."""

    height: int
    header: Digest
    epoch: Epoch | None  # that this block has scheduled, from height + window + 1 on
    wrote: bool = True  # whether there was a receipt or a change of the state


@dataclass(frozen=True, slots=True)
class Pending:
    """Whether requests or a due deadline wait: only then do backups time the primary.

    `omitted` names waiting requests that delivered blocks have passed over, though there was room.
    """

    waiting: bool
    omitted: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Connected:
    """A peer can be reached (again)."""

    peer: str


Event: TypeAlias = Propose | Received | TimerFired | Executed | Pending | Connected


@dataclass(frozen=True, slots=True)
class Persist:
    """Append the entry to the journal; synced before any later message leaves."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to every peer that is connected."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one peer."""

    to: str
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Deliver:
    """Execute this payload as the block at height `sequence`, the next one."""

    sequence: int
    payload: bytes
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class Certified:
    """A quorum has signed this header, which is also ours."""

    certificate: CheckpointCertificate


@dataclass(frozen=True, slots=True)
class Turned:
    """The epoch begins: the blocks before it are executed here and certified."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire after the delay, instead of any earlier setting of this timer."""

    timer: Timer
    delay_ms: int


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Do not fire."""

    name: TimerName


@dataclass(frozen=True, slots=True)
class Fault:
    """A validator signed two contents for one slot."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Rejected:
    """A peer's message broke a rule and was dropped; why, for the log and the counters."""

    peer: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Serve nothing any more and keep what is on disk: more than f replicas, or we, are faulty."""

    reason: str


Effect: TypeAlias = (
    Persist
    | Broadcast
    | Send
    | Deliver
    | Certified
    | Turned
    | SetTimer
    | CancelTimer
    | Fault
    | Rejected
    | Halt
)
