"""The whole measurement: costs once, then for each net and number of validators load after load."""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.scale import probe
from tests.bench.scale.costs import Costs
from tests.bench.scale.run import Point, Run
from tests.bench.scale.timeline import EUROPE, LAN, Net

VALIDATORS = (4, 7, 10, 16)
NETS = (LAN, EUROPE)
LOADS = (0.1, 0.5, 0.75, 0.9)  # of the most that can be had
SECONDS = 6.0  # simulated, in which a run counts


@dataclass(frozen=True, slots=True)
class Scale:
    """All points, those of load 1 first for each net and number, and what they were made of."""

    python: str
    cores: int
    busy: float  # runnable processes in the minute before
    seed: int
    seconds: float
    costs: dict[int, Costs]  # by number of validators
    points: tuple[Point, ...]

    def at(self, validators: int, net: str, load: float) -> Point:
        """The point of one run."""
        return next(
            point
            for point in self.points
            if (point.validators, point.net, point.load) == (validators, net, load)
        )


def measure(
    folder: Path,
    validators: Sequence[int] = VALIDATORS,
    seed: int = 1,
    seconds: float = SECONDS,
    loads: Sequence[float] = LOADS,
) -> Scale:
    """Measure costs on this machine, in an empty folder, and run everything with them."""
    busy = os.getloadavg()[0]
    base = probe.measure(folder)
    costs = {n: probe.with_messages(base, n) for n in validators}
    points = tuple(
        point
        for net in NETS
        for n in validators
        for point in _curve(n, net, costs[n], seed, seconds, loads)
    )
    return Scale(platform.python_version(), os.cpu_count() or 1, busy, seed, seconds, costs, points)


def _curve(
    n: int, net: Net, costs: Costs, seed: int, seconds: float, loads: Sequence[float]
) -> Iterator[Point]:
    most = Run(n, net, costs, seed).saturate(2 * seconds)  # its blocks are few and large
    yield most
    for load in loads:
        yield Run(n, net, costs, seed).offer(load, load * most.tps, seconds)
