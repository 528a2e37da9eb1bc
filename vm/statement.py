"""What validators sign: for each slot of an epoch one content, in a statement of constant size.

A statement holds the digest of what its message says. So whoever keeps two statements, with their
signatures, needs neither message to see that they contradict each other, however large they were.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, TypeAlias

from vm.certificate import checkpoint_digest
from vm.digest import digest
from vm.encoding import encode
from vm.shape import HEIGHT_MAX, Digest, Height, Int

View: TypeAlias = Annotated[int, Int(0, HEIGHT_MAX)]


class SlotKind(StrEnum):
    """What a statement is about."""

    PREPARE = "prepare"
    COMMIT = "commit"
    CHECKPOINT = "checkpoint"
    VIEW_CHANGE = "view-change"
    NEW_VIEW = "new-view"


@dataclass(frozen=True, slots=True)
class Slot:
    """What a correct validator says one thing about in an epoch, before and after a crash.

    A checkpoint belongs to no view and has 0 there; `view-change` and `new-view` are about a whole
    view and have 0 as `sequence`.
    """

    VERSION: ClassVar[int] = 1

    kind: SlotKind
    view: View
    sequence: Height


def statement_digest(chain: Digest, epoch: int, slot: Slot, content: Digest) -> Digest:
    """The 32 bytes that a validator signs to say `content` for `slot`.

    A checkpoint's are the same in every epoch: its height belongs to one only, and whoever checks a
    certificate need not know how many epochs there were before.
    """
    if slot.kind is SlotKind.CHECKPOINT:
        return checkpoint_digest(chain, slot.sequence, content)
    stated = encode((chain, epoch, slot.view, slot.sequence, content))
    return digest(f"concilium.{slot.kind.value}.v1", stated)
