"""What each piece of a validator's work costs, by name: the input of a run, measured or made up."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Work(StrEnum):
    """For what a core is busy; `VOTES` are the messages that all send to all for each block."""

    VOTES = "votes"  # Prepare, Commit, Checkpoint
    PROPOSALS = "proposals"
    STATUS = "status"  # of which there are as many, but a few a second
    TRANSACTIONS = "transactions"  # verified and handed on once, before they are ordered
    EXECUTION = "execution"


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds on one core, except `sync_s`, for which a turn waits while the core is free.

    `decode_s` and `encode_s` are by kind of message, without the bytes of its payload; `step_s` is
    by kind of message and by other events of a replica, signatures excluded. `frame_s` is what a
    frame costs at either end of a connection.
    """

    decode_s: Mapping[str, float]
    encode_s: Mapping[str, float]
    step_s: Mapping[str, float]
    verify_s: float  # a message's signature
    ask_s: float  # to have it verified with those that come together, beside that itself
    sign_s: float
    frame_s: float
    entry_s: float  # an entry appended to the journal
    sync_s: float
    decode_byte_s: float  # of a payload, as are the next three
    encode_byte_s: float
    frame_byte_s: float
    held_byte_s: float  # hashed and appended to the journal
    batch_s: float  # a message of transactions
    intake_s: float  # one of its transactions: decoded, verified, judged, admitted
    again_s: float  # one that waits here already
    draw_s: float  # a transaction drawn and packed into a proposal
    check_s: float  # a transaction in another's proposal, known from before
    block_s: float
    transaction_s: float  # one more in an executed block

    def decode(self, kind: str) -> float:
        """Seconds to decode a message of this kind."""
        return _of(self.decode_s, kind)

    def encode(self, kind: str) -> float:
        """Seconds to encode a message of this kind."""
        return _of(self.encode_s, kind)

    def step(self, name: str) -> float:
        """Seconds of a replica's step for a message of this kind, or another event."""
        return _of(self.step_s, name)


def _of(table: Mapping[str, float], name: str) -> float:
    """What was never seen while costs were measured is rare: it costs as the dearest that was."""
    return table[name] if name in table else max(table.values(), default=0.0)


FREE = Costs({}, {}, {}, *([0.0] * 17))
