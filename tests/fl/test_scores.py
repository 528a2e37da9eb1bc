"""How many scores judgements publish, and what goes where their budget ends."""

from dataclasses import replace

from fl.body import Judged
from fl.scores import SPENT, scores_in, within
from vm.learning import Decision

PASSED = Judged(
    "h-2", bytes(32), Decision.PASS, "verdict.pass", "log-loss 0.69 nat", None, 6_900, 100, None
)
FAILED = replace(PASSED, decision=Decision.FAIL, score_bp=None, contribution_bp=None, reason="no")


def test_scores_and_contributions_count_alike() -> None:
    """Either tells of the rows; a fail tells no number."""
    assert scores_in((PASSED, FAILED, replace(PASSED, contribution_bp=None))) == 3


def test_what_has_room_is_published_as_it_is() -> None:
    """To the last one that the budget allows."""
    assert within((PASSED, FAILED, PASSED), 4) == (PASSED, FAILED, PASSED)


def test_contributions_go_before_scores() -> None:
    """Scores tell the round how good its models are; contributions only share out credits."""
    found = within((PASSED, PASSED), 3)

    assert [item.score_bp for item in found] == [6_900, 6_900]
    assert [item.contribution_bp for item in found] == [None, None]


def test_with_too_little_left_a_pass_says_no_number() -> None:
    """Its reason told the score too; a fail never told one."""
    found = within((PASSED, FAILED, PASSED), 1)

    mute = replace(PASSED, score_bp=None, contribution_bp=None, reason=SPENT)
    assert found == (mute, FAILED, mute)
    assert scores_in(found) == 0
