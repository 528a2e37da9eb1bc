"""How many scores a seal reserves, and what goes where their budget ends."""

from dataclasses import replace

import pytest

from fl.body import Judged
from fl.scores import SPENT, reservable, scores_in, within
from tests.fl.dialogue import TERMS
from vm.learning import Decision
from vm.terms import Valuation

PASSED = Judged(
    organisation="h-2",
    update=bytes(32),
    decision=Decision.PASS,
    code="verdict.pass",
    reason="log-loss 0.69 nat",
    segment=None,
    score_bp=6_900,
    contribution_bp=100,
    near=None,
    blind=bytes(32),
)
FAILED = replace(PASSED, decision=Decision.FAIL, score_bp=None, contribution_bp=None, reason="no")


@pytest.mark.parametrize(
    ("valuation", "updates", "choices"),
    [
        (Valuation.NONE, 3, (0, 3)),
        (Valuation.SHAPLEY, 3, (0, 3, 6)),
        (Valuation.SHAPLEY, 0, (0,)),
    ],
)
def test_what_is_reserved_follows_from_what_everybody_knows(
    valuation: Valuation, updates: int, choices: tuple[int, ...]
) -> None:
    """The terms and the updates, and nothing that was found of them."""
    assert reservable(replace(TERMS, contribution=valuation), updates) == choices


def test_scores_and_contributions_count_alike() -> None:
    """Either tells of the rows; a fail tells no number."""
    assert scores_in((PASSED, FAILED, replace(PASSED, contribution_bp=None))) == 3


def test_with_two_for_each_all_is_published() -> None:
    """Scores and contributions."""
    assert within((PASSED, FAILED, PASSED), 6) == (PASSED, FAILED, PASSED)


def test_contributions_go_before_scores() -> None:
    """Scores tell the round how good its models are; contributions only share out credits."""
    found = within((PASSED, PASSED), 2)

    assert [item.score_bp for item in found] == [6_900, 6_900]
    assert [item.contribution_bp for item in found] == [None, None]


def test_with_nothing_reserved_a_pass_says_no_number() -> None:
    """Its reason told the score too; a fail never told one."""
    found = within((PASSED, FAILED, PASSED), 0)

    mute = replace(PASSED, score_bp=None, contribution_bp=None, reason=SPENT)
    assert found == (mute, FAILED, mute)
    assert scores_in(found) == 0
