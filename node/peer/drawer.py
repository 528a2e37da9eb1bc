"""Where a verifier keeps what it has sealed until it reveals it, also through a crash.

Judging again after a restart might come to other words, a missing file or another last digit; a
reveal that is not what was sealed is refused, and counts as withheld.
"""

from pathlib import Path

import structlog

from fl.body import RevealVerdicts
from node.wire.disk import replace_file
from vm.refusal import Refused
from vm.shape import Digest, pack, unpack
from vm.transaction import BODY_BYTES_MAX

FOLDER = "sealed"  # in the peer's store: one file for each task, its name the task's id
BOUND = "bound"  # beside it, likewise: the seal that binds us

log = structlog.get_logger()


class Drawer:
    """What was sealed in the newest round of each task."""

    def __init__(self, store: Path) -> None:
        """The folders are made when something is first put into them."""
        self._folder = store / FOLDER
        self._bound = store / BOUND

    def put(self, body: RevealVerdicts) -> None:
        """Keep `body`, synced, in place of what is kept of an earlier round of its task."""
        replace_file(self._folder / body.task, pack(body))

    def get(self, task: str, number: int) -> RevealVerdicts | None:
        """What was put for a round; None if nothing readable was, or another round's."""
        try:
            with (self._folder / task).open("rb") as file:
                data = file.read(BODY_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        try:
            found = unpack(RevealVerdicts, data, BODY_BYTES_MAX)
        except Refused as refused:  # damaged: that binds nobody in later rounds
            log.warning("drawer.unreadable", task=task, code=refused.code)
            return None
        return found if found.round == number else None

    def bind(self, task: str, sealed: Digest) -> None:
        """Keep that a seal was on the chain while its site stood by the task."""
        replace_file(self._bound / task, sealed)

    def is_bound(self, task: str, sealed: Digest) -> bool:
        """Whether that was kept of this seal."""
        try:
            return (self._bound / task).read_bytes() == sealed
        except FileNotFoundError:
            return False
