"""How many scores on a site's rows a verifier promises, also through restarts."""

from dataclasses import replace
from pathlib import Path

import pytest

from fl.body import Judged
from fl.judging import scores_in
from node.peer.budget import FOLDER, SPENT, Budget
from vm.learning import Decision
from vm.refusal import Refused

PASSED = Judged(
    "h-2", bytes(32), Decision.PASS, "verdict.pass", "log-loss 0.69 nat", None, 6_900, 100, None
)
FAILED = replace(PASSED, decision=Decision.FAIL, score_bp=None, contribution_bp=None, reason="no")


def test_what_has_room_is_published_as_it_is(tmp_path: Path) -> None:
    """Scores and contributions, to the last one that the budget allows."""
    found = Budget(tmp_path).spend("opt", 6, 10, (PASSED, FAILED, PASSED))

    assert found == (PASSED, FAILED, PASSED)


def test_what_was_promised_before_a_restart_is_spent(tmp_path: Path) -> None:
    """A seal that was not revealed yet binds scores that the chain does not know of."""
    Budget(tmp_path).spend("opt", 0, 4, (PASSED,))
    Budget(tmp_path).spend("opt", 0, 4, (PASSED,))

    assert scores_in(Budget(tmp_path).spend("opt", 0, 4, (PASSED,))) == 0
    assert scores_in(Budget(tmp_path).spend("other", 0, 4, (PASSED,))) == 2


def test_a_store_that_was_lost_goes_on_from_the_chains_count(tmp_path: Path) -> None:
    """What was published cannot be forgotten."""
    assert scores_in(Budget(tmp_path).spend("opt", 9, 10, (PASSED, PASSED))) == 0


def test_contributions_go_before_scores(tmp_path: Path) -> None:
    """Scores tell the round how good its models are; contributions only share out credits."""
    found = Budget(tmp_path).spend("opt", 8, 10, (PASSED, PASSED))

    assert [item.score_bp for item in found] == [6_900, 6_900]
    assert [item.contribution_bp for item in found] == [None, None]


def test_with_nothing_left_a_pass_says_no_number(tmp_path: Path) -> None:
    """Its reason told the score too; a fail never told one."""
    found = Budget(tmp_path).spend("opt", 10, 10, (PASSED, FAILED))

    assert found[0] == replace(PASSED, score_bp=None, contribution_bp=None, reason=SPENT)
    assert found[1] == FAILED


def test_a_damaged_count_is_refused_and_not_taken_for_none(tmp_path: Path) -> None:
    """Else whoever can damage a file could have rows asked about for ever."""
    Budget(tmp_path).spend("opt", 0, 10, (PASSED,))
    (tmp_path / FOLDER / "opt").write_text("two")

    with pytest.raises(Refused) as refused:
        Budget(tmp_path).spend("opt", 0, 10, (PASSED,))

    assert refused.value.code == "peer.scores_file"
