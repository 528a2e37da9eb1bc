"""Where a task stands, as a training peer sees it: its newest round and what that starts from."""

from dataclasses import dataclass

from node.client.board import Board
from vm.learning import (
    Round,
    RoundPhase,
    Task,
    TaskPhase,
)
from vm.record import Model


@dataclass(frozen=True, slots=True)
class Stage:
    """A task, its newest round, and the model version that the round starts from."""

    task: Task
    round: Round
    base: Model


async def find_stage(board: Board, task_id: str, *phases: RoundPhase) -> Stage | None:
    """The task's newest round in one of `phases`; None otherwise, or before the task opens."""
    task = await board.record(Task, task_id)
    if task is None or task.phase is not TaskPhase.OPEN:
        return None
    rnd = await board.record(Round, task_id, task.round)
    if rnd is None or rnd.phase not in phases:
        return None
    base = await board.record(Model, task.terms.model, rnd.base_version)
    return None if base is None else Stage(task, rnd, base)
