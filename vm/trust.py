"""What an auditor trusts: a chain's id, and who ruled it from a beginning that it already holds.

That beginning is the genesis document, or a pin: a height and the digest of its header, written
down when the auditor had reason to believe them. A pin is the better one. From genesis alone, keys
of a validator set that were retired and stolen since can sign another future of that set; no step
from a pin is signed by keys that were retired before it.
"""

import re
from dataclasses import dataclass, replace

from vm.genesis import Genesis, check_genesis
from vm.inclusion import CertifiedHeader
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Digest, Height
from vm.succession import STEPS_MAX, Step, follow_step

PIN = re.compile(r"(0|[1-9][0-9]{0,15}):([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pin:
    """A header that an auditor holds for true: its height and digest. As text `HEIGHT:HEX64`."""

    height: Height
    header: Digest

    def __str__(self) -> str:
        return f"{self.height}:{self.header.hex()}"


@dataclass(frozen=True, slots=True)
class Trust:
    """A chain's id and its epochs, in order of number, as followed from genesis or from `pin`.

    From a pin the first epoch is the one that rules the pinned height.
    """

    chain: Digest
    epochs: tuple[Epoch, ...]
    pin: Pin | None


def parse_pin(text: str) -> Pin:
    """The pin in a text; raises `Refused("pin.invalid")`."""
    found = PIN.fullmatch(text)
    if found is None or int(found[1]) > HEIGHT_MAX:
        raise Refused(
            "pin.invalid",
            f"expected HEIGHT:DIGEST, the digest as 64 lower-case hexadecimal digits, "
            f"found {text[:90]!r}",
        )
    return Pin(int(found[1]), bytes.fromhex(found[2]))


def from_genesis(genesis: Genesis) -> Trust:
    """Trust in a genesis document alone; raises as `vm.genesis.check_genesis`."""
    return Trust(genesis.chain, (check_genesis(genesis),), None)


def from_pin(chain: Digest, pin: Pin, certified: CertifiedHeader, epoch: Epoch) -> Trust:
    """Trust in a pinned header of `chain` and in the epoch that it names.

    The certificate is not looked at: that the auditor holds the digest is the better reason.
    Raises `Refused` with `pin.header`, `pin.chain` or `pin.epoch`.
    """
    header = certified.header
    # 1. the header is the pinned one
    if (header.height, header.digest) != (pin.height, pin.header):
        found = Pin(header.height, header.digest)
        raise Refused("pin.header", f"expected the pinned header {pin}, found {found}")
    # 2. it is of the chain
    if header.chain != chain:
        raise Refused(
            "pin.chain", f"expected a header of chain {chain.hex()}, found {header.chain.hex()}"
        )
    # 3. it names the epoch whole
    if header.validators != epoch.digest:
        raise Refused(
            "pin.epoch",
            f"expected the epoch {header.validators.hex()} that header {pin.height} names, "
            f"found {epoch.digest.hex()}",
        )
    return Trust(chain, (epoch,), pin)


def advance(trust: Trust, step: Step) -> Trust:
    """Trust that reaches one epoch further.

    Raises as `vm.succession.follow_step`, and `Refused("history.full")` after `STEPS_MAX` steps:
    keys of a retired set make as many as they like.
    """
    if len(trust.epochs) > STEPS_MAX:
        raise Refused(
            "history.full",
            f"expected at most {STEPS_MAX} changes of validators, found more: pin a newer "
            "checkpoint (concilium audit pin) and begin a new store with it",
        )
    following = follow_step(trust.chain, trust.epochs[-1], step)
    return replace(trust, epochs=(*trust.epochs, following))
