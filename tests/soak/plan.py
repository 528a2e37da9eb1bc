"""What a soak does to its validators: drawn from a seed, so that a run can be repeated."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from vm.quorum import faults

CALM_S = (0.5, 3.0)  # between two blows, for some blocks and a restart
BLOW_S = (0.5, 6.0)  # up to a few view timeouts
STORM_S = (0.5, 3.0)  # of more than f: nothing is ordered meanwhile
STORM_CHANCE = 0.2


class Kind(StrEnum):
    """What happens to a validator, and is undone at the end of the blow."""

    KILL = "kill"  # SIGKILL; started again
    STOP = "stop"  # SIGSTOP; SIGCONT
    ISOLATE = "isolate"  # it neither hears nor is heard
    DEAFEN = "deafen"  # it is heard and hears nobody
    MUTE = "mute"  # it hears and is not heard
    SLOW = "slow"  # each of its messages takes DELAY_S


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that happens to some validators, by number, for a time."""

    after_s: float  # of calm before it
    lasting_s: float
    victims: tuple[tuple[int, Kind], ...]

    def __str__(self) -> str:
        said = ", ".join(f"{kind} {number}" for number, kind in self.victims)
        return f"{said} for {self.lasting_s:.1f} s"


def plan(seed: int, seconds: float, size: int) -> tuple[Blow, ...]:
    """Blows that fill `seconds`: at most f validators at once, and short storms of more."""
    chance = Random(seed)
    blows: list[Blow] = []
    left = seconds
    while left > 0:
        storm = chance.random() < STORM_CHANCE
        f = faults(size)
        count = chance.randint(f + 1, size) if storm else chance.randint(1, f)
        numbers = sorted(chance.sample(range(1, size + 1), count))
        blow = Blow(
            after_s=chance.uniform(*CALM_S),
            lasting_s=chance.uniform(*(STORM_S if storm else BLOW_S)),
            victims=tuple((number, chance.choice(list(Kind))) for number in numbers),
        )
        left -= blow.after_s + blow.lasting_s
        blows.append(blow)
    return tuple(blows)
