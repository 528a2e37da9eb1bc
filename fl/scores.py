"""Scores in judgements: how many they publish, and what goes first where their budget ends."""

from collections.abc import Sequence
from dataclasses import replace

from fl.body import Judged

SPENT = "passed; the budget of scores on the verifier's rows is spent"


def scores_in(judgements: Sequence[Judged]) -> int:
    """How many scores the judgements publish, contributions included."""
    return sum(
        (item.score_bp is not None) + (item.contribution_bp is not None) for item in judgements
    )


def within(judgements: Sequence[Judged], left: int) -> tuple[Judged, ...]:
    """The judgements with at most `left` scores: first contributions go, then all scores.

    The reason of a pass says the score too, so that it goes with it.
    """
    for offered in (tuple(judgements), _without_contributions(judgements)):
        if scores_in(offered) <= left:
            return offered
    return tuple(
        item
        if item.score_bp is None
        else replace(item, score_bp=None, contribution_bp=None, reason=SPENT)
        for item in judgements
    )


def _without_contributions(judgements: Sequence[Judged]) -> tuple[Judged, ...]:
    return tuple(replace(item, contribution_bp=None) for item in judgements)
