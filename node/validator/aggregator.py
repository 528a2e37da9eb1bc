"""A validator's aggregation worker: outside consensus and execution, in integers, off the loop.

When a round has its accepted updates, the worker fetches their blobs, computes the aggregate,
stores the new weights and signs an `Aggregate` transaction. Nothing here can stall a view: a
validator that cannot aggregate is merely one attestation short.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import structlog

from fl import weights
from fl.aggregate import aggregate
from fl.body import Aggregate
from fl.rounds import accepted_updates, open_tasks
from fl.trace import origin
from vm.learning import Round, RoundPhase, Task, Update
from vm.record import Model
from vm.refusal import Refused
from vm.shape import Digest
from vm.state import State

RETRY_MS = 1_000  # between tries for a blob that nobody has handed out yet

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """One aggregation: all that it needs from the state."""

    task: Task
    number: int
    base: Model
    accepted: Digest
    updates: tuple[tuple[Update, int], ...]  # with their weights


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
    ) -> None:
        """`fetch(address, size)` gives a blob from here or another validator; `keep` stores one.

        `submit(kind, body)` returns when the transaction was executed or has expired.
        """
        self._validator = validator
        self._state = state
        self._fetch = fetch
        self._keep = keep
        self._submit = submit
        self._news = asyncio.Event()

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
        """Try each round that waits for us; False if one of them must be tried again.

        A round whose blobs are missing does not hold up those of other tasks.
        """
        done = True
        for job in list(self._jobs()):
            try:
                await self._work(job)
            except Refused as refused:
                done = False
                log.warning(
                    "aggregate.waiting",
                    task=job.task.id,
                    round=job.number,
                    code=refused.code,
                    reason=refused.message,
                )
        return done

    def _jobs(self) -> Iterator[Job]:
        state = self._state()
        for id in open_tasks(state).tasks:
            task = state.require(Task, id)
            rnd = state.require(Round, id, task.round)
            if rnd.phase is not RoundPhase.AGGREGATE:
                continue
            if any(item.validator == self._validator for item in rnd.attestations):
                continue
            assert rnd.accepted is not None, "a round in phase aggregate has an accepted set"
            base = state.require(Model, task.terms.model, rnd.base_version)
            yield Job(task, rnd.number, base, rnd.accepted, accepted_updates(state, task, rnd))

    async def _work(self, job: Job) -> None:
        base = await self._fetch(job.base.weights, job.base.weights_bytes)
        blobs = [await self._fetch(item.blob, item.blob_bytes) for item, _ in job.updates]
        result = await asyncio.to_thread(combine, job, base, blobs)
        address = await self._keep(result)
        body = Aggregate(job.task.id, job.number, job.accepted, address, len(result))
        await self._submit("learning.aggregate", body)
        log.info("aggregate.signed", task=job.task.id, round=job.number, result=address)


def combine(job: Job, base: bytes, blobs: list[bytes]) -> bytes:
    """The weights file that the accepted updates come to; equal on every machine."""
    spec, bits = job.base.spec, job.base.grid_bits
    deltas = [
        weights.unpack_update(spec, bits, origin(update), update.segments, blob)[0]
        for (update, _), blob in zip(job.updates, blobs, strict=True)
    ]
    delta = aggregate(
        job.task.terms.aggregation,
        deltas,
        [weight for _, weight in job.updates],
        [update.organisation for update, _ in job.updates],
    )
    return weights.apply(spec, bits, base, delta)
