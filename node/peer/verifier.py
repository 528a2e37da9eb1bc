"""A hospital's verifier: judges the other hospitals' updates with a key of its own.

It works beside the trainer, on rows that stay, and connects out only.
"""

import asyncio
from collections.abc import Callable

import structlog

from fl.body import SubmitVerdict
from fl.model import Rows
from fl.verify import Case, judge, update_norm
from fl.weights import unpack_weights
from node.client.submitter import Submitter
from node.peer.approval import Approvals
from node.peer.bases import Bases
from node.peer.rowkeeper import Rowkeeper
from node.peer.stage import Stage, find_stage
from node.wire.exchange import Exchange
from vm.learning import (
    Decision,
    RoundPhase,
    Update,
    Verdict,
)
from vm.refusal import Refused
from vm.terms import Site

BLOB_WAIT_PERCENT = 50  # of the verdict phase; then a verifier abstains from what it cannot fetch

log = structlog.get_logger()


class Verifier:
    """Judges the other hospitals' updates on this hospital's scoring rows."""

    def __init__(
        self,
        submitter: Submitter,
        exchange: Exchange,
        rowkeeper: Rowkeeper,
        approvals: Approvals,
        clock_ms: Callable[[], int],
    ) -> None:
        """`clock_ms` is steady: it measures waiting and tells no time of day."""
        self._submitter = submitter
        self._client = submitter.client
        self._exchange = exchange
        self._bases = Bases(exchange)
        self._rowkeeper = rowkeeper
        self._approvals = approvals
        self._clock_ms = clock_ms
        self._since_ms: dict[str, tuple[int, int]] = {}  # task -> its round, and when first seen

    async def work(self, task_id: str) -> None:
        """Judge what the task's newest round waits for."""
        stage = await find_stage(self._client, task_id, RoundPhase.VERDICT)
        if stage is None:
            return
        self._approvals.require(stage.task)  # a score tells of this site's rows too
        me = self._submitter.member
        site = next((s for s in stage.task.terms.sites if s.verifier == me), None)
        if site is None:
            raise Refused(
                "peer.not_a_site",
                f"expected {me} among the verifiers of task {task_id}, found others: "
                "take the task out of [training] tasks",
            )
        number = stage.round.number
        # One by one, for a list proves each of its records but not that none was left out.
        found = [
            await self._client.record(Update, task_id, number, other.organisation)
            for other in stage.task.terms.sites
        ]
        updates = [update for update in found if update is not None]
        mine = [
            update
            for update in updates
            if update.organisation != site.organisation
            and not await self._client.record(Verdict, *update.key, site.organisation)
        ]
        if not mine:
            return
        try:
            await self._judge(stage, site, updates, mine)
        finally:
            # Also after a refusal: another hospital's update stays on this disk no longer than work
            # on it; the next look fetches it again.
            for update in updates:
                await self._exchange.forget(update.blob)

    async def _judge(
        self, stage: Stage, site: Site, updates: list[Update], mine: list[Update]
    ) -> None:
        blobs = await self._fetch(stage, updates)
        rows, parts = await self._rowkeeper.rows(self._client, stage, site)
        base = await self._bases.fetch(stage.base)
        verdicts = await asyncio.to_thread(
            _judge_all, stage, base, rows.take(parts.scoring), updates, mine, blobs
        )
        await self._submit(verdicts, blobs)

    async def _submit(self, verdicts: list[SubmitVerdict], blobs: dict[str, bytes]) -> None:
        """Submit all, each to its end; then raise the first refusal, so that it is tried again.

        Before an update is passed, f + 1 validators hold it: what is accepted can be aggregated.
        """
        refusals: list[Refused] = []

        async def submit(verdict: SubmitVerdict) -> None:
            try:
                if verdict.decision is Decision.PASS:
                    await self._exchange.bring(blobs[verdict.organisation])
                await self._submitter.submit("learning.verdict", verdict)
            except Refused as refused:
                refusals.append(refused)

        async with asyncio.TaskGroup() as group:
            for verdict in verdicts:
                group.create_task(submit(verdict))
        if refusals:
            raise refusals[0]

    async def _fetch(self, stage: Stage, updates: list[Update]) -> dict[str, bytes]:
        """The blobs by organisation; those that nobody gives are left out once time runs short."""
        blobs, missing = {}, None
        for update in updates:
            try:
                blobs[update.organisation] = await self._exchange.fetch(
                    update.blob, update.blob_bytes
                )
            except Refused as refused:
                missing = refused
        wait_ms = stage.task.terms.verdict_ms * BLOB_WAIT_PERCENT // 100
        if missing is not None and self._waited_ms(stage) < wait_ms:
            raise missing
        return blobs

    def _waited_ms(self, stage: Stage) -> int:
        """How long this verifier has known of the phase; its wall clock may be wrong."""
        id, number, now_ms = stage.task.id, stage.round.number, self._clock_ms()
        known, since_ms = self._since_ms.get(id, (0, 0))
        if known != number:
            self._since_ms[id] = (number, now_ms)
            return 0
        return now_ms - since_ms


def _judge_all(
    stage: Stage,
    base: bytes,
    rows: Rows,
    updates: list[Update],
    mine: list[Update],
    blobs: dict[str, bytes],
) -> list[SubmitVerdict]:
    spec, bits = stage.base.spec, stage.base.grid_bits
    found = [
        update_norm(spec, bits, update, blobs[update.organisation])
        for update in updates
        if update.organisation in blobs
    ]
    norms = [norm for norm in found if norm is not None]
    case = Case(spec, bits, stage.task.terms, unpack_weights(spec, bits, base), norms, rows)
    return [_verdict(case, update, blobs.get(update.organisation)) for update in mine]


def _verdict(case: Case, update: Update, blob: bytes | None) -> SubmitVerdict:
    decision, code, reason = (
        Decision.ABSTAIN,
        "verdict.no_blob",
        "expected the update's blob from a validator, found none in time",
    )
    segment = score_bp = None
    if blob is not None:
        judged = judge(case, update, blob)
        decision, code, reason = judged.decision, judged.code, judged.reason
        segment, score_bp = judged.segment, judged.score_bp
    log.info(
        "update.judged",
        task=update.task,
        round=update.round,
        organisation=update.organisation,
        decision=decision.value,
        code=code,
        reason=reason,
    )
    return SubmitVerdict(
        task=update.task,
        round=update.round,
        organisation=update.organisation,
        update=update.transaction,
        decision=decision,
        code=code,
        reason=reason,
        segment=segment,
        score_bp=score_bp,
    )
