"""What ends a process, and what may be lost with it."""

from typing import Protocol

from tests.simulation.council import Council
from tests.simulation.disk import MemoryDatabase
from tests.simulation.judge import Judge, Violation
from tests.simulation.shell import Shell
from tests.simulation.trace import Value
from tests.simulation.views import Views
from tests.simulation.world import World

POWER_CUT = "power cut"
KILLED_SHARE = 0.3  # of processes that end: what they wrote is lost only by a power cut to come
LOSSES = (0, 0, 0.1)  # shares of processes that end: the journal, or the store, goes with them
ZEROS = (0, 0, 7, 4_096)  # bytes after a torn journal


class Say(Protocol):
    """Adds a record to the trace."""

    def __call__(self, node: str, what: str, **fields: Value) -> None:
        """`what` happened at a node."""


class Accidents:
    """Strikes validators in a run, within what the others bear."""

    def __init__(
        self, world: World, council: Council, judge: Judge, views: Views, say: Say
    ) -> None:
        self._world = world
        self._council = council
        self._judge = judge
        self._views = views
        self._say = say
        self._journals = world.rng.choice(LOSSES)
        self._stores = world.rng.choice(LOSSES)

    def end(self, shell: Shell, why: str) -> None:
        """End a process: alone, or by a power cut, which takes what was not synced."""
        rng, disk = self._world.rng, shell.disk
        if why != POWER_CUT and self._world.chance(KILLED_SHARE):
            shell.kill()
            self._say(shell.name, "ends", why=why)
            return
        batches = rng.choice((0, disk.database.unsynced, rng.randint(0, disk.database.unsynced)))
        kept = disk.journal.torn(rng)
        shell.end(batches=batches, kept=kept, zeros=rng.choice(ZEROS))
        self._say(shell.name, "ends", why=why, batches=batches, kept=kept)

    def lose(self, shell: Shell) -> None:
        """Perhaps its journal or its store is gone when it starts again."""
        if self._world.chance(self._journals):
            self._lose_journal(shell)
        elif self._world.chance(self._stores):
            self._lose_store(shell)

    def _lose_journal(self, shell: Shell) -> None:
        if self._council.bar(shell.name, self._judge.epochs, self._judge.certified):
            self._say(shell.name, "journal lost")
            shell.disk.database.full = shell.disk.journal.full = False
            if not shell.lose_journal(self._world.rng):
                raise Violation(f"journal: {shell.name} would take damage for a torn tail")
            self._judge.excuse(shell)
            self._views.excuse(shell)

    def _lose_store(self, shell: Shell) -> None:
        """Its journal is kept: it still knows what it promised, and fetches the rest again."""
        self._stores = 0  # one in a run: of those who have a block f may be traitors
        self._say(shell.name, "store lost")
        shell.disk.database = MemoryDatabase()
        self._judge.excuse(shell)
