"""Traces go when no auditor asks for them any more, by the chain's time and its rounds."""

import asyncio
from typing import TypeAlias, cast

import structlog

from node.client.client import Client
from node.peer.traces import Head, TraceStore
from vm.learning import Round, RoundPhase, Task, Update
from vm.refusal import Refused

EXPIRE_EVERY_S = 3_600.0  # retentions are days to years
ENDED = (RoundPhase.CLOSED, RoundPhase.FAILED)

_Key: TypeAlias = tuple[str, int]  # task and number of a round

log = structlog.get_logger()


async def run(traces: TraceStore, client: Client) -> None:
    """Delete what no auditor asks for any more, again and again, until cancelled."""
    submitted = set[_Key]()  # no more than traces in the store
    while True:
        try:
            header = await client.header()
            expired = await expire(traces, client, header.time_ms, submitted)
            if expired:
                log.info("traces.expired", traces=expired)
        except Refused as refused:  # nobody tells the time: later
            log.debug("traces.kept", code=refused.code)
        await asyncio.sleep(EXPIRE_EVERY_S)


async def expire(traces: TraceStore, client: Client, now_ms: int, submitted: set[_Key]) -> int:
    """Delete traces that no auditor asks for at `now_ms` of the chain's time; how many.

    Those are traces past their retention, and of rounds that ended without an update of theirs.
    `submitted` are rounds that are known to have one: they are asked for once, then in time.
    """
    expired = 0
    for head in await asyncio.to_thread(traces.heads):
        key = (head.task, head.round)
        if key in submitted and now_ms <= head.until_ms:
            continue
        if await _may_go(client, head, now_ms, submitted):
            await asyncio.to_thread(traces.drop, *key)
            submitted.discard(key)
            expired += 1
    return expired


async def _may_go(client: Client, head: Head, now_ms: int, submitted: set[_Key]) -> bool:
    """Whether a trace may go.

    It names a time from its task's terms, and a chain that stood still may have ended the round
    later than that: the round itself has the last word, as for `audit.expired`.
    """
    key = (head.task, head.round)
    task = await client.record(Task, head.task)
    sites = () if task is None else task.terms.sites
    site = next((site for site in sites if site.trainer == head.trainer), None)
    if task is None or site is None:
        return head.until_ms < now_ms
    asked = ((Round, key), (Update, (*key, site.organisation)))
    found, _ = await client.together(asked)  # under one header
    rnd, update = cast("tuple[Round | None, Update | None]", found)
    if rnd is None:
        return head.until_ms < now_ms
    if rnd.phase not in ENDED:
        return False
    if update is None:
        return True
    submitted.add(key)
    return rnd.deadline_ms + task.terms.trace_retention_ms < now_ms
