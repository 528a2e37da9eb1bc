"""A hospital's training peer: a trainer and, beside it, a verifier with keys of its own.

Both connect out only. What leaves the hospital are updates, proofs of learning and verdicts; rows
stay. The site decides by its configuration which tasks it takes part in.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from fl.body import ProofOfLearning, SubmitVerdict
from fl.dataset import leaves
from fl.fixed import Ints
from fl.model import Rows, prepare
from fl.sampling import Split, split
from fl.trace import Origin, root
from fl.train import Job, OnStep, Result, train
from fl.verify import Case, judge, update_norm
from fl.weights import pack_update, unpack_weights
from node.client.client import Client
from node.client.submitter import Submitter
from node.client.watch import Watch
from node.peer.site import LocalData
from node.wire.exchange import Exchange
from vm.learning import (
    Decision,
    Evidence,
    Preprocessing,
    Round,
    RoundPhase,
    Site,
    Task,
    TaskPhase,
    Update,
    Verdict,
)
from vm.record import Dataset, Model
from vm.refusal import Refused

RETRY_S = 1.0  # after a refusal that time may cure: a blob not there yet, a validator away
TRAINING_ROWS_MIN = 20  # an update of fewer rows tells of single ones, whatever the task's terms
BLOB_WAIT_PERCENT = 50  # of the verdict phase; then a verifier abstains from what it cannot fetch

Train = Callable[[Job, Ints, Rows, OnStep | None], Result]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stage:
    """A task, its newest round, and the model version that the round starts from."""

    task: Task
    round: Round
    base: Model


async def find_stage(client: Client, task_id: str, phase: RoundPhase) -> Stage | None:
    """The task's newest round if it is in `phase`; None otherwise, or before the task opens."""
    task = await client.record(Task, task_id)
    if task is None or task.phase is not TaskPhase.OPEN:
        return None
    rnd = await client.record(Round, task_id, task.round)
    if rnd is None or rnd.phase is not phase:
        return None
    base = await client.record(Model, task.terms.model, rnd.base_version)
    return None if base is None else Stage(task, rnd, base)


class Rowkeeper:
    """Prepares a task's rows once: they are the same in every round."""

    def __init__(self, load: Callable[[Preprocessing], LocalData]) -> None:
        self._load = load
        self._of_task: dict[str, tuple[Rows, Split]] = {}

    async def rows(self, client: Client, stage: Stage, site: Site) -> tuple[Rows, Split]:
        """All rows and their three parts; raises `Refused` if they are not the registered ones."""
        found = self._of_task.get(stage.task.id)
        if found is None:
            dataset = await client.record(Dataset, site.dataset)
            if dataset is None:
                raise Refused("peer.dataset", f"expected dataset {site.dataset}, found none")
            found = await asyncio.to_thread(self._prepare, stage, dataset)
            self._of_task[stage.task.id] = found
        return found

    def _prepare(self, stage: Stage, dataset: Dataset) -> tuple[Rows, Split]:
        preprocessing = stage.task.terms.preprocessing
        data = self._load(preprocessing)
        data.require_root(dataset)
        rows = prepare(stage.base.spec, preprocessing, data.table, leaves(data.table, data.secret))
        return rows, split(data.secret, data.table.labels)


class Trainer:
    """Submits this hospital's update in every round."""

    def __init__(
        self,
        submitter: Submitter,
        exchange: Exchange,
        rowkeeper: Rowkeeper,
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
        self._opening = opening
        self._train = train
        self._on_step = on_step

    async def work(self, task_id: str) -> None:
        """Train and submit if the task's newest round waits for our update."""
        stage = await find_stage(self._client, task_id, RoundPhase.SUBMIT)
        if stage is None:
            return
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
        result = await asyncio.to_thread(
            self._train,
            job,
            unpack_weights(spec, bits, base),
            rows.take(parts.train),
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
                evidence=stage.task.terms.evidence,
            ),
        )
        log.info("round.submitted", task=task_id, round=stage.round.number, update=address)


class Verifier:
    """Judges the other hospitals' updates on this hospital's scoring rows."""

    def __init__(
        self,
        submitter: Submitter,
        exchange: Exchange,
        rowkeeper: Rowkeeper,
        clock_ms: Callable[[], int],
    ) -> None:
        """`clock_ms` is steady: it measures waiting and tells no time of day."""
        self._submitter = submitter
        self._client = submitter.client
        self._exchange = exchange
        self._rowkeeper = rowkeeper
        self._clock_ms = clock_ms
        self._since_ms: dict[str, tuple[int, int]] = {}  # task -> its round, and when first seen

    async def work(self, task_id: str) -> None:
        """Judge what the task's newest round waits for."""
        stage = await find_stage(self._client, task_id, RoundPhase.VERDICT)
        if stage is None:
            return
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
        base = await self._exchange.fetch(stage.base.weights, stage.base.weights_bytes)
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


async def attend(
    work: Callable[[str], Awaitable[None]], tasks: tuple[str, ...], watch: Watch
) -> None:
    """Call `work` for each task whenever something may have changed, until cancelled.

    What others chose for one task may break our work on it, but not on the next one.
    """
    while True:
        seen = watch.count
        for task in tasks:
            try:
                await work(task)
            except Refused as refused:
                log.warning("peer.refused", task=task, code=refused.code, reason=refused.message)
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - one task's, and logged
                # The type alone: a message may quote a patient's cell.
                log.error("peer.broken", task=task, type=type(error).__name__)
                await asyncio.sleep(RETRY_S)
        await watch.wait(seen)
