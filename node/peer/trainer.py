"""A hospital's trainer: this site's update in every round of the tasks that it takes part in.

It connects out only. What leaves are updates and proofs of learning; rows stay.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, cast

import structlog

from fl.approval import terms_digest
from fl.body import ApproveTask, ProofOfLearning
from fl.dataset import part_digest
from fl.trace import Origin, root
from fl.train import Job
from fl.weights import pack_update, unpack_weights
from node.client.board import Board
from node.client.submitter import Submitter
from node.peer.approval import (
    Approvals,
    require_not_withdrawn,
    require_standing,
    say_withdrawn,
)
from node.peer.bases import Bases
from node.peer.rowkeeper import Rowkeeper
from node.peer.stage import Stage, find_stage
from node.peer.traces import TraceStore
from node.peer.training import Assignment, Trained, Training
from node.peer.watch import while_wanted
from node.wire.exchange import Exchange
from vm.learning import Commitment, Decline, Round, RoundPhase, SiteApproval, Task, Update
from vm.refusal import Refused
from vm.terms import Evidence, Site

TRAINING_ROWS_MIN = 20  # an update of fewer rows tells of single ones, whatever the task's terms

_Found: TypeAlias = tuple[Round | None, Update | None, Decline | None]

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
        """Train and submit if the task's newest round waits for our update.

        What a person here has withdrawn is taken back on the chain, whenever it is found there: an
        approval of ours may have been on its way, also through a crash.
        """
        if await asyncio.to_thread(self._approvals.is_withdrawn, task_id):
            await say_withdrawn(self._approvals, self._board, self._submitter, task_id)
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
        try:
            look = partial(self._require_awaited, stage, site)
            await while_wanted(self._answer(assignment), look)
        except Refused as refused:
            await self._conclude(stage, site, refused)

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

    async def _require_awaited(self, stage: Stage, site: Site) -> None:
        """Raise `Refused` unless the round waits for our update, or nobody can say.

        `peer.submitted` if it is there, `peer.late` if the round went on without us,
        `peer.declined` if somebody here declined it; else the site has withdrawn.
        """
        await require_not_withdrawn(self._approvals, self._board, stage.task, site.organisation)
        key = (*stage.round.key, site.organisation)
        try:
            update = await self._board.record(Update, *key)
            declined = await self._board.record(Decline, *key)
            rnd = await self._board.record(Round, *stage.round.key)
        except Refused:
            return  # nobody can say: go on
        if update is not None:
            raise Refused("peer.submitted", "expected our update to be awaited, found it there")
        if (over := await self._over(rnd, declined)) is not None:
            raise over

    async def _conclude(self, stage: Stage, site: Site, refused: Refused) -> None:
        """What became of a training that ended with `refused` is for the chain to say.

        A peer that was killed has not heard whether its proof arrived, nor in time. So a trace goes
        only once it is proven that no update of it is there, and that none can come any more.
        """
        key = (*stage.round.key, site.organisation)
        asked = ((Round, stage.round.key), (Update, key), (Decline, key))
        try:  # under one header, and as it is now
            found, _ = await self._board.client.together(asked)
        except Refused:
            raise refused from None  # nobody can say
        rnd, update, declined = cast("_Found", found)
        if update is not None:
            log.info("round.submitted", task=update.task, round=update.round, update=update.blob)
            return
        over = await self._over(rnd, declined)
        if over is None:
            raise refused
        await asyncio.to_thread(self._traces.drop, *stage.round.key)
        raise over

    async def _over(self, rnd: Round | None, declined: Decline | None) -> Refused | None:
        """Why the round takes no update of ours any more; None if it does."""
        if declined is not None:
            return Refused(
                "peer.declined",
                f"expected to train round {declined.round} of {declined.task}, found it declined "
                f"by this site as {declined.code}: no update is sent",
            )
        if rnd is None or rnd.phase is RoundPhase.SUBMIT:
            return None
        trace = await asyncio.to_thread(self._traces.find, *rnd.key)
        return _late(rnd, 0 if trace is None else len(trace.segments()))

    async def _answer(self, assignment: Assignment) -> None:
        """Train, bring the update and submit its proof."""
        training = self._training(assignment.stage.task.id)
        trained = await training.train(assignment)
        await self._await_verifier(assignment.stage, assignment.site)
        await self._submit(assignment, trained)

    async def _await_verifier(self, stage: Stage, site: Site) -> None:
        """Of a site that is no part of the round: until its verifier is bound.

        Nobody else waits for that, and beside an update of ours its silence would count.
        """
        while True:
            seen = self._board.count
            rnd = await self._board.record(Round, *stage.round.key)
            if rnd is not None and site.organisation in rnd.parts:
                return
            if await self._board.record(Commitment, *stage.round.key, site.organisation):
                return
            await self._board.wait(seen)

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
