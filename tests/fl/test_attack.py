"""The attack is as strong as it claims: only its size and direction give it away."""

import pytest

from fl.attack import sign_flip
from fl.fixed import norm
from fl.trace import Origin, check_trace, root
from fl.train import train
from fl.weights import digest_ints
from tests.fl.learning import SPECS, base_of, job_of, rows_of
from vm.digest import WEIGHTS

SPEC = SPECS["logistic"]
BASE = base_of(SPEC)
ORIGIN = Origin("preterm", 1, "hospital-1.trainer", "made-up")


@pytest.mark.parametrize("scale", [1, 5])
def test_a_sign_flip_brings_a_trace_in_order(scale: int) -> None:
    """The trace ends in the poisoned weights and reaches them: no check of traces finds it."""
    honest = train(job_of(SPEC), BASE, rows_of(SPEC))

    poisoned = sign_flip(BASE, honest, scale)

    assert poisoned.delta.tolist() == (-scale * honest.delta).tolist()
    assert poisoned.norm == norm(poisoned.delta)
    check_trace(
        ORIGIN,
        poisoned.segments,
        count=len(honest.segments),
        claimed=root(ORIGIN, poisoned.segments),
        base=digest_ints(WEIGHTS, BASE),
        final=digest_ints(WEIGHTS, BASE + poisoned.delta),
        norm=poisoned.norm,
        move_max=poisoned.norm,
    )
