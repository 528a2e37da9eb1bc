"""Simulated time: what is due next, and the one source of chance of a run."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass


class World:
    """Runs actions in the order in which they are due; equal seeds give equal runs."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_ms = 0
        self.events = 0
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._order = 0

    def later(self, delay_ms: int, action: Callable[[], object]) -> None:
        """Run `action` after the delay, after all that is due at the same time already."""
        self._order += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._order, action))

    def step(self) -> None:
        """Run the next action."""
        self.now_ms, _, action = heapq.heappop(self._queue)
        self.events += 1
        action()

    def chance(self, share: float) -> bool:
        """Whether something strikes that does so in this share of cases."""
        return share > 0 and self.rng.random() < share


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad a run is; shares are of messages, of effects or of events."""

    loss: float
    repeat: float
    late: float
    crash: float
    cut: float
    full: float

    @staticmethod
    def draw(rng: random.Random) -> "Weather":
        """One of many mixtures, the calm and the terrible among them."""
        return Weather(
            loss=rng.choice((0, 0.01, 0.1, 0.3)),
            repeat=rng.choice((0, 0.05)),
            late=rng.choice((0, 0.02, 0.2)),
            crash=rng.choice((0, 0.0005, 0.003)),
            cut=rng.choice((0, 0.005, 0.02)),
            full=rng.choice((0, 0, 0.002)),
        )


CALM = Weather(0, 0, 0, 0, 0, 0)
