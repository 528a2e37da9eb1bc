"""What the shell hands a replica at its start: its store's answers, and what may sign for it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from consensus.message import Block
from consensus.outbox import Sign
from vm.certificate import CheckpointCertificate
from vm.quorum import Epoch
from vm.shape import Digest, PublicKey

Signer: TypeAlias = Callable[[PublicKey], Sign | None]


@dataclass(frozen=True, slots=True)
class History:
    """What the shell's store answers about the past.

    `blocks(first, last)` yields the stored blocks of these heights (both included) in order, and
    stops where it has no more; it is read lazily. `certificate(at_most)` is the newest checkpoint
    certificate not above a height, `epoch(height)` the epoch that rules a height up to window + 1
    above the executed one; genesis counts as a height of epoch 0.
    """

    blocks: Callable[[int, int], Iterable[Block]]
    certificate: Callable[[int], CheckpointCertificate | None]
    epoch: Callable[[int], Epoch]


@dataclass(frozen=True, slots=True)
class Start:
    """What the shell's store holds durably: height and header executed, and its newest proof.

    `epochs` are all that may still matter, in order: from the one that rules the height above the
    certificate on, up to the newest that execution has scheduled.
    """

    executed: int
    header: Digest
    stable: CheckpointCertificate | None
    epochs: tuple[Epoch, ...]
