"""Updates of a dishonest trainer, to show on the real path that they are rejected."""

from dataclasses import replace

from fl.fixed import Ints, norm
from fl.train import Result
from fl.weights import digest_ints
from vm.digest import WEIGHTS


def sign_flip(base: Ints, honest: Result, scale: int) -> Result:
    """An honest training turned around and scaled: delta becomes -scale delta."""
    return bend(base, honest, -scale * honest.delta)


def bend(base: Ints, honest: Result, delta: Ints) -> Result:
    """Another delta, [parameters], under the trace of an honest training.

    The trace is made to end in base + delta, as an attacker would, so that its root, its end and
    its moves are in order: only replay shows that nothing leads there.
    """
    last = replace(
        honest.segments[-1], weights=digest_ints(WEIGHTS, base + delta), move=norm(delta)
    )
    return replace(honest, delta=delta, norm=norm(delta), segments=(*honest.segments[:-1], last))
