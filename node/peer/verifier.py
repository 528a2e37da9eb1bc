"""A hospital's verifier: judges the other hospitals' updates with a key of its own.

It works beside the trainer, on rows that stay, and connects out only. In each round it commits to
a secret, seals its judgements, reveals them, and re-runs what others have failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from fl.body import CommitSecret, Judged, RerunVerdict, RevealVerdicts, SealVerdicts
from fl.challenge import commitment, draw, seal
from fl.fixed import Int32s
from fl.model import Rows
from fl.near import nearest
from fl.replay import Replayed, suspicious
from fl.rules.rows import Deltas
from fl.settle import aggregation_weight, named_segments
from fl.trace import origin
from fl.verify import BP, Case, Judgement, judge, update_delta
from fl.weights import unpack_delta, unpack_update, unpack_weights
from fl.worth import contributions_bp
from node.client.board import Board
from node.client.submitter import Submitter
from node.peer.approval import Approvals
from node.peer.bases import Bases
from node.peer.budget import Budget
from node.peer.drawer import Drawer
from node.peer.replaying import Suspect
from node.peer.rowkeeper import Rowkeeper
from node.peer.stage import Stage, find_stage
from node.wire.exchange import Exchange
from vm.learning import (
    Commitment,
    Decision,
    Holdout,
    RoundPhase,
    SiteApproval,
    Update,
    Verdict,
)
from vm.record import Dataset
from vm.refusal import Refused
from vm.shape import Digest, pack
from vm.terms import MICRO, Evidence, Site, Valuation

BLOB_WAIT_PERCENT = 50  # of the verdict phase; then a verifier abstains from what it cannot fetch

# Replays segments of an update, given its file, and all of them on suspicion; None if they are what
# the trainer says, else why not.
Replay = Callable[
    [Stage, Update, bytes, Sequence[int], Suspect | None], Awaitable[Judgement | None]
]

Profiles = dict[str, tuple[tuple[int, ...], int | None]]  # by organisation: moves, and score

log = structlog.get_logger()


class Verifier:
    """Judges the other hospitals' updates on this hospital's scoring rows."""

    def __init__(
        self,
        board: Board,
        submitter: Submitter,
        exchange: Exchange,
        rowkeeper: Rowkeeper,
        approvals: Approvals,
        store: Path,
        *,
        secret: Callable[[str, int], Digest],
        clock_ms: Callable[[], int],
        replay: Replay,
    ) -> None:
        """`store` is the peer's folder, where it keeps what it has sealed and promised.

        `secret` gives a task's round its secret, always the same; nobody else can tell it.

        `clock_ms` is steady: it measures waiting and tells no time of day.
        """
        self._board = board
        self._submitter = submitter
        self._exchange = exchange
        self._bases = Bases(exchange)
        self._rowkeeper = rowkeeper
        self._approvals = approvals
        self._drawer = Drawer(store)
        self._budget = Budget(store)
        self._spending = asyncio.Lock()  # tasks on the same rows spend one after the other
        self._secret = secret
        self._clock_ms = clock_ms
        self._replay = replay
        self._since_ms: dict[str, tuple[int, int]] = {}  # task -> its round, and when first seen

    async def work(self, task_id: str) -> None:
        """Do what the task's newest round waits for from us."""
        stage = await find_stage(
            self._board,
            task_id,
            RoundPhase.SUBMIT,
            RoundPhase.VERDICT,
            RoundPhase.REVEAL,
            RoundPhase.RERUN,
        )
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
        if not await self._is_part(task_id, site):
            return  # our trainer's word is on its way; a block that holds it wakes us
        bound = await self._board.record(Commitment, task_id, stage.round.number, site.organisation)
        match stage.round.phase:
            case RoundPhase.SUBMIT if bound is None:
                await self._commit(stage)
            case RoundPhase.VERDICT if bound is not None and bound.seal is None:
                await self._seal(stage, site)
            case RoundPhase.REVEAL if bound is not None and bound.seal and bound.secret is None:
                await self._reveal(stage)
            case RoundPhase.RERUN if bound is not None and bound.secret is not None:
                await self._rerun(stage, site)

    async def _is_part(self, task: str, site: Site) -> bool:
        """Whether our site's approval stands on the chain."""
        found = await self._board.record(SiteApproval, task, site.organisation)
        return found is not None and found.stands

    async def _commit(self, stage: Stage) -> None:
        task, number = stage.task.id, stage.round.number
        found = commitment(task, number, self._submitter.member, self._secret(task, number))
        await self._submitter.submit("learning.commit", CommitSecret(task, number, found))

    async def _seal(self, stage: Stage, site: Site) -> None:
        """Judge all updates of others, once, and bind ourselves to what we found."""
        task, number = stage.task.id, stage.round.number
        body = await asyncio.to_thread(self._drawer.get, task, number)
        secret = self._secret(task, number)
        if body is None or body.secret != secret:  # of another chain, in a store that outlived it
            judgements = await self._afford(site, await self._judge(stage, site))
            body = RevealVerdicts(task, number, secret, judgements)
            await asyncio.to_thread(self._drawer.put, body)
        packed = [pack(item) for item in body.judgements]
        found = seal(task, number, self._submitter.member, body.secret, packed)
        await self._submitter.submit("learning.seal", SealVerdicts(task, number, found))

    async def _afford(self, site: Site, found: tuple[Judged, ...]) -> tuple[Judged, ...]:
        """The judgements with as many scores as the budget of our rows allows."""
        dataset = await self._board.record(Dataset, site.dataset)
        assert dataset is not None, "a task names registered datasets"
        holdout = await self._board.record(Holdout, site.dataset)
        published = 0 if holdout is None else holdout.scores
        async with self._spending:
            return await asyncio.to_thread(
                self._budget.spend, dataset.id, published, dataset.scores_max, found
            )

    async def _reveal(self, stage: Stage) -> None:
        body = await asyncio.to_thread(self._drawer.get, stage.task.id, stage.round.number)
        if body is None:
            raise Refused(
                "peer.sealed_lost",
                "expected the judgements that this verifier has sealed in its store, found none: "
                f"it cannot reveal them in round {stage.round.number}",
            )
        await self._submitter.submit("learning.verdict", body)

    async def _rerun(self, stage: Stage, site: Site) -> None:
        """Re-run the segments that others have failed in updates that we did not."""
        updates = [
            update
            for update in await self._updates(stage)
            if update.evidence is Evidence.REPLAYED and update.organisation != site.organisation
        ]
        # All at once, and each to its end; what is refused is tried again with the next look.
        reruns = (self._rerun_one(stage, site, update) for update in updates)
        for outcome in await asyncio.gather(*reruns, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _rerun_one(self, stage: Stage, site: Site, update: Update) -> None:
        verdicts = await self._verdicts(stage, update)
        named = named_segments(verdicts)
        mine = next((v for v in verdicts if v.verifier_organisation == site.organisation), None)
        if not named or mine is None or mine.rerun or mine.decision is Decision.FAIL:
            return
        try:
            blob = await self._exchange.fetch(update.blob, update.blob_bytes)
            found = await self._replay(stage, update, blob, named, None)
        finally:
            await self._exchange.forget(update.blob)
        await self._submitter.submit("learning.rerun", _rerun_body(mine, update, found, named))

    async def _updates(self, stage: Stage) -> list[Update]:
        """One by one, for a list proves each of its records but not that none was left out."""
        found = [
            await self._board.record(Update, stage.task.id, stage.round.number, site.organisation)
            for site in stage.task.terms.sites
        ]
        return [update for update in found if update is not None]

    async def _verdicts(self, stage: Stage, update: Update) -> list[Verdict]:
        found = [
            await self._board.record(Verdict, *update.key, site.organisation)
            for site in stage.task.terms.sites
        ]
        return [verdict for verdict in found if verdict is not None]

    async def _judge(self, stage: Stage, site: Site) -> tuple[Judged, ...]:
        updates = await self._updates(stage)
        mine = [update for update in updates if update.organisation != site.organisation]
        try:
            blobs = await self._fetch(stage, updates)
            rows, parts = await self._rowkeeper.rows(self._board, stage, site)
            base = await self._bases.fetch(stage.base)
            deltas = await asyncio.to_thread(_deltas, stage, updates, blobs)
            case = await asyncio.to_thread(_case, stage, base, rows.take(parts.scoring), deltas)
            near = await asyncio.to_thread(nearest, deltas)
            found = await asyncio.to_thread(_judge_all, case, mine, blobs)
            found = [
                await self._keep(stage, judgement, blobs.get(update.organisation))
                for update, judgement in zip(mine, found, strict=True)
            ]
            profiles = _profiles(stage, mine, found, blobs)
            # All at once: a trainer that does not open costs the others' updates no time.
            confirmed = await asyncio.gather(
                *(
                    self._confirm(stage, update, judgement, blobs, profiles)
                    for update, judgement in zip(mine, found, strict=True)
                )
            )
            worth = await asyncio.to_thread(
                _contributions,
                case,
                stage,
                site,
                updates,
                _passed(mine, confirmed),
                blobs,
            )
            return tuple(
                _judged(
                    update,
                    judgement,
                    worth.get(update.organisation),
                    near.get(update.organisation),
                )
                for update, judgement in zip(mine, confirmed, strict=True)
            )
        finally:
            # Also after a refusal: another hospital's update stays on this disk no longer than work
            # on it; the next look fetches it again.
            for update in updates:
                await self._exchange.forget(update.blob)

    async def _keep(self, stage: Stage, found: Judgement, blob: bytes | None) -> Judgement:
        """Before an update is passed, f + 1 validators hold it: what is accepted can be had."""
        if found.decision is not Decision.PASS:
            return found
        assert blob is not None, "what passes was read"
        try:
            await self._exchange.bring(blob)
        except Refused:
            if self._may_wait(stage):
                raise
            return Judgement(
                Decision.ABSTAIN,
                "verdict.too_few_copies",
                "expected enough validators to take the update's blob, found too few in time",
            )
        return found

    async def _confirm(
        self,
        stage: Stage,
        update: Update,
        found: Judgement,
        blobs: dict[str, bytes],
        profiles: Profiles,
    ) -> Judgement:
        """What remains of a pass once its segments are replayed."""
        count = stage.task.terms.replay.segments
        passed = found.decision is Decision.PASS
        if not passed or update.evidence is not Evidence.REPLAYED or not count:
            return found
        suspect = partial(_suspicion, stage, update.organisation, profiles)
        blob, drawn = blobs[update.organisation], self._drawn(stage, update)
        return await self._replay(stage, update, blob, drawn, suspect) or found

    def _drawn(self, stage: Stage, update: Update) -> tuple[int, ...]:
        """The segments that our secret draws of an update."""
        task, number = stage.task.id, stage.round.number
        assert stage.round.seed is not None, "submissions have ended"
        return draw(
            stage.round.seed,
            update.transaction,
            self._secret(task, number),
            update.segments,
            stage.task.terms.replay.segments,
        )

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
        if missing is not None and self._may_wait(stage):
            raise missing
        return blobs

    def _may_wait(self, stage: Stage) -> bool:
        """Whether there is time to try again; our wall clock may be wrong, so waiting counts."""
        wait_ms = stage.task.terms.verdict_ms * BLOB_WAIT_PERCENT // 100
        id, number, now_ms = stage.task.id, stage.round.number, self._clock_ms()
        known, since_ms = self._since_ms.get(id, (0, 0))
        if known != number:
            self._since_ms[id] = (number, now_ms)
            return True
        return now_ms - since_ms < wait_ms


def _profiles(
    stage: Stage, updates: list[Update], found: list[Judgement], blobs: dict[str, bytes]
) -> Profiles:
    """The moves of each segment and the score of every update that would pass."""
    spec, bits = stage.base.spec, stage.base.grid_bits
    profiles: Profiles = {}
    for update, judgement in zip(updates, found, strict=True):
        if judgement.decision is Decision.PASS:
            blob = blobs[update.organisation]
            _, segments = unpack_update(spec, bits, origin(update), update.segments, blob)
            moves = tuple(segment.move for segment in segments)
            profiles[update.organisation] = moves, judgement.score_bp
    return profiles


def _suspicion(
    stage: Stage, organisation: str, profiles: Profiles, replayed: Sequence[Replayed]
) -> str | None:
    moves, score_bp = profiles[organisation]
    others = [found for name, found in profiles.items() if name != organisation]
    margin_bp = stage.task.terms.policy.margin * BP // MICRO
    scores = [score for _, score in others if score is not None]
    return suspicious(replayed, moves, [found for found, _ in others], score_bp, scores, margin_bp)


def _deltas(stage: Stage, updates: list[Update], blobs: dict[str, bytes]) -> dict[str, Int32s]:
    """The deltas of well-formed updates by organisation, in order of sites."""
    spec, bits = stage.base.spec, stage.base.grid_bits
    found = {
        update.organisation: update_delta(spec, bits, update, blobs[update.organisation])
        for update in updates
        if update.organisation in blobs
    }
    return {name: delta for name, delta in found.items() if delta is not None}


def _case(stage: Stage, base: bytes, rows: Rows, deltas: Mapping[str, Int32s]) -> Case:
    spec, bits = stage.base.spec, stage.base.grid_bits
    weights = unpack_weights(spec, bits, base)
    return Case.of(spec, bits, stage.task.terms, weights, list(deltas.values()), rows)


def _judge_all(case: Case, mine: list[Update], blobs: dict[str, bytes]) -> list[Judgement]:
    return [_judgement(case, update, blobs.get(update.organisation)) for update in mine]


def _judgement(case: Case, update: Update, blob: bytes | None) -> Judgement:
    if blob is None:
        return Judgement(
            Decision.ABSTAIN,
            "verdict.no_blob",
            "expected the update's blob from a validator, found none in time",
        )
    return judge(case, update, blob)


def _passed(updates: list[Update], found: Sequence[Judgement]) -> frozenset[str]:
    """The organisations whose updates pass."""
    pairs = zip(updates, found, strict=True)
    return frozenset(
        update.organisation for update, made in pairs if made.decision is Decision.PASS
    )


def _contributions(
    case: Case,
    stage: Stage,
    site: Site,
    updates: list[Update],
    passed: frozenset[str],
    blobs: dict[str, bytes],
) -> dict[str, int]:
    """What each update that passes contributes on our rows, in basis points, if the task asks.

    Our own hospital's takes part, so that what the others add is what they add to it.
    """
    terms = stage.task.terms
    if terms.contribution is Valuation.NONE or not passed:
        return {}
    spec, bits = stage.base.spec, stage.base.grid_bits
    deltas: dict[str, Deltas] = {}
    for update in updates:
        name, blob = update.organisation, blobs.get(update.organisation)
        if blob is not None and (name in passed or name == site.organisation):
            try:
                deltas[name] = unpack_delta(spec, bits, origin(update), update.segments, blob)
            except Refused:
                assert name == site.organisation, "what passes has the form"
    weights = {other.organisation: aggregation_weight(terms, other) for other in terms.sites}
    assert stage.round.seed is not None, "submissions have ended"
    return contributions_bp(case, deltas, weights, site.organisation, stage.round.seed)


def _judged(
    update: Update, found: Judgement, contribution_bp: int | None, near: str | None
) -> Judged:
    log.info(
        "update.judged",
        task=update.task,
        round=update.round,
        organisation=update.organisation,
        decision=found.decision.value,
        code=found.code,
        reason=found.reason,
        near=near,
    )
    return Judged(
        organisation=update.organisation,
        update=update.transaction,
        decision=found.decision,
        code=found.code,
        reason=found.reason,
        segment=found.segment,
        score_bp=found.score_bp,
        contribution_bp=contribution_bp,
        near=near,
    )


def _rerun_body(
    mine: Verdict, update: Update, found: Judgement | None, named: Sequence[int]
) -> RerunVerdict:
    """A fail if we found that of a named segment; else our word again, and what we found as reason.

    The chain takes no fail of another segment, and who insists holds up the round.
    """
    said = RerunVerdict(
        task=update.task,
        round=update.round,
        organisation=update.organisation,
        update=update.transaction,
        decision=mine.decision,
        code=mine.code,
        reason=mine.reason,
        segment=None,
    )
    match found:
        case None:
            return said
        case Judgement(decision=Decision.FAIL, segment=int(segment)) if segment in named:
            decision = Decision.FAIL
            return replace(
                said, decision=decision, code=found.code, reason=found.reason, segment=segment
            )
        case _:
            return replace(said, code=found.code, reason=found.reason)
