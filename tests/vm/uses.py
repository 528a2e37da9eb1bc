"""Three uses of a model and the batch that they make, true and false."""

from dataclasses import replace
from typing import Any

from tests.fl.dialogue import MODEL
from tests.harness import START_MS, Item
from vm import tree
from vm.shape import pack
from vm.usage import COUNT_MAX, Action, Purpose, Use, UseBatch, hours, note_digest

NOTE, NOTE_SALT = "ward 3, list of 1 March", bytes(range(32, 48))
OWNER = "hospital-2"

FIRST = Use(
    salt=bytes(range(16)),
    time_ms=START_MS,
    model=MODEL,
    version=1,
    purpose=Purpose.CARE,
    action=Action.INFERENCE,
    count=12,
    note=None,
)
NOTED = replace(
    FIRST,
    salt=bytes(range(16, 32)),
    time_ms=START_MS + 60,
    count=1,
    note=note_digest(NOTE_SALT, NOTE),
)
THIRD = replace(FIRST, salt=bytes(range(48, 64)), time_ms=START_MS + 30, count=30)
LEAVES = tuple(pack(use) for use in (FIRST, NOTED, THIRD))
FIRST_MS, LAST_MS = hours((START_MS, START_MS + 60))
BATCH = UseBatch(
    model=MODEL,
    version=1,
    purpose=Purpose.CARE,
    action=Action.INFERENCE,
    count=43,
    entries=3,
    root=tree.root(LEAVES),
    first_ms=FIRST_MS,
    last_ms=LAST_MS,
)


def recording(sender: str = f"{OWNER}.steward", **changes: Any) -> Item:
    """A member records the batch, with `changes` to what it says."""
    return sender, "model.use", replace(BATCH, **changes)


def stories() -> list[Item]:
    """Batches 1 to 5 of the owner: as it was, an export, and three that say what was not so."""
    return [
        recording(),
        recording(action=Action.EXPORT, count=3),
        recording(count=44),
        recording(purpose=Purpose.RESEARCH),
        recording(entries=1, root=tree.root(LEAVES[:1]), count=COUNT_MAX),
        recording("hospital-1.trainer", root=bytes(32), count=3),
    ]
