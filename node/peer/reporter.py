"""Tells a hospital what became of its updates: verdicts as they come, and figures of each round."""

import asyncio
from dataclasses import dataclass, field

import structlog

from fl.fixed import Int32s, Ints
from fl.metric import Figures
from fl.model import Rows
from fl.weights import unpack_weights
from node.client.board import Board
from node.peer.approval import Approvals
from node.peer.bases import Bases
from node.peer.figures import evaluate
from node.peer.report import MODELS, Entry, Report
from node.peer.rowkeeper import Rowkeeper
from node.peer.stage import Stage
from node.peer.traces import TraceStore
from vm.learning import Outcome, Round, RoundPhase, Task, Verdict
from vm.record import Model
from vm.refusal import Refused
from vm.terms import Site

JUDGED = (RoundPhase.REVEAL, RoundPhase.RERUN, RoundPhase.AGGREGATE)
ENDED = (RoundPhase.CLOSED, RoundPhase.FAILED)
ROUNDS_BACK = 1  # before the newest that a peer which was never here before reports on

log = structlog.get_logger()


@dataclass(slots=True)
class _Told:
    """What was said of the round that is being watched."""

    round: int
    verdicts: set[tuple[str, bool]] = field(default_factory=set)  # by whom, and whether rerun


class Reporter:
    """Watches this site's rounds; what it finds stays in the log and the report."""

    def __init__(
        self,
        board: Board,
        trainer: str,
        bases: Bases,
        rowkeeper: Rowkeeper,
        approvals: Approvals,
        traces: TraceStore,
        report: Report,
    ) -> None:
        """`trainer` is the id of this site's trainer."""
        self._board = board
        self._trainer = trainer
        self._bases = bases
        self._rowkeeper = rowkeeper
        self._approvals = approvals
        self._traces = traces
        self._report = report
        self._told: dict[str, _Told] = {}  # by task

    async def work(self, task_id: str) -> None:
        """Tell what is new of the task's rounds, one after the other."""
        task = await self._board.record(Task, task_id)
        if task is None:
            return
        site = next((s for s in task.terms.sites if s.trainer == self._trainer), None)
        if site is None:
            return
        try:
            self._approvals.require(task)
        except Refused:
            return  # as the trainer says
        told = self._told.get(task_id)
        if told is None:
            newest = await asyncio.to_thread(self._report.newest, task_id)
            first = max(1, task.round - ROUNDS_BACK) if newest is None else newest + 1
            told = self._told[task_id] = _Told(first)
        while told.round <= task.round and await self._follow(task, site, told):
            told = self._told[task_id] = _Told(told.round + 1)

    async def _follow(self, task: Task, site: Site, told: _Told) -> bool:
        """Tell what is new of one round; whether it has ended and all is told."""
        rnd = await self._board.record(Round, task.id, told.round)
        if rnd is None:
            return False
        if rnd.phase in (*JUDGED, *ENDED):
            await self._tell_verdicts(task, site, told)
        if rnd.phase not in ENDED:
            return False
        outcome = next((o for o in rnd.outcomes if o.organisation == site.organisation), None)
        entry = await self._entry(task, site, rnd, outcome)
        await asyncio.to_thread(self._report.append, entry)
        if outcome is not None and outcome.near is not None:
            log.warning("update.near", task=task.id, round=rnd.number, organisation=outcome.near)
        log.info(
            "round.ended",
            task=task.id,
            round=rnd.number,
            phase=rnd.phase.value,
            version=rnd.model_version,
            update=entry.status,
            code=entry.code,
            reason=entry.reason,
        )
        return True

    async def _tell_verdicts(self, task: Task, site: Site, told: _Told) -> None:
        for other in task.terms.sites:
            if other.organisation == site.organisation:
                continue
            key = (task.id, told.round, site.organisation, other.organisation)
            verdict = await self._board.record(Verdict, *key)
            if verdict is None or (other.organisation, verdict.rerun) in told.verdicts:
                continue
            told.verdicts.add((other.organisation, verdict.rerun))
            log.info(
                "update.verdict",
                task=task.id,
                round=told.round,
                verifier=verdict.verifier,
                decision=verdict.decision.value,
                code=verdict.code,
                reason=verdict.reason,
                rerun=verdict.rerun,
            )

    async def _entry(self, task: Task, site: Site, rnd: Round, outcome: Outcome | None) -> Entry:
        base = await self._board.record(Model, task.terms.model, rnd.base_version)
        assert base is not None, "a round has a base"
        figures: dict[str, Figures | None] = dict.fromkeys(MODELS)
        try:
            rows, parts = await self._rowkeeper.rows(self._board, Stage(task, rnd, base), site)
            if parts.test:
                figures = await self._figures(task, rnd, base, rows.take(parts.test))
        except Refused as refused:  # a blob that is gone, or rows that changed: the rest stands
            log.warning("report.partial", task=task.id, round=rnd.number, code=refused.code)
        return Entry(
            task=task.id,
            round=rnd.number,
            phase=rnd.phase.value,
            version=rnd.model_version,
            status=rnd.phase.value if outcome is None else outcome.status.value,
            code=rnd.code if outcome is None else outcome.code,
            reason=rnd.reason if outcome is None else outcome.reason,
            time_ms=rnd.opened_ms,
            figures=figures,
        )

    async def _figures(
        self, task: Task, rnd: Round, base: Model, rows: Rows
    ) -> dict[str, Figures | None]:
        spec, bits = base.spec, base.grid_bits
        weights: dict[str, Ints | Int32s] = {}
        weights["base"] = unpack_weights(spec, bits, await self._bases.fetch(base))
        trace = await asyncio.to_thread(self._traces.find, task.id, rnd.number)
        newest = None if trace is None else await asyncio.to_thread(trace.newest)
        if trace is not None and newest and len(newest.segments) == trace.head.segments:
            weights["own"] = newest.weights
        if rnd.model_version is not None:
            shared = await self._board.record(Model, task.terms.model, rnd.model_version)
            assert shared is not None, "a closed round made a version"
            weights["shared"] = unpack_weights(spec, bits, await self._bases.fetch(shared))
        found: dict[str, Figures | None] = dict.fromkeys(MODELS)
        for name, values in weights.items():
            found[name] = await asyncio.to_thread(evaluate, spec, bits, values, rows)
        return found
