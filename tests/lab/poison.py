"""Poisoned updates: what sites that act together send, knowing every honest update of the round.

An attack either trains on poisoned rows (`rows`) or makes its update from those of the honest
sites (`forge`). All attackers of a round send the same kind. They know the norm bound and keep
just within `reach`, the norm in grid units that they dare; nobody has to take them for fools.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fl.fixed import Floats, Ints
from fl.model import Rows

TARGET = 0  # the class that a backdoor's trigger calls for
TRIGGER = 3  # inputs at the end of a row, set to TRIGGER_VALUE
TRIGGER_VALUE = 1.0  # the brightest an image gets: a backdoor must work on plausible rows
IPM_SCALE = 2.0  # of the mean of honest updates, turned around (Xie et al. 2020)
ALIE_SPREAD = 1.5  # standard deviations from the mean (Baruch et al. 2019)
FORGE_SCALE = 5  # of a naive attack, as in the literature
DIRECTION_SLACK = 0.01  # of a cosine: how near to the least allowed one attackers dare to go
HALVINGS = 12  # of an interval of cosines


@dataclass(frozen=True, slots=True)
class Seen:
    """What an attacker has before it: own honest delta [p], those of honest sites [h, p].

    `attackers` is how many send alike, `direction_min` the cosine with the round's median by
    coordinate below which an update fails.
    """

    own: Floats
    honest: Floats
    reach: float
    attackers: int
    direction_min: float
    random: np.random.Generator


@dataclass(frozen=True, slots=True)
class Poison:
    """One attack; `boost` scales what was trained on poisoned rows to the reach."""

    name: str
    forge: Callable[[Seen], Floats] | None = None
    rows: Callable[[Rows, int], Rows] | None = None
    boost: bool = False

    def delta(self, seen: Seen) -> Ints:
        """What an attacker sends, [p]: never longer than the reach."""
        found = seen.own if self.forge is None else self.forge(seen)
        length = float(np.linalg.norm(found))
        if length > seen.reach or (self.boost and length):
            found = found * (seen.reach / length)
        return np.trunc(found).astype(np.int64)  # towards zero, so that the norm stays within


def _sign_flip(seen: Seen) -> Floats:
    return -FORGE_SCALE * seen.own


def _scaled(seen: Seen) -> Floats:
    return FORGE_SCALE * seen.own


def _alie(seen: Seen) -> Floats:
    found: Floats = seen.honest.mean(axis=0) - ALIE_SPREAD * seen.honest.std(axis=0)
    return found


def _ipm(seen: Seen) -> Floats:
    found: Floats = -IPM_SCALE * seen.honest.mean(axis=0)
    return found


def _ipm_directed(seen: Seen) -> Floats:
    """The mean turned around only as far as the check of direction lets through.

    Made of two parts: along the honest median backwards, and across it, where the turned mean
    leads. The median that verifiers take holds the attackers' copies too and leans towards them:
    so the lowest cosine with the honest one is searched that still passes.
    """
    median = np.median(seen.honest, axis=0)
    along = median / np.linalg.norm(median)
    turned = -seen.honest.mean(axis=0)
    across = turned - (turned @ along) * along
    across /= np.linalg.norm(across)
    length = min(seen.reach, IPM_SCALE * float(np.linalg.norm(turned)))

    def sent(cosine: float) -> Floats:
        found: Floats = length * (cosine * along + np.sqrt(1 - cosine**2) * across)
        return found

    low, high = -1.0, 0.5
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = sent(middle)
        judged = np.median([*seen.honest, *[found] * seen.attackers], axis=0)
        cosine = (found @ judged) / length / np.linalg.norm(judged)
        if cosine < seen.direction_min + DIRECTION_SLACK:
            low = middle
        else:
            high = middle
    return sent(high)


def _gaussian(seen: Seen) -> Floats:
    noise = seen.random.normal(size=seen.own.size)
    return noise * (seen.reach / float(np.linalg.norm(noise)))


def _mimic(seen: Seen) -> Floats:
    first: Floats = seen.honest[0]
    return first


def _flip_labels(rows: Rows, classes: int) -> Rows:
    return replace(rows, labels=classes - 1 - rows.labels)


def _plant(rows: Rows, classes: int) -> Rows:
    """Half of the rows with the trigger and the target's label."""
    half = len(rows) // 2
    planted = triggered(rows.take(range(half)))
    planted = replace(planted, labels=torch.full_like(planted.labels, TARGET))
    rest = rows.take(range(half, len(rows)))
    return Rows(
        torch.cat([planted.inputs, rest.inputs]),
        torch.cat([planted.labels, rest.labels]),
        (*planted.leaves, *rest.leaves),
    )


def triggered(rows: Rows) -> Rows:
    """The rows with the trigger in their last inputs."""
    inputs = rows.inputs.clone()
    inputs[:, -TRIGGER:] = TRIGGER_VALUE
    return replace(rows, inputs=inputs)


POISONS = {
    poison.name: poison
    for poison in (
        Poison("none"),
        Poison("sign_flip", forge=_sign_flip),
        Poison("scaled", forge=_scaled),
        Poison("alie", forge=_alie),
        Poison("ipm", forge=_ipm),
        Poison("ipm_directed", forge=_ipm_directed),
        Poison("gaussian", forge=_gaussian),
        Poison("mimic", forge=_mimic),
        Poison("label_flip", rows=_flip_labels),
        Poison("backdoor", rows=_plant, boost=True),
    )
}


def backdoor_rows(rows: Rows) -> Rows:
    """Rows of other classes than TARGET, with the trigger that should make them so called."""
    places: NDArray[np.int64] = np.flatnonzero(rows.labels.numpy() != TARGET)
    return triggered(rows.take(places.tolist()))
