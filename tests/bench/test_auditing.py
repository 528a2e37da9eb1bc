"""The bench of an auditor's work, on a lineage that takes a second to build."""

from pathlib import Path

from tests.bench.auditing import PROOFS, document, measure, table
from tests.bench.story import REJECTED_EVERY, long_story
from tests.node.network import TASK
from vm.learning import Round, UpdateStatus


def test_every_figure_is_of_one_lineage(tmp_path: Path) -> None:
    """Sizes are counted; times are whatever they are."""
    found = measure(tmp_path, hospitals=4, rounds=2)

    assert PROOFS > 2 * 4
    assert (found.rounds, found.hospitals) == (2, 4)
    assert found.records > 2 * 4 * 4
    assert found.report_s == found.fetch_s + found.tell_s + found.make_s
    assert document(found)["case_bytes"] == found.case_bytes > 10_000
    assert "2 rounds of 4 hospitals" in table(found)


def test_a_long_story_has_rounds_that_closed_with_an_update_rejected(tmp_path: Path) -> None:
    """As far as asked for, with something to tell in it."""
    with long_story(tmp_path, hospitals=4, rounds=REJECTED_EVERY) as network:
        found = network.chain.state().require(Round, TASK, REJECTED_EVERY)

    assert found.model_version == REJECTED_EVERY
    statuses = [outcome.status for outcome in found.outcomes]
    assert statuses == [UpdateStatus.ACCEPTED] * 3 + [UpdateStatus.REJECTED]
