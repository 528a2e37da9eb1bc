"""What updates, openings and scores tell of rows: all attacks, over seeds, in one table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.lab.data import Source, source
from tests.lab.inversion import inversion
from tests.lab.membership import membership
from tests.lab.oracle import oracle
from tests.lab.table import mean_and_error
from tests.lab.watched import Finding

Attack = Callable[[Source, int], Iterator[Finding]]
ATTACKS: Sequence[tuple[Attack, str]] = (  # on which data
    (membership, "opt"),
    (membership, "digits"),
    (oracle, "opt"),
    (inversion, "opt"),
    (inversion, "digits"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of one view over all seeds, beside what chance gives."""

    attack: str
    data: str
    view: str
    measure: str
    seeds: int
    value: float
    error: float | None
    chance: float


def leaks(seed: int) -> list[Finding]:
    """Every attack on one seed."""
    return [found for attack, name in ATTACKS for found in attack(source(name), seed)]


def lines(findings: Sequence[Finding]) -> list[Line]:
    """Means over seeds, in the order in which they were first found."""
    groups: dict[tuple[str, str, str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.attack, one.data, one.view, one.measure), []).append(one)
    return [
        Line(
            *key,
            len(of),
            *mean_and_error([one.value for one in of]),
            float(np.mean([one.chance for one in of])),
        )
        for key, of in groups.items()
    ]


def markdown(made: Sequence[Line]) -> str:
    """The table for people."""
    head = "| attack | data | what is seen | measure | seeds | found | chance |\n" + "|---" * 7
    return head + "|\n" + "".join(map(_row, made))


def _row(one: Line) -> str:
    found = f"{one.value:.3f}" + ("" if one.error is None else f" ± {one.error:.3f}")
    cells = (one.attack, one.data, one.view, one.measure, str(one.seeds), found)
    return "| " + " | ".join(cells) + f" | {one.chance:.3f} |\n"
