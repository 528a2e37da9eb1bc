"""How fast a primary orders: what it must at least do while requests wait.

A view timer alone lets a primary order one small block just before each firing (Aardvark, NSDI'09;
field-notes A4). As in Aardvark, a primary has to sustain a minimum, and part of what past primaries
sustained. Unlike there, only time in which requests wait and the primary has nothing under way
speaks against it: where capacity is short, blocks are under way all the time, and a change of the
primary would not help.
"""

from collections import deque

WINDOW_TICKS = 32  # over which a primary is judged: 8 s of waiting at 250 ms a tick
PATIENCE_TICKS = 4  # until waiting starves: within 1 s gossip brings what only the others held
STARVED_TICKS_MAX = 8  # of a window; one block every 1.9 s gives twelve
BLOCKS_MIN = 8  # in a window with more starved ticks than that: one a second
PAST_VIEWS_MAX = 8  # whose best windows are remembered


class Pace:
    """Judges the current primary by ticks, of which the time in which requests wait is made."""

    def __init__(self) -> None:
        self._ticks: deque[tuple[bool, int]] = deque(maxlen=WINDOW_TICKS)  # (starved, blocks)
        self._best: deque[int] = deque([0], maxlen=PAST_VIEWS_MAX + 1)  # blocks, by view
        self._idle_ticks = 0  # in a row
        self._blocks = 0  # delivered in this tick
        self._under_way = False  # at any time in this tick

    @property
    def slow(self) -> bool:
        """Whether in a full window the primary left requests waiting and ordered too little."""
        starved = sum(starved for starved, _ in self._ticks)
        judged = len(self._ticks) == WINDOW_TICKS and starved > STARVED_TICKS_MAX
        return judged and self._ordered() < self._expected()

    def delivered(self) -> None:
        """A block was delivered."""
        self._blocks += 1
        self._under_way = True

    def under_way(self) -> None:
        """A proposal of the primary is being agreed upon, or a block executed."""
        self._under_way = True

    def tick(self) -> None:
        """Requests have waited through another tick."""
        self._idle_ticks = 0 if self._under_way else self._idle_ticks + 1
        self._ticks.append((self._idle_ticks > PATIENCE_TICKS, self._blocks))
        self._blocks, self._under_way = 0, False
        self._best[-1] = max(self._best[-1], self._ordered())

    def rest(self) -> None:
        """Nothing waits any more: what waits next will have been waiting for no time."""
        self._idle_ticks, self._under_way = 0, False

    def turn(self) -> None:
        """A new view: its primary is judged afresh, by what past ones sustained."""
        self._ticks.clear()
        self._best.append(0)
        self._idle_ticks, self._blocks, self._under_way = 0, 0, False

    def _ordered(self) -> int:
        return sum(blocks for _, blocks in self._ticks)

    def _expected(self) -> int:
        """Blocks in a window."""
        return max(BLOCKS_MIN, max(self._best) // 2)
