"""Simulated seconds: what is due next, a core that does one thing at a time, links with delays."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.bench.scale.costs import Work

GIGABIT_BYTES_S = 125e6  # 1 Gbit/s

Action = Callable[[], None]


class Clock:
    """Runs actions in the order in which they are due."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._queue: list[tuple[float, int, Action]] = []
        self._order = 0

    def at(self, due_s: float, action: Action) -> None:
        """Run `action` then, after all that is due at the same time already."""
        self._order += 1
        heapq.heappush(self._queue, (due_s, self._order, action))

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._queue)
            action()
        self.now_s = until_s


class Core:
    """One core of a validator: tasks in order of arrival, each to its end.

    A task says what it costs by `spend` and returns what happens at its end, or None.
    """

    def __init__(self, clock: Clock) -> None:
        self.spent_s = dict.fromkeys(Work, 0.0)
        self._clock = clock
        self._tasks: deque[Callable[[], Action | None]] = deque()
        self._busy = False
        self._cost_s = 0.0  # of the task at hand

    @property
    def now_s(self) -> float:
        """How far the task at hand has come."""
        return self._clock.now_s + self._cost_s

    def spend(self, work: Work, cost_s: float) -> None:
        """Be busy for so long within the task at hand."""
        assert self._busy, "work is done in tasks"
        self._cost_s += cost_s
        self.spent_s[work] += cost_s

    def run(self, task: Callable[[], Action | None]) -> None:
        """Do a task after all that came before it."""
        self._tasks.append(task)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy, self._cost_s = True, 0.0
        then = self._tasks.popleft()()
        self._clock.at(self.now_s, lambda: self._end(then))

    def _end(self, then: Action | None) -> None:
        self._cost_s = 0.0
        if then is not None:
            then()
        self._busy = False
        if self._tasks:
            self._next()


@dataclass(frozen=True, slots=True)
class Net:
    """One-way delays, drawn once for each pair of validators, and the bandwidth of each link."""

    name: str
    low_s: float
    high_s: float
    bytes_s: float = GIGABIT_BYTES_S


LAN = Net("lan", 0.0005, 0.0005)
EUROPE = Net("europe", 0.015, 0.040)


class Links:
    """From each validator to each other a link of its own, which carries one frame at a time."""

    def __init__(self, net: Net, n: int, rng: Random) -> None:
        self._bytes_s = net.bytes_s
        self._delay_s = {
            frozenset((a, b)): rng.uniform(net.low_s, net.high_s)
            for a in range(n)
            for b in range(a)
        }
        self._free_s: dict[tuple[int, int], float] = {}

    def arrival_s(self, sender: int, receiver: int, size: int, begin_s: float) -> float:
        """When a frame of `size` bytes arrives whose sender is done with it at `begin_s`."""
        link = sender, receiver
        self._free_s[link] = max(begin_s, self._free_s.get(link, 0.0)) + size / self._bytes_s
        return self._free_s[link] + self._delay_s[frozenset(link)]
