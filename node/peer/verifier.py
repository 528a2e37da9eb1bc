"""A hospital's verifier: judges the other hospitals' updates with a key of its own.

It works beside the trainer, on rows that stay, and connects out only. In each round it commits to
a secret, seals its judgements, reveals them, and re-runs what others have failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from fl.body import CommitSecret, Judged, RevealVerdicts, SealVerdicts
from fl.challenge import commitment, draw, seal
from fl.near import nearest
from fl.scores import reservable, within
from fl.settle import named_segments
from fl.verify import Judgement
from node.client.board import Board
from node.client.client import Client
from node.client.submitter import Submitter
from node.peer.approval import NO_PART, Approvals, require_not_withdrawn, require_standing
from node.peer.bases import Bases
from node.peer.drawer import Drawer
from node.peer.replaying import Suspect
from node.peer.rowkeeper import Rowkeeper
from node.peer.stage import Stage, find_stage
from node.peer.verdicts import (
    NO_BLIND,
    Profiles,
    case_of,
    contributions,
    deltas_of,
    judge_all,
    judged,
    passing,
    profiles_of,
    rerun_body,
    suspicion,
)
from node.peer.watch import while_wanted
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
from vm.terms import Evidence, Site

WITHDRAWN = "verdict.withdrawn"  # of a site that keeps its word and reads no row for it
TRANSFERS_MAX = 4  # blobs on their way at one time: they wait for each other's answers, not in turn
BLOB_WAIT_PERCENT = 50  # of the verdict phase; then a verifier abstains from what it cannot fetch

# Replays segments of an update, given its file, and all of them on suspicion; None if they are what
# the trainer says, else why not.
Replay = Callable[
    [Stage, Update, bytes, Sequence[int], Suspect | None], Awaitable[Judgement | None]
]


T = TypeVar("T")

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
        secret: Callable[[tuple[str | int | bytes, ...]], Digest],
        clock_ms: Callable[[], int],
        replay: Replay,
    ) -> None:
        """`store` is the peer's folder, where it keeps what it has sealed.

        `secret` gives the secret of a (task, round), and of a (task, round, judgement) its blind:
        always the same, and nobody else can tell them.

        `clock_ms` is steady: it measures waiting and tells no time of day.
        """
        self._board = board
        self._submitter = submitter
        self._exchange = exchange
        self._bases = Bases(exchange)
        self._rowkeeper = rowkeeper
        self._approvals = approvals
        self._drawer = Drawer(store)
        self._secret = secret
        self._clock_ms = clock_ms
        self._replay = replay
        self._transfers = asyncio.Semaphore(TRANSFERS_MAX)
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
        me = self._submitter.member
        site = next((s for s in stage.task.terms.sites if s.verifier == me), None)
        if site is None:
            raise Refused(
                "peer.not_a_site",
                f"expected {me} among the verifiers of task {task_id}, found others: "
                "take the task out of [training] tasks",
            )
        bound = await self._board.record(Commitment, task_id, stage.round.number, site.organisation)
        match stage.round.phase:
            case RoundPhase.SUBMIT if bound is None:
                await self._commit(stage, site)
            case RoundPhase.VERDICT if bound is not None and bound.seal is None:
                await self._seal(stage, site, bound)
            case RoundPhase.REVEAL if bound is not None and bound.seal and bound.secret is None:
                await self._reveal(stage, site, bound.seal)
            case RoundPhase.RERUN if bound is not None and bound.secret is not None:
                await self._rerun(stage, site)

    async def _commit(self, stage: Stage, site: Site) -> None:
        """Bind ourselves to judge in this round, which a later withdrawal does not undo."""
        self._approvals.require(stage.task)  # a score tells of this site's rows too
        task, number = stage.task.id, stage.round.number
        if not await self._stands(stage, site):
            return  # our trainer's word is on its way; a block that holds it wakes us
        found = commitment(task, number, self._submitter.member, self._secret((task, number)))
        await self._submitter.submit("learning.commit", CommitSecret(task, number, found))

    async def _seal(self, stage: Stage, site: Site, bound: Commitment) -> None:
        """Bind ourselves to what we found of the others' updates."""
        task, number, me = stage.task.id, stage.round.number, self._submitter.member
        body = await self._find(stage, site, bound)
        # What has no room in the budget goes, now or since it was judged; nothing is bound yet.
        withdrawn = _is_withdrawn(body)
        choices = (0,) if withdrawn else reservable(stage.task.terms, len(body.judgements))
        left = await self._scores_left(site)
        newest = await self._board.client.record(Commitment, task, number, site.organisation)
        if newest is None or newest.seal is not None:
            return  # read after the budget: a seal of ours that has taken from it is seen here
        reserved = max(count for count in choices if count <= left)
        fitting = within(body.judgements, reserved)
        body = replace(body, judgements=self._blinded(stage, body.judgements, fitting))
        await asyncio.to_thread(self._drawer.put, body)
        packed = [pack(item) for item in body.judgements]
        sealed = seal(task, number, me, body.secret, packed)
        sending = self._submitter.submit(
            "learning.seal", SealVerdicts(task, number, sealed, reserved)
        )
        if withdrawn:
            await sending
        elif await self._unless_withdrawn(stage, site, sending) is not None:
            await self._binds(stage, site, sealed)

    async def _find(self, stage: Stage, site: Site, bound: Commitment) -> RevealVerdicts:
        """What we say of all updates of others: judged once, nothing once the site withdrew."""
        task, number, me = stage.task.id, stage.round.number, self._submitter.member
        body = await asyncio.to_thread(self._drawer.get, task, number)
        found = None
        # Of another chain, in a store that outlived it, if it opens no commitment of ours.
        if body is not None and commitment(task, number, me, body.secret) == bound.commitment:
            secret, found = body.secret, body.judgements
        else:
            secret = self._require_secret(bound)
            if await self._is_approved(stage, site):
                found = await self._unless_withdrawn(stage, site, self._judge(stage, site))
        if found is None or not await self._is_approved(stage, site):
            found = await self._abstain(stage, site)  # no seal binds us to what we found before
        return RevealVerdicts(task, number, secret, found)

    def _blinded(
        self, stage: Stage, kept: Sequence[Judged], items: Sequence[Judged]
    ) -> tuple[Judged, ...]:
        """The judgements, each hidden from whoever is not shown it.

        By a blind of its words: one that is revealed opens no seal on others that it gave way to.
        What was `kept` with one has it still: its seal may be on its way.
        """

        def blinded(item: Judged) -> Judged:
            if item.blind != NO_BLIND and item in kept:
                return item
            plain = replace(item, blind=NO_BLIND)
            where = (stage.task.id, stage.round.number)
            return replace(plain, blind=self._secret((*where, pack(plain))))

        return tuple(blinded(item) for item in items)

    def _require_secret(self, bound: Commitment) -> Digest:
        """What we committed to; raises `Refused("peer.secret")` if our key was rotated since.

        It would be refused in the reveal: no row is read for it, and no score reserved.
        """
        secret = self._secret((bound.task, bound.round))
        if commitment(bound.task, bound.round, bound.verifier, secret) != bound.commitment:
            raise Refused(
                "peer.secret",
                f"expected the secret that this verifier committed to in round {bound.round}, "
                "found another, as after its key was rotated: it has no voice in this round",
            )
        return secret

    async def _scores_left(self, site: Site) -> int:
        """How many scores on our rows may still be published, by the chain's proven count."""
        dataset = await self._board.record(Dataset, site.dataset)
        assert dataset is not None, "a task names registered datasets"
        holdout = await self._board.record(Holdout, site.dataset)
        return max(0, dataset.scores_max - (0 if holdout is None else holdout.scores))

    async def _is_approved(
        self, stage: Stage, site: Site, reader: Board | Client | None = None
    ) -> bool:
        """Whether the site still stands by the task; it may have withdrawn since we committed."""
        reader = reader or self._board
        try:
            await require_standing(self._approvals, reader, stage.task, site.organisation)
        except Refused as refused:
            if refused.code not in NO_PART:
                raise
            return False
        return True

    async def _unless_withdrawn(
        self, stage: Stage, site: Site, work: Coroutine[Any, Any, T]
    ) -> T | None:
        """What `work` gives; None if it was cut off as the site does not stand by the task."""
        part = (self._approvals, self._board, stage.task, site.organisation)
        try:
            return await while_wanted(work, partial(require_not_withdrawn, *part))
        except Refused as refused:
            if refused.code not in NO_PART:
                raise
            return None

    async def _binds(self, stage: Stage, site: Site, sealed: Digest) -> bool:
        """Whether the site stood by the task when its seal was on the chain, as it is now.

        What it says is kept, for it may withdraw before the reveal. A seal can arrive long after
        it was sent: one that was overtaken by a withdrawal opens nothing that was found on rows.
        """
        # Past the board, which may have read it before the seal.
        if await self._is_approved(stage, site, self._board.client):
            await asyncio.to_thread(self._drawer.bind, stage.task.id, sealed)
            return True
        return await asyncio.to_thread(self._drawer.is_bound, stage.task.id, sealed)

    async def _stands(self, stage: Stage, site: Site) -> bool:
        """Whether the site's approval stands on the chain."""
        found = await self._board.record(SiteApproval, stage.task.id, site.organisation)
        return found is not None and found.stands

    async def _abstain(self, stage: Stage, site: Site) -> tuple[Judged, ...]:
        """Keep the word that we gave, without a look at the rows of a site that has withdrawn."""
        found = Judgement(
            Decision.ABSTAIN, WITHDRAWN, "the verifier's site does not stand by the task"
        )
        return tuple(
            judged(update, found, None, None)
            for update in await self._updates(stage)
            if update.organisation != site.organisation
        )

    async def _reveal(self, stage: Stage, site: Site, sealed: Digest) -> None:
        body = await asyncio.to_thread(self._drawer.get, stage.task.id, stage.round.number)
        if body is None:
            raise Refused(
                "peer.sealed_lost",
                "expected the judgements that this verifier has sealed in its store, found none: "
                f"it cannot reveal them in round {stage.round.number}",
            )
        if not _is_withdrawn(body) and not await self._binds(stage, site, sealed):
            raise Refused(
                "peer.withdrawn",
                f"expected the seal of round {stage.round.number} on the chain before this site "
                "withdrew, found it there only since: what was found on its rows is not revealed",
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
        found = None
        if await self._is_approved(stage, site):  # else its word stands, and it looks at no row
            again = self._replay_again(stage, update, named)
            found = await self._unless_withdrawn(stage, site, again)
        await self._submitter.submit("learning.rerun", rerun_body(mine, update, found, named))

    async def _replay_again(
        self, stage: Stage, update: Update, named: Sequence[int]
    ) -> Judgement | None:
        try:
            blob = await self._exchange.fetch(update.blob, update.blob_bytes)
            return await self._replay(stage, update, blob, named, None)
        finally:
            await self._exchange.forget(update.blob)

    async def _updates(self, stage: Stage) -> list[Update]:
        """Each by its key, for a list proves its records but not that none was left out."""
        key, sites = (stage.task.id, stage.round.number), stage.task.terms.sites
        found = await asyncio.gather(
            *(self._board.record(Update, *key, site.organisation) for site in sites)
        )
        updates = [update for update in found if update is not None]
        if len(updates) != stage.round.updates:  # a node lags; a seal cannot be undone
            raise Refused(
                "peer.updates",
                f"expected {stage.round.updates} updates in round {stage.round.number}, "
                f"found {len(updates)}",
            )
        return updates

    async def _verdicts(self, stage: Stage, update: Update) -> list[Verdict]:
        sites = stage.task.terms.sites
        found = await asyncio.gather(
            *(self._board.record(Verdict, *update.key, site.organisation) for site in sites)
        )
        return [verdict for verdict in found if verdict is not None]

    async def _judge(self, stage: Stage, site: Site) -> tuple[Judged, ...]:
        updates = await self._updates(stage)
        mine = [update for update in updates if update.organisation != site.organisation]
        try:
            blobs = await self._fetch(stage, updates)
            rows, parts = await self._rowkeeper.rows(self._board, stage, site)
            base = await self._bases.fetch(stage.base)
            deltas = await asyncio.to_thread(deltas_of, stage, updates, blobs)
            case = await asyncio.to_thread(case_of, stage, base, rows.take(parts.scoring), deltas)
            near = await asyncio.to_thread(nearest, deltas)
            found = await asyncio.to_thread(judge_all, case, mine, blobs)
            found = await asyncio.gather(
                *(
                    self._keep(stage, judgement, blobs.get(update.organisation))
                    for update, judgement in zip(mine, found, strict=True)
                )
            )
            profiles = profiles_of(stage, mine, found, blobs)
            # All at once: a trainer that does not open costs the others' updates no time.
            confirmed = await asyncio.gather(
                *(
                    self._confirm(stage, update, judgement, blobs, profiles)
                    for update, judgement in zip(mine, found, strict=True)
                )
            )
            worth = await asyncio.to_thread(
                contributions,
                case,
                stage,
                site,
                updates,
                passing(mine, confirmed),
                blobs,
            )
            return tuple(
                judged(
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
            async with self._transfers:
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
        suspect = partial(suspicion, stage, update.organisation, profiles)
        blob, drawn = blobs[update.organisation], self._drawn(stage, update)
        return await self._replay(stage, update, blob, drawn, suspect) or found

    def _drawn(self, stage: Stage, update: Update) -> tuple[int, ...]:
        """The segments that our secret draws of an update."""
        task, number = stage.task.id, stage.round.number
        assert stage.round.seed is not None, "submissions have ended"
        return draw(
            stage.round.seed,
            update.transaction,
            self._secret((task, number)),
            update.segments,
            stage.task.terms.replay.segments,
        )

    async def _fetch(self, stage: Stage, updates: list[Update]) -> dict[str, bytes]:
        """The blobs by organisation; those that nobody gives are left out once time runs short."""

        async def fetch(update: Update) -> bytes | Refused:
            async with self._transfers:
                try:
                    return await self._exchange.fetch(update.blob, update.blob_bytes)
                except Refused as refused:
                    return refused

        found = await asyncio.gather(*(fetch(update) for update in updates))
        missing = next((item for item in found if isinstance(item, Refused)), None)
        if missing is not None and self._may_wait(stage):
            raise missing
        return {
            update.organisation: item
            for update, item in zip(updates, found, strict=True)
            if isinstance(item, bytes)
        }

    def _may_wait(self, stage: Stage) -> bool:
        """Whether there is time to try again; our wall clock may be wrong, so waiting counts."""
        wait_ms = stage.task.terms.verdict_ms * BLOB_WAIT_PERCENT // 100
        id, number, now_ms = stage.task.id, stage.round.number, self._clock_ms()
        known, since_ms = self._since_ms.get(id, (0, 0))
        if known != number:
            self._since_ms[id] = (number, now_ms)
            return True
        return now_ms - since_ms < wait_ms


def _is_withdrawn(body: RevealVerdicts) -> bool:
    """Whether it says that the site does not stand by the task, and nothing of its rows."""
    return any(item.code == WITHDRAWN for item in body.judgements)
