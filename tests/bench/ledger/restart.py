"""How long a validator that was killed takes until it votes again."""

import asyncio
import time
from pathlib import Path

from consensus.journal import Said, read_frames
from consensus.message import Commit, Prepare
from node.validator.journal import FOLDER as JOURNAL
from node.validator.journal import SEGMENT
from tests.bench.ledger.fleet import STORE, Fleet
from tests.network.running import DEADLINE_S

KILLED = 3  # a backup, as long as no view has changed
LOOK_S = 0.01


async def seconds_to_vote(fleet: Fleet) -> float:
    """From the start of the process to its first Prepare or Commit of a block that is new to it.

    The others must go on making blocks. A vote counts once it is in the journal, which is synced
    right before it leaves.
    """
    journal = fleet.home(KILLED) / STORE / JOURNAL / SEGMENT
    me = f"{fleet.hospitals[KILLED - 1]}.validator"
    fleet.kill(KILLED)
    before, size = voted(journal, 0, me), journal.stat().st_size
    begun_s = time.perf_counter()
    fleet.start(KILLED)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await asyncio.sleep(LOOK_S)
            grown = journal.stat().st_size  # a journal that was made anew is read whole
            if voted(journal, size if grown >= size else 0, me) > before:
                return time.perf_counter() - begun_s


def voted(journal: Path, start: int, me: str) -> int:
    """The highest block that we voted for in what a journal holds from `start` on."""
    with journal.open("rb") as file:
        file.seek(start)
        entries, _ = read_frames(file.read())
    said = [entry.envelope for entry in entries if isinstance(entry, Said)]
    votes = [one.body for one in said if one.sender == me]
    return max((vote.sequence for vote in votes if isinstance(vote, Prepare | Commit)), default=0)
