"""The chain's rounds as plans for running them again."""

from dataclasses import replace
from typing import Any, cast

from node.demo.splits import Chain, plans_of
from tests.node.demo.test_summary import ROUND
from vm.learning import RoundPhase


def test_a_replay_accepts_what_the_chain_accepted_and_skips_what_failed() -> None:
    """A verdict that never came is not made up, and a failed round made no version."""
    failed = replace(ROUND, number=4, phase=RoundPhase.FAILED, model_version=None)
    nothing = cast(Any, None)
    chain = Chain(nothing, nothing, b"", (failed, ROUND), "", {5: "h-2"})

    (plan,) = plans_of(chain)

    assert plan.beacon == ROUND.beacon
    assert plan.accepted == frozenset({"h-1"})
    assert plan.absent == {"h-3"}
    assert plan.poisoned == {"h-2"}
