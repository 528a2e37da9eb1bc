"""Where a task stands."""

import asyncio
from pathlib import Path

from node.peer.stage import find_stage
from tests.fl.dialogue import MODEL, TASK
from tests.node.peer.looks import opened
from vm.learning import RoundPhase


def test_a_stage_is_a_task_in_the_phase_that_was_asked_for(tmp_path: Path) -> None:
    """With the round and the model version that it starts from."""
    town = opened(tmp_path)
    board = town.board()

    found = asyncio.run(find_stage(board, TASK, RoundPhase.SUBMIT))

    assert found is not None
    assert (found.task.id, found.round.number, found.base.id) == (TASK, 1, MODEL)
    assert asyncio.run(find_stage(board, TASK, RoundPhase.VERDICT)) is None
    assert asyncio.run(find_stage(board, "another", RoundPhase.SUBMIT)) is None
