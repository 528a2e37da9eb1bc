"""Scores in judgements: how many a seal reserves, and what goes first where their budget ends."""

from collections.abc import Sequence
from dataclasses import replace

from fl.body import Judged
from vm.terms import Terms, Valuation

SPENT = "passed; the budget of scores on the verifier's rows is spent"


def reservable(terms: Terms, updates: int) -> tuple[int, ...]:
    """What a seal on so many updates may reserve, rising: nothing of it follows from judgements.

    A seal that named the scores it publishes would tell, before all have sealed, how many pass.
    """
    numbers = 1 if terms.contribution is Valuation.NONE else 2
    return tuple(range(0, numbers * updates + 1, updates)) if updates else (0,)


def scores_in(judgements: Sequence[Judged]) -> int:
    """How many scores the judgements publish, contributions included."""
    return sum(
        (item.score_bp is not None) + (item.contribution_bp is not None) for item in judgements
    )


def within(judgements: Sequence[Judged], reserved: int) -> tuple[Judged, ...]:
    """The judgements as they fit what was reserved: all of them, without contributions, or mute.

    The reason of a pass says the score too, so that it goes with it.
    """
    plain = tuple(replace(item, contribution_bp=None) for item in judgements)
    if reserved >= 2 * len(plain):
        return tuple(judgements)
    if reserved >= len(plain):
        return plain
    return tuple(
        item if item.score_bp is None else replace(item, score_bp=None, reason=SPENT)
        for item in plain
    )
