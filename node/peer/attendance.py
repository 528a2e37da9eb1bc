"""Attending to tasks: work whenever something may have changed, one task apart from the next."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from node.client.watch import Watch
from vm.refusal import Refused

RETRY_S = 1.0  # after a refusal that time may cure: a blob not there yet, a validator away

log = structlog.get_logger()


async def attend(
    work: Callable[[str], Awaitable[None]], tasks: tuple[str, ...], watch: Watch
) -> None:
    """Call `work` for each task whenever something may have changed, until cancelled.

    What others chose for one task may break our work on it, but not on the next one.
    """
    while True:
        seen = watch.count
        for task in tasks:
            try:
                await work(task)
            except Refused as refused:
                log.warning("peer.refused", task=task, code=refused.code, reason=refused.message)
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - one task's, and logged
                # The type alone: a message may quote a patient's cell.
                log.error("peer.broken", task=task, type=type(error).__name__)
                await asyncio.sleep(RETRY_S)
        await watch.wait(seen)
