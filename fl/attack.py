"""Updates of a dishonest trainer, to show on the real path that they are rejected."""

from dataclasses import replace

from fl.fixed import Ints, norm
from fl.train import Result
from fl.weights import digest_ints
from vm.digest import WEIGHTS


def sign_flip(base: Ints, honest: Result, scale: int) -> Result:
    """An honest training turned around and scaled: delta becomes -scale delta.

    The trace is made to end in the poisoned weights, as an attacker would, so that its root, its
    end and its moves are in order.
    """
    delta = -scale * honest.delta
    last = replace(
        honest.segments[-1], weights=digest_ints(WEIGHTS, base + delta), move=norm(delta)
    )
    return replace(honest, delta=delta, norm=norm(delta), segments=(*honest.segments[:-1], last))
