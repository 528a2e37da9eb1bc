"""One round's training at a hospital: what there is to train, and the thread that trains it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Protocol

import structlog

from fl.dataset import part_digest
from fl.fixed import Ints
from fl.model import Rows
from fl.trace import segment_count, state_count
from fl.train import Job, Keep, OnStep, Result, Snapshot, train
from fl.weights import digest_ints
from node.peer.stage import Stage
from node.peer.traces import Head, TraceStore
from vm.digest import TERMS, WEIGHTS, digest
from vm.learning import OwnLoop, Task
from vm.shape import pack
from vm.terms import Evidence, Site

TRAININGS_MAX = 4  # at a time: more would only share the same cores and fill the memory

OnStage = Callable[[Stage], OnStep]  # what to tell of the steps of a round, if anything

log = structlog.get_logger()


class Train(Protocol):
    """`fl.train.train`, or what a test puts in its place."""

    def __call__(
        self,
        job: Job,
        base: Ints,
        rows: Rows,
        on_step: OnStep | None = None,
        *,
        start: Snapshot | None = None,
        keep: Keep | None = None,
    ) -> Result:
        """The update of one round."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a site has to train in a round: from `base`, [parameters], on its training rows."""

    stage: Stage
    site: Site
    job: Job
    base: Ints
    rows: Rows


@dataclass(frozen=True, slots=True)
class Trained:
    """A round's training, what backs it, and by what it was done if not by the task's recipe."""

    result: Result
    evidence: Evidence
    loop: OwnLoop | None


class Training(Protocol):
    """Who trains: this process (`Local`), or the site's own loop (`node.peer.loop`)."""

    async def train(self, assignment: Assignment) -> Trained:
        """Train, and keep a trace of it on disk, whole once this returns."""


def head_of(assignment: Assignment) -> Head:
    """Whose training it is, for its trace."""
    stage, job = assignment.stage, assignment.job
    terms = stage.task.terms
    recipe = digest(TERMS, pack(terms) + pack(stage.base.spec) + bytes([stage.base.grid_bits]))
    return Head(
        task=stage.task.id,
        round=stage.round.number,
        trainer=assignment.site.trainer,
        dataset=assignment.site.dataset,
        beacon=job.beacon,
        base=digest_ints(WEIGHTS, assignment.base),
        data=part_digest(assignment.rows.leaves),
        recipe=recipe,
        snapshot_steps=terms.training.snapshot_steps,
        segments=segment_count(terms.training),
        weights=len(assignment.base),
        state=state_count(terms.training, len(assignment.base)),
        script=None,
        environment=None,
        until_ms=kept_until_ms(stage.task, stage.round.opened_ms),
        every=1,
    )


def kept_until_ms(task: Task, opened_ms: int) -> int:
    """Until when an auditor may ask for a round's trace: its retention after the last deadline."""
    terms = task.terms
    longest_ms = terms.submit_ms + terms.verdict_ms + 2 * terms.reveal_ms + terms.aggregate_ms
    return opened_ms + longest_ms + terms.trace_retention_ms


class Stopped(Exception):  # noqa: N818 - no error: the peer is told to stop, or the round went on
    """Ends a training thread between two steps."""


class Local:
    """Trains by the task's recipe in a thread of this process."""

    def __init__(
        self, traces: TraceStore, train: Train = train, on_stage: OnStage | None = None
    ) -> None:
        self._traces = traces
        self._train = train
        self._on_stage = on_stage
        # Of its own, so that trainings take no thread from whoever judges or reads the disk.
        self._pool = ThreadPoolExecutor(TRAININGS_MAX, thread_name_prefix="training")

    async def train(self, assignment: Assignment) -> Trained:
        """The update of the assignment, from the newest snapshot that is kept of it.

        Cancelled, it ends within a step and can go on later.
        """
        stop, context = threading.Event(), copy_context()
        work = self._pool.submit(context.run, self._run, assignment, stop.is_set)
        thread = asyncio.wrap_future(work)
        try:
            result = await asyncio.shield(thread)
        finally:
            stop.set()
            work.cancel()  # if it has not begun; else it ends at its next step
            await asyncio.gather(thread, return_exceptions=True)
        return Trained(result, assignment.stage.task.terms.evidence, None)

    def _run(self, assignment: Assignment, stopped: Callable[[], bool]) -> Result:
        trace = self._traces.begin(head_of(assignment))
        start = trace.newest()
        if start is not None:
            log.info(
                "round.resumed",
                task=trace.head.task,
                round=trace.head.round,
                segment=len(start.segments),
                segments=trace.head.segments,
            )
        show = None if self._on_stage is None else self._on_stage(assignment.stage)

        def on_step(step: int, steps: int, loss: float) -> None:
            if stopped():
                raise Stopped
            if show is not None:
                show(step, steps, loss)

        result = self._train(
            assignment.job,
            assignment.base,
            assignment.rows,
            on_step,
            start=start,
            keep=trace.keep,
        )
        trace.sync()
        return result
