"""Attending to tasks: work whenever something may have changed, one task apart from the next."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from node.client.board import Board
from vm.learning import OpenTasks, SiteApproval, Task, TaskPhase
from vm.refusal import Refused

FIND_AGAIN_S = 30.0  # a task that was not there before waits for a person's approval anyway
RETRY_S = 1.0  # after a refusal that time may cure: a blob not there yet, a validator away

Work = Callable[[str], Awaitable[None]]
Find = Callable[[], Awaitable[Iterable[str]]]

log = structlog.get_logger()


async def attend_all(
    works: Sequence[Work], listed: Iterable[str], find: Find, board: Board
) -> None:
    """Do all `works` for the `listed` tasks and each that `find` names, now or later, for ever.

    Each work on each task runs by itself: what one waits for, or what others chose for it, holds
    up no other.
    """
    known: set[str] = set()
    async with asyncio.TaskGroup() as group:

        def begin(tasks: Iterable[str]) -> None:
            for task in sorted(set(tasks) - known):
                known.add(task)
                for work in works:
                    group.create_task(attend(work, task, board))

        begin(listed)  # whatever a node answers
        while True:
            try:
                begin(await find())
            except Refused as refused:
                log.warning("peer.refused", code=refused.code, reason=refused.message)
            await asyncio.sleep(FIND_AGAIN_S)


async def attend(work: Work, task: str, board: Board) -> None:
    """Call `work` whenever something may have changed, to the task's end."""
    told: str | None = None
    while True:
        seen, over, failed = board.count, False, None
        try:
            over = await is_over(board, task)
            await work(task)
        except Refused as refused:
            failed = str(refused)
            if failed != told:  # said once, not each time that it is tried again
                log.warning("peer.refused", task=task, code=refused.code, reason=refused.message)
        except Exception as error:  # noqa: BLE001 - one task's, and logged
            # The type alone: a message may quote a patient's cell.
            failed = type(error).__name__
            log.error("peer.broken", task=task, type=failed)
        told = failed
        if failed is not None:
            await asyncio.sleep(RETRY_S)
        elif over:
            return
        await board.wait(seen)


async def is_over(board: Board, task: str) -> bool:
    """Whether no round of the task will follow: its work is done once more, for the last one."""
    found = await board.record(Task, task)
    return found is not None and found.phase is not TaskPhase.OPEN


async def end_of(board: Board, trainer: str, task: str) -> Refused:
    """Why no further round of the task comes for this trainer, once it is so on the chain."""
    while True:
        seen = board.count
        try:
            if (found := await _end(board, trainer, task)) is not None:
                return found
        except Refused as refused:  # nobody can say: wait on
            log.debug("peer.refused", task=task, code=refused.code)
        await board.wait(seen)


async def _end(board: Board, trainer: str, id: str) -> Refused | None:
    task = await board.record(Task, id)
    if task is None:
        return None
    if task.phase is not TaskPhase.OPEN:
        return Refused("loop.ended", f"expected task {id} open, found it {task.phase.value}")
    for site in task.terms.sites:
        if site.trainer == trainer:
            approval = await board.record(SiteApproval, id, site.organisation)
            if approval is not None and not approval.stands:
                return Refused(
                    "loop.withdrawn",
                    f"expected this site to stand by task {id}, found it withdrawn",
                )
    return None


async def tasks_of(board: Board, trainer: str) -> list[Task]:
    """The open tasks that name this trainer among their sites."""
    found = await board.record(OpenTasks)
    ids = () if found is None else found.tasks
    tasks = await asyncio.gather(*(board.record(Task, id) for id in ids))
    return [
        task
        for task in tasks
        if task is not None and any(site.trainer == trainer for site in task.terms.sites)
    ]
