"""Traces go when no auditor may ask for them any more, by the chain's time and its rounds."""

import asyncio

import structlog

from node.client.client import Client
from node.peer.traces import TraceStore
from vm.learning import Round, RoundPhase, Task
from vm.refusal import Refused

EXPIRE_EVERY_S = 3_600.0  # retentions are days to years
ENDED = (RoundPhase.CLOSED, RoundPhase.FAILED)

log = structlog.get_logger()


async def run(traces: TraceStore, client: Client) -> None:
    """Delete what is past its retention, again and again, until cancelled."""
    while True:
        try:
            header = await client.header()
            expired = await expire(traces, client, header.time_ms)
            if expired:
                log.info("traces.expired", traces=expired)
        except Refused as refused:  # nobody tells the time: later
            log.debug("traces.kept", code=refused.code)
        await asyncio.sleep(EXPIRE_EVERY_S)


async def expire(traces: TraceStore, client: Client, now_ms: int) -> int:
    """Delete traces whose retention ended before `now_ms` of the chain's time; how many.

    A trace names a time from its task's terms, and a chain that stood still may have ended the
    round later than that: the round itself has the last word, as for `audit.expired`.
    """
    expired = 0
    for task_id, number in await asyncio.to_thread(traces.due, now_ms):
        task = await client.record(Task, task_id)
        rnd = await client.record(Round, task_id, number)
        if task is not None and rnd is not None:
            until_ms = rnd.deadline_ms + task.terms.trace_retention_ms
            if rnd.phase not in ENDED or now_ms <= until_ms:
                continue
        await asyncio.to_thread(traces.drop, task_id, number)
        expired += 1
    return expired
