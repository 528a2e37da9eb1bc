"""From one epoch to the next: how who holds the genesis document alone learns who rules a height.

The certified header of an epoch's last height names the next epoch by digest. Whoever follows these
steps trusts that a quorum of each set was honest about the next while it ruled; keys of a set that
were stolen since can sign another future of it, so a client keeps what it has followed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from vm.block import Header
from vm.certificate import CheckpointCertificate, verify_checkpoint
from vm.genesis import Genesis, check_genesis
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import Digest

STEPS_MAX = 1_024  # of one history; a change of validators every week for twenty years


@dataclass(frozen=True, slots=True)
class Step:
    """The header of an epoch's last height, certified by its validators, and the next epoch."""

    VERSION: ClassVar[int] = 1

    header: Header
    certificate: CheckpointCertificate
    epoch: Epoch


def follow(genesis: Genesis, steps: Iterable[Step]) -> tuple[Epoch, ...]:
    """The epochs from number 0 to that of the last step; raises as `follow_step` and as genesis."""
    epochs = [check_genesis(genesis)]
    for step in steps:
        epochs.append(follow_step(genesis.chain, epochs[-1], step))
    return tuple(epochs)


def follow_step(chain: Digest, epoch: Epoch, step: Step) -> Epoch:
    """The epoch after `epoch`, if the step shows it.

    Raises `Refused` with `succession.chain`, `.header`, `.epoch`, `.next`, `.number` or
    `.certificate.*`, and the number of the epoch that was not reached.
    """
    header, certificate, following = step.header, step.certificate, step.epoch
    number = epoch.number + 1
    # 1. the header is of this chain
    if header.chain != chain:
        raise _refuse("chain", number, f"chain {chain.hex()}", header.chain.hex())
    # 2. it is the one that the certificate names
    if (certificate.height, certificate.header) != (header.height, header.digest):
        raise _refuse(
            "header",
            number,
            f"header {certificate.header.hex()} of height {certificate.height}",
            f"{header.digest.hex()} of height {header.height}",
        )
    # 3. the epoch that we know rules its height
    if header.validators != epoch.digest:
        raise _refuse(
            "epoch",
            number,
            f"a header of epoch {epoch.number}",
            f"one of {header.validators.hex()}",
        )
    # 4. it names the next epoch
    if header.next_validators != following.digest:
        raise _refuse(
            "next", number, f"the epoch {header.next_validators.hex()}", following.digest.hex()
        )
    # 5. which is the one after, and begins where this one ends
    if (following.number, following.first) != (number, header.height + 1):
        raise _refuse(
            "number",
            number,
            f"epoch {number} from height {header.height + 1} on",
            f"epoch {following.number} from {following.first} on",
        )
    # 6. a quorum of the epoch that ends signed
    try:
        verify_checkpoint(certificate, chain, epoch.validators)
    except Refused as refused:
        message = f"step to epoch {number}: {refused.message}"
        raise Refused(f"succession.{refused.code}", message) from refused
    return following


def _refuse(code: str, number: int, expected: str, found: str) -> Refused:
    message = f"step to epoch {number}: expected {expected}, found {found}"
    return Refused(f"succession.{code}", message)
