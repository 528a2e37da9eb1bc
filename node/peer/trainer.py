"""A hospital's trainer: this site's update in every round of the tasks that it takes part in.

It connects out only. What leaves are updates and proofs of learning; rows stay.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from fl.approval import terms_digest
from fl.body import ApproveTask, ProofOfLearning, WithdrawApproval
from fl.dataset import part_digest
from fl.trace import Origin, root
from fl.train import Job
from fl.weights import pack_update, unpack_weights
from node.client.board import Board
from node.client.submitter import Submitter
from node.peer.approval import Approvals, require_standing
from node.peer.bases import Bases
from node.peer.rowkeeper import Rowkeeper
from node.peer.stage import Stage, find_stage
from node.peer.traces import TraceStore
from node.peer.training import Assignment, Trained, Training
from node.wire.exchange import Exchange
from vm.learning import Decline, Round, RoundPhase, SiteApproval, Task, Update
from vm.refusal import Refused
from vm.terms import Evidence, Site

TRAINING_ROWS_MIN = 20  # an update of fewer rows tells of single ones, whatever the task's terms
LOOK_S = 2.0  # while training, at whether the round still waits for us

log = structlog.get_logger()


class Trainer:
    """Submits this hospital's update in every round."""

    def __init__(
        self,
        board: Board,
        submitter: Submitter,
        exchange: Exchange,
        bases: Bases,
        rowkeeper: Rowkeeper,
        approvals: Approvals,
        training: Callable[[str], Training],
        traces: TraceStore,
        *,
        opening: bool,
    ) -> None:
        """`training` says who trains a task, by its id.

        `opening` is whether the site lets snapshots of training be opened to verifiers.
        """
        self._board = board
        self._submitter = submitter
        self._exchange = exchange
        self._bases = bases
        self._rowkeeper = rowkeeper
        self._approvals = approvals
        self._training = training
        self._traces = traces
        self._opening = opening

    async def work(self, task_id: str) -> None:
        """Train and submit if the task's newest round waits for our update."""
        stage = await find_stage(self._board, task_id, RoundPhase.SUBMIT)
        if stage is None:
            return
        site = self._site(stage)
        await self._require_part(stage.task, site)
        key = (task_id, stage.round.number, site.organisation)
        if await self._board.record(Update, *key) or await self._board.record(Decline, *key):
            return
        assignment = await self._assign(stage, site)
        await self._approve(stage.task, site)  # once it is sure that there is something to train
        training = self._training(task_id)
        try:
            trained = await self._in_time(stage, site, training.train(assignment))
            await self._submit(assignment, trained)
        except Refused as refused:
            await self._let_go(stage, site, refused)
            raise

    async def _require_part(self, task: Task, site: Site) -> None:
        await require_standing(self._approvals, self._board, task, site.organisation)

    async def _approve(self, task: Task, site: Site) -> None:
        """Say on the chain what the site has said here, once."""
        await self._require_part(task, site)  # again: reading rows took its time
        if await self._board.record(SiteApproval, task.id, site.organisation) is not None:
            return
        body = ApproveTask(task.id, terms_digest(task.terms))
        await self._submitter.submit("task.approve", body)
        log.info("task.approved", task=task.id, terms=body.terms.hex())
        try:
            self._approvals.require(task)
        except Refused:  # withdrawn meanwhile by a person, who found nothing on the chain yet
            await self._submitter.submit("task.withdraw", WithdrawApproval(task.id))
            raise

    def _site(self, stage: Stage) -> Site:
        """Our part in the task, if the task may ask for what it asks."""
        id, terms = stage.task.id, stage.task.terms
        site = next((s for s in terms.sites if s.trainer == self._submitter.member), None)
        if site is None:
            raise Refused(
                "peer.not_a_site",
                f"expected {self._submitter.member} among the sites of task {id}, "
                "found others: take the task out of [training] tasks",
            )
        if terms.evidence is Evidence.REPLAYED and not self._opening:
            raise Refused(
                "peer.opening",
                f"expected a task that asks for no opened snapshots, found {id}, which does: "
                "take it out of [training] tasks, or set opening if this site permits it",
            )
        return site

    async def _assign(self, stage: Stage, site: Site) -> Assignment:
        """What there is to train: rows and base."""
        rows, parts = await self._rowkeeper.rows(self._board, stage, site)
        if len(parts.train) < TRAINING_ROWS_MIN:
            raise Refused(
                "peer.too_few_rows",
                f"expected at least {TRAINING_ROWS_MIN} rows to train on, found {len(parts.train)}",
            )
        spec, bits = stage.base.spec, stage.base.grid_bits
        base = unpack_weights(spec, bits, await self._bases.fetch(stage.base))
        job = Job(spec, bits, stage.task.terms.training, stage.round.beacon, site.dataset)
        return Assignment(stage, site, job, base, rows.take(parts.train))

    async def _in_time(
        self, stage: Stage, site: Site, work: Coroutine[Any, Any, Trained]
    ) -> Trained:
        """What `work` gives; raises `Refused` once the round waits for us no longer.

        `peer.late` if it went on without us, `peer.declined` if somebody here declined it.
        """
        training = asyncio.create_task(work)
        try:
            while True:
                await asyncio.wait([training], timeout=LOOK_S)
                if training.done():
                    return training.result()
                await self._require_awaited(stage, site)
        finally:
            training.cancel()
            await asyncio.gather(training, return_exceptions=True)

    async def _require_awaited(self, stage: Stage, site: Site) -> None:
        try:
            await self._require_part(stage.task, site)
        except Refused as refused:
            if refused.code in ("peer.not_approved", "peer.withdrawn"):
                raise
            return  # nobody can say: go on
        try:
            found = await self._board.record(Round, *stage.round.key)
            declined = await self._board.record(Decline, *stage.round.key, site.organisation)
        except Refused:
            return  # nobody can say: go on
        if declined is not None:
            raise Refused(
                "peer.declined",
                f"expected to train round {declined.round} of {declined.task}, found it declined "
                f"by this site as {declined.code}: no update is sent",
            )
        if found is not None and found.phase is not RoundPhase.SUBMIT:
            trace = await asyncio.to_thread(self._traces.find, *stage.round.key)
            raise _late(found, 0 if trace is None else len(trace.segments()))

    async def _let_go(self, stage: Stage, site: Site, refused: Refused) -> None:
        """Of a training that nobody waits for nothing was submitted that an auditor may ask for.

        Unless a proof of it is on the chain, whose trace stays for its retention.
        """
        try:
            if refused.code in ("round.phase", "update.declined"):  # the chain was faster
                await self._require_awaited(stage, site)
        except Refused as late:
            refused = late
        over = refused.code in ("peer.late", "peer.declined")
        if over and not await self._may_be_sent(stage, site):
            await asyncio.to_thread(self._traces.drop, *stage.round.key)
            raise refused

    async def _may_be_sent(self, stage: Stage, site: Site) -> bool:
        """Whether our update may be in the round: a peer that was killed has not heard of it."""
        try:  # as it is now, and not as it was read before training
            key = (*stage.round.key, site.organisation)
            return await self._board.client.record(Update, *key) is not None
        except Refused:
            return True  # nobody can say

    async def _submit(self, assignment: Assignment, trained: Trained) -> None:
        """Bring the update and submit its proof."""
        stage, site, result = assignment.stage, assignment.site, trained.result
        id, number = stage.task.id, stage.round.number
        log.info(
            "round.trained",
            task=id,
            round=number,
            evidence=trained.evidence.value,
            # A site's own loop keeps its losses to itself.
            first_loss=round(result.losses[0], 4) if result.losses else None,
            last_loss=round(result.losses[-1], 4) if result.losses else None,
        )
        origin = Origin(id, number, site.trainer, site.dataset)
        spec, bits = stage.base.spec, stage.base.grid_bits
        blob = pack_update(spec, bits, origin, result.delta, result.segments)
        await self._require_part(stage.task, site)  # before anything of it leaves
        address = await self._exchange.bring(blob)
        await self._require_part(stage.task, site)  # again: a large one takes its time
        proof = ProofOfLearning(
            task=id,
            round=number,
            dataset=site.dataset,
            base_version=stage.round.base_version,
            blob=address,
            blob_bytes=len(blob),
            norm=result.norm,
            trace=root(origin, result.segments),
            segments=len(result.segments),
            data=part_digest(assignment.rows.leaves),
            evidence=trained.evidence,
            loop=trained.loop,
        )
        await self._submitter.submit("learning.proof", proof)
        log.info("round.submitted", task=id, round=number, update=address)


def _late(found: Round, segments: int) -> Refused:
    """The round's deadline passed, or the others declined to wait."""
    return Refused(
        "peer.late",
        f"expected round {found.number} of {found.task} to take updates until training was done, "
        f"found it in phase {found.phase.value} after {segments} segments: no update is sent",
    )
