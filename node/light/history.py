"""One history of a chain as far as it was followed: from where, over which steps, to where.

Pure: whoever asks nodes brings what they said, and nothing enters that does not verify.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from node.audit.file import Anchor
from vm.block import Header
from vm.genesis import Genesis
from vm.inclusion import CertifiedHeader, ConsistencyProof, verify_consistency, verify_header
from vm.refusal import Refused
from vm.succession import Step
from vm.trust import Pin, Trust, advance, from_genesis, from_pin


@dataclass(frozen=True, slots=True)
class History:
    """What was followed: `steps` led from genesis, or from `start`, to the newest of the epochs.

    `newest` is the highest checkpoint that was shown to go on from all earlier ones; with a pin it
    is the pin's at first, and from genesis there is none at first.
    """

    trust: Trust
    start: Anchor | None
    steps: tuple[Step, ...]
    newest: CertifiedHeader | None

    @property
    def pin(self) -> Pin | None:
        """Where it begins; None for genesis."""
        return self.trust.pin

    @property
    def reached(self) -> Trust:
        """Trust as of the newest checkpoint: a step beyond it may be known already."""
        height = 0 if self.newest is None else self.newest.header.height
        first, *following = self.trust.epochs
        epochs = (first, *(epoch for epoch in following if epoch.first <= height))
        return replace(self.trust, epochs=epochs)

    @property
    def begun(self) -> "History":
        """Without the steps beyond what certifies the newest checkpoint: nothing shows them yet."""
        assert self.newest is not None, "somebody has shown a checkpoint"
        signed = self.newest.certificate.height
        first, *following = self.trust.epochs
        epochs = (first, *(epoch for epoch in following if epoch.first <= signed))
        trust = replace(self.trust, epochs=epochs)
        return replace(self, trust=trust, steps=self.reaches(self.newest))

    def step(self, step: Step) -> "History":
        """Follow to the next epoch; raises `Refused` with `succession.*` or `history.full`."""
        return replace(self, trust=advance(self.trust, step), steps=(*self.steps, step))

    def see(self, certified: CertifiedHeader) -> "History":
        """Take a checkpoint as the newest; raises `Refused` if it does not verify."""
        verify_header(certified, self.trust.chain, self.trust.epochs)
        return replace(self, newest=certified)

    def reaches(self, certified: CertifiedHeader) -> tuple[Step, ...]:
        """The steps that it takes to verify a header."""
        signed = certified.certificate.height
        return tuple(step for step in self.steps if step.epoch.first <= signed)


def pin_of(header: Header) -> Pin:
    """The pin of a header; whoever takes it says that this is the chain's history."""
    return Pin(header.height, header.digest)


def begin(genesis: Genesis, start: Anchor | None = None) -> History:
    """A history of which nothing is followed yet: from genesis, or from the pin of `start`.

    That the pin is one that the auditor holds is for the caller to know. Raises `Refused` with
    `pin.*` if the start is not of this chain or its epoch not the one that it names.
    """
    if start is None:
        return History(from_genesis(genesis), None, (), None)
    trust = from_pin(genesis.chain, start.pin, start.certified, start.epoch)
    return History(trust, start, (), start.certified)


def follow(history: History, steps: Iterable[Step]) -> History:
    """Follow several steps."""
    for step in steps:
        history = history.step(step)
    return history


def parting(
    history: History, proof: ConsistencyProof, older: CertifiedHeader, newer: CertifiedHeader
) -> CertifiedHeader | None:
    """None if a proof shows that `newer` goes on from `older`; else the header in older's place.

    What is returned is certified as well as `older` is: the two are a fork. Raises `Refused` with
    `audit.*` where the proof shows neither, `audit.key` if it is of other checkpoints.
    """
    verify_consistency(proof, history.trust.chain, history.trust.epochs)
    found = (proof.older.header.height, proof.newer.header.digest)
    if found != (older.header.height, newer.header.digest):
        raise Refused(
            "audit.key",
            f"expected a proof from height {older.header.height} to header "
            f"{newer.header.digest.hex()}, found one from {found[0]} to {found[1].hex()}",
        )
    return None if proof.older.header.digest == older.header.digest else proof.older
