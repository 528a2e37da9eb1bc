"""What a validator that says two things signs, and the evidence that an honest one makes of it."""

from vm.digest import PAYLOAD, digest
from vm.evidence import Evidence, SignedContent
from vm.keys import SigningKey
from vm.shape import Digest
from vm.statement import Slot, SlotKind, statement_digest

SLOT = Slot(SlotKind.PREPARE, 0, 1)
ONE, TWO = digest(PAYLOAD, b"one"), digest(PAYLOAD, b"two")


def signed_content(
    key: SigningKey, chain: Digest, content: Digest, epoch: int = 0, slot: Slot = SLOT
) -> SignedContent:
    """A statement as its sender signs it."""
    return SignedContent(content, key.sign(statement_digest(chain, epoch, slot, content)))


def evidence(
    key: SigningKey, chain: Digest, validator: str, epoch: int = 0, slot: Slot = SLOT
) -> Evidence:
    """Two statements for one slot."""
    first, second = (signed_content(key, chain, content, epoch, slot) for content in (ONE, TWO))
    return Evidence(validator, epoch, slot, first, second)
