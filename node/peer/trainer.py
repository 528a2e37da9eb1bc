"""A hospital's trainer: this site's update in every round of the tasks that it takes part in.

It connects out only. What leaves are updates and proofs of learning; rows stay.
"""

import asyncio
from collections.abc import Callable

import structlog

from fl.body import ProofOfLearning
from fl.dataset import part_digest
from fl.fixed import Ints
from fl.model import Rows
from fl.trace import Origin, root
from fl.train import Job, OnStep, Result, train
from fl.weights import pack_update, unpack_weights
from node.client.submitter import Submitter
from node.peer.approval import Approvals
from node.peer.rowkeeper import Rowkeeper
from node.peer.stage import find_stage
from node.wire.exchange import Exchange
from vm.learning import RoundPhase, Update
from vm.refusal import Refused
from vm.terms import Evidence

TRAINING_ROWS_MIN = 20  # an update of fewer rows tells of single ones, whatever the task's terms

Train = Callable[[Job, Ints, Rows, OnStep | None], Result]

log = structlog.get_logger()


class Trainer:
    """Submits this hospital's update in every round."""

    def __init__(
        self,
        submitter: Submitter,
        exchange: Exchange,
        rowkeeper: Rowkeeper,
        approvals: Approvals,
        *,
        opening: bool,
        train: Train = train,
        on_step: OnStep | None = None,
    ) -> None:
        """`opening` is whether the site lets snapshots of training be opened to verifiers."""
        self._submitter = submitter
        self._client = submitter.client
        self._exchange = exchange
        self._rowkeeper = rowkeeper
        self._approvals = approvals
        self._opening = opening
        self._train = train
        self._on_step = on_step

    async def work(self, task_id: str) -> None:
        """Train and submit if the task's newest round waits for our update."""
        stage = await find_stage(self._client, task_id, RoundPhase.SUBMIT)
        if stage is None:
            return
        self._approvals.require(stage.task)
        site = next(
            (s for s in stage.task.terms.sites if s.trainer == self._submitter.member), None
        )
        if site is None:
            raise Refused(
                "peer.not_a_site",
                f"expected {self._submitter.member} among the sites of task {task_id}, "
                "found others: take the task out of [training] tasks",
            )
        if stage.task.terms.evidence is Evidence.REPLAYED and not self._opening:
            raise Refused(
                "peer.opening",
                f"expected a task that asks for no opened snapshots, found {task_id}, which does: "
                "take it out of [training] tasks, or set opening if this site permits it",
            )
        if await self._client.record(Update, task_id, stage.round.number, site.organisation):
            return
        rows, parts = await self._rowkeeper.rows(self._client, stage, site)
        if len(parts.train) < TRAINING_ROWS_MIN:
            raise Refused(
                "peer.too_few_rows",
                f"expected at least {TRAINING_ROWS_MIN} rows to train on, found {len(parts.train)}",
            )
        base = await self._exchange.fetch(stage.base.weights, stage.base.weights_bytes)
        spec, bits = stage.base.spec, stage.base.grid_bits
        job = Job(spec, bits, stage.task.terms.training, stage.round.beacon, site.dataset)
        part = rows.take(parts.train)
        result = await asyncio.to_thread(
            self._train,
            job,
            unpack_weights(spec, bits, base),
            part,
            self._on_step,
        )
        log.info(
            "round.trained",
            task=task_id,
            round=stage.round.number,
            first_loss=round(result.losses[0], 4),
            last_loss=round(result.losses[-1], 4),
        )
        origin = Origin(task_id, stage.round.number, site.trainer, site.dataset)
        blob = pack_update(spec, bits, origin, result.delta, result.segments)
        address = await self._exchange.bring(blob)
        await self._submitter.submit(
            "learning.proof",
            ProofOfLearning(
                task=task_id,
                round=stage.round.number,
                dataset=site.dataset,
                base_version=stage.round.base_version,
                blob=address,
                blob_bytes=len(blob),
                norm=result.norm,
                trace=root(origin, result.segments),
                segments=len(result.segments),
                data=part_digest(part.leaves),
                evidence=stage.task.terms.evidence,
            ),
        )
        log.info("round.submitted", task=task_id, round=stage.round.number, update=address)
