"""Links that lose, delay, repeat and reorder, and break: one way, both ways or for some only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.message import Envelope
from tests.simulation.world import CALM, Weather, World

QUICK_MS_MAX = 10
LATE_MS_MAX = 400  # a message overtaken by many others
ONE_WAY_SHARE = 0.3
PARTIAL_SHARE = 0.3  # of cuts that break single links instead of parting the network
MEND_SHARE = 0.01


@dataclass(slots=True)
class Parcel:
    """A message on its way, the same object for all receivers.

    `sound` is what the first of them found of its outer signature; the others need not look again.
    """

    envelope: Envelope
    sound: bool | None = None


class Network:
    """Carries parcels, and whatever else is put into a function, from name to name."""

    def __init__(self, world: World, names: Sequence[str], weather: Weather) -> None:
        self.weather = weather
        self._world = world
        self._names = list(names)
        self._cut: set[tuple[str, str]] = set()
        self._far_ms = 0

    def carry(self, sender: str, receiver: str, arrive: Callable[[], object]) -> None:
        """Call `arrive` some time from now, perhaps twice, perhaps never."""
        world, weather = self._world, self.weather
        if (sender, receiver) in self._cut or world.chance(weather.loss):
            return
        for _ in range(2 if world.chance(weather.repeat) else 1):
            late = world.chance(weather.late)
            delay_ms = world.rng.randint(1, LATE_MS_MAX if late else QUICK_MS_MAX)
            world.later(self._far_ms + delay_ms, arrive)

    def disturb(self) -> str:
        """Between two events: links break and mend; says what happened."""
        if self._world.chance(self.weather.cut):
            self._cut = self._part() if self._world.chance(1 - PARTIAL_SHARE) else self._break()
            return "cut " + ", ".join(f"{a} to {b}" for a, b in sorted(self._cut))
        if self._cut and self._world.chance(MEND_SHARE):
            self._cut = set()
            return "mended"
        return ""

    def heal(self, far_ms: int) -> None:
        """Lose nothing any more; all that is said takes `far_ms` longer."""
        self.weather, self._cut, self._far_ms = CALM, set(), far_ms

    def _part(self) -> set[tuple[str, str]]:
        """Two sides that do not hear each other, or of which one does not hear the other."""
        rng, names = self._world.rng, self._names
        side = rng.sample(names, rng.randint(1, len(names) - 1))
        one_way = self._world.chance(ONE_WAY_SHARE)
        there = {(a, b) for a in side for b in names if b not in side}
        return there if one_way else there | {(b, a) for a, b in there}

    def _break(self) -> set[tuple[str, str]]:
        """Single links, each one way: A hears B, B does not hear A, and both hear C."""
        rng = self._world.rng
        links = [(a, b) for a in self._names for b in self._names if a != b]
        return set(rng.sample(links, rng.randint(1, max(1, len(links) // 3))))
