"""A validator's aggregation worker: outside consensus and execution, in integers, off the loop.

When a round has its accepted updates, the worker fetches their blobs, computes the aggregate,
stores the new weights and signs an `Aggregate` transaction. Nothing here can stall a view: a
validator that cannot aggregate is merely one attestation short.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from fl import server, weights
from fl.aggregate import aggregate
from fl.body import Aggregate
from fl.rounds import accepted_updates, open_tasks
from fl.spec import parameter_count
from fl.trace import origin
from vm.learning import (
    Round,
    RoundPhase,
    Stored,
    Task,
    Update,
)
from vm.record import Model
from vm.refusal import Refused
from vm.shape import Digest
from vm.state import State

RETRY_MS = 1_000  # between tries for a blob that nobody has handed out yet
TURNS_MAX = 64  # of RETRY_MS between two tries of one round, doubled from 1: about a minute

_JobKey: TypeAlias = tuple[str, int]  # task and number of the round

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """One aggregation: all that it needs from the state."""

    task: Task
    number: int
    base: Model
    accepted: Digest
    seed: Digest  # of the round: buckets are drawn from it
    updates: tuple[tuple[Update, int], ...]  # with their weights
    state: Stored | None  # of the server's optimizer, after the task's newest closed round

    @property
    def key(self) -> _JobKey:
        """The round's."""
        return self.task.id, self.number


@dataclass(slots=True)
class _Pause:
    """Of a round that was refused: turns from one try to the next, and those still to pass."""

    turns: int = 1
    left: int = 0

    def grow(self) -> None:
        """It was refused again."""
        self.left, self.turns = self.turns - 1, min(2 * self.turns, TURNS_MAX)


class Aggregator:
    """Works off rounds in phase aggregate, one after the other."""

    def __init__(
        self,
        *,
        validator: str,
        state: Callable[[], State],
        fetch: Callable[[str, int], Awaitable[bytes]],
        keep: Callable[[bytes], Awaitable[str]],
        submit: Callable[[str, Aggregate], Awaitable[None]],
        votes: Callable[[], bool] = lambda: True,
    ) -> None:
        """`fetch(address, size)` gives a blob from here or another validator; `keep` stores one.

        `submit(kind, body)` returns when the transaction was executed or has expired. `votes` says
        whether this validator has a seat that counts: without one, it aggregates nothing.
        """
        self._validator = validator
        self._state = state
        self._fetch = fetch
        self._keep = keep
        self._submit = submit
        self._votes = votes
        self._news = asyncio.Event()
        self._pauses: dict[_JobKey, _Pause] = {}
        self._impossible: set[_JobKey] = set()

    def wake(self) -> None:
        """A block was executed."""
        self._news.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._news.clear()
            if await self.attempt():
                await self._news.wait()
            else:
                await asyncio.sleep(RETRY_MS / 1_000)

    async def attempt(self) -> bool:
        """Try each round that waits for us and whose turn it is; False if one must be tried again.

        A round whose blobs are missing does not hold up those of other tasks.
        """
        jobs = {job.key: job for job in self._jobs()}
        self._pauses = {key: pause for key, pause in self._pauses.items() if key in jobs}
        self._impossible.intersection_update(jobs)
        for key, job in jobs.items():
            pause = self._pauses.get(key)
            if pause is not None and pause.left:
                pause.left -= 1
            elif key not in self._impossible:
                await self._try(job)
        return not self._pauses

    def _jobs(self) -> Iterator[Job]:
        state = self._state()
        if not self._votes():
            return
        for id in open_tasks(state).tasks:
            task = state.require(Task, id)
            rnd = state.require(Round, id, task.round)
            if rnd.phase is not RoundPhase.AGGREGATE:
                continue
            if any(item.validator == self._validator for item in rnd.attestations):
                continue
            assert rnd.accepted is not None, "a round in phase aggregate has an accepted set"
            assert rnd.seed is not None, "and, as submissions have ended, a seed"
            base = state.require(Model, task.terms.model, rnd.base_version)
            updates = accepted_updates(state, task, rnd)
            yield Job(task, rnd.number, base, rnd.accepted, rnd.seed, updates, task.server)

    async def _try(self, job: Job) -> None:
        try:
            await self._work(job)
        except Refused as refused:
            self._pauses.setdefault(job.key, _Pause()).grow()
            _warn("aggregate.waiting", job, refused)
        else:
            self._pauses.pop(job.key, None)

    async def _work(self, job: Job) -> None:
        base = await self._fetch(job.base.weights, job.base.weights_bytes)
        blobs = [await self._fetch(item.blob, item.blob_bytes) for item, _ in job.updates]
        state = None
        if job.state is not None:
            state = await self._fetch(job.state.address, job.state.size)
        try:
            result = await asyncio.to_thread(combine, job, base, blobs, state)
        except Refused as refused:  # for good: what an address names does not change
            self._impossible.add(job.key)
            _warn("aggregate.impossible", job, refused)
            return
        weights = await self._stored(result.weights)
        after = None if result.state is None else await self._stored(result.state)
        body = Aggregate(
            job.task.id, job.number, job.accepted, weights.address, weights.size, after
        )
        await self._submit("learning.aggregate", body)
        log.info("aggregate.signed", task=job.task.id, round=job.number, result=weights.address)

    async def _stored(self, content: bytes) -> Stored:
        return Stored(await self._keep(content), len(content))


def _warn(event: str, job: Job, refused: Refused) -> None:
    log.warning(
        event, task=job.task.id, round=job.number, code=refused.code, reason=refused.message
    )


@dataclass(frozen=True, slots=True)
class Result:
    """The new weights' file, and that of the server optimizer's state if it keeps one."""

    weights: bytes
    state: bytes | None


def combine(job: Job, base: bytes, blobs: list[bytes], state: bytes | None) -> Result:
    """What the accepted updates come to; equal on every machine.

    `state` is the file of the server optimizer's state, None before the task's first closed round.
    """
    spec, bits, rule = job.base.spec, job.base.grid_bits, job.task.terms.aggregation
    deltas = [
        weights.unpack_delta(spec, bits, origin(update), update.segments, blob)
        for (update, _), blob in zip(job.updates, blobs, strict=True)
    ]
    delta = aggregate(
        rule,
        deltas,
        [weight for _, weight in job.updates],
        [update.organisation for update, _ in job.updates],
        job.seed,
    )
    if state is None:
        before = server.start(rule.server, bits, parameter_count(spec))
    else:
        before = server.unpack_state(spec, bits, rule.server, state)
    moved, after = server.step(rule.server, bits, delta, before)
    return Result(
        weights.apply(spec, bits, base, moved),
        server.pack_state(spec, bits, rule.server, after) if after.arrays else None,
    )
