"""What a hospital's trainer opens to verifiers, if its site and its dataset's record permit it.

It connects out to its own organisation's validator, waits there for what verifiers ask, and brings
it. Snapshots come from the trace on disk; those between are made again. What cannot be brought
now is tried again until the round is judged.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from fl.dataset import leaves
from fl.fixed import Ints
from fl.model import Rows, prepare
from fl.opening import Opening, Part, pack_opening, pack_part, part_origin
from fl.replay import open_segment
from fl.sampling import split
from fl.trace import origin, root
from fl.train import Job, Snapshot, first, regenerate
from fl.weights import unpack_weights
from node.client.board import Board
from node.peer.approval import NO_PART, Approvals, require_not_withdrawn, require_standing
from node.peer.bases import Bases
from node.peer.site import LocalData
from node.peer.stage import Stage, find_stage
from node.peer.traces import Trace, TraceStore
from node.peer.watch import while_wanted
from node.wire.openings import Piece, Rendezvous, segment_of
from vm.learning import RoundPhase, Update
from vm.record import Dataset
from vm.refusal import Refused
from vm.terms import Evidence, Preprocessing

OPENING_PHASES = (RoundPhase.VERDICT, RoundPhase.REVEAL, RoundPhase.RERUN)

ASK_S = 0.1  # before a validator is asked again that stands at another block: as long as one takes

Meet = Callable[[str], Awaitable[Rendezvous]]  # an organisation's validator

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One round's training as it is shown: everything that a piece is made of."""

    stage: Stage
    update: Update
    trace: Trace
    base: Ints
    data: LocalData
    part: Part
    rows: Rows

    def pack(self, piece: Piece) -> bytes:
        """The file of a piece; raises `Refused("training.regenerated")`."""
        update = self.update
        segment = segment_of(piece)
        if segment is None:
            where = part_origin(update.task, update.trainer, update.dataset)
            return pack_part(where, self.part)
        opening = self.opening(self.snapshot(segment), self.snapshot(segment + 1))
        return pack_opening(self.job.spec, self.job.training, origin(update), opening)

    def opening(self, before: Snapshot, after: Snapshot) -> Opening:
        """The segment between two snapshots, with its rows."""
        data = self.data
        return open_segment(self.job, before, after, data.table, data.secret, self.part.train)

    def snapshot(self, count: int, known: Snapshot | None = None) -> Snapshot:
        """The snapshot after so many segments, made again from an earlier one if it is not kept.

        `known` is an earlier one that is at hand. Raises `Refused("training.regenerated")`.
        """
        found = self.trace.nearest(count) or first(self.job, self.base)
        if known is not None and len(known.segments) > len(found.segments):
            found = known
        return regenerate(self.job, self.base, found, self.rows, self.trace.segments(), count)

    @property
    def job(self) -> Job:
        """What fixed the round's training."""
        base, stage = self.stage.base, self.stage
        return Job(
            base.spec,
            base.grid_bits,
            stage.task.terms.training,
            stage.round.beacon,
            self.update.dataset,
        )


class Opener:
    """Answers verifiers of this hospital's updates while they are judged."""

    def __init__(
        self,
        board: Board,
        member: str,
        bases: Bases,
        load: Callable[[Preprocessing], LocalData],
        approvals: Approvals,
        traces: TraceStore,
        meet: Meet,
        *,
        opening: bool,
    ) -> None:
        """`member` is the trainer.

        `opening` is whether the site lets snapshots and rows be opened to verifiers.
        """
        self._board = board
        self._member = member
        self._bases = bases
        self._load = load
        self._approvals = approvals
        self._traces = traces
        self._meet = meet
        self._opening = opening

    async def work(self, task_id: str) -> None:
        """Bring what verifiers want of our update, as long as the task's newest round is judged.

        A piece that is refused, here or there, holds up no other: its `Refused` is raised once no
        other is wanted, and all is tried again.
        """
        stage = await find_stage(self._board, task_id, *OPENING_PHASES)
        if stage is None:
            return
        update = await self._permitted(stage)
        if update is None:
            return
        exhibit, refusals = None, dict[Piece, Refused]()
        async with await self._meet(update.organisation) as meeting:
            while await self._is_judged(stage):
                pieces = await self._wanted(meeting, update)
                if not pieces:
                    continue
                # One, then asked again: what others want meanwhile has its turn.
                piece = next((piece for piece in pieces if piece not in refusals), None)
                if piece is None:
                    raise refusals[pieces[0]]
                exhibit = exhibit or await self._prepare(stage, update)
                try:
                    await self._bring(meeting, exhibit, piece)
                except Refused as refused:
                    if refused.code in NO_PART:
                        raise
                    refusals[piece] = refused

    async def _bring(self, meeting: Rendezvous, exhibit: Exhibit, piece: Piece) -> None:
        stage, update = exhibit.stage, exhibit.update
        content = await asyncio.to_thread(exhibit.pack, piece)
        await self._require_part(stage, update)  # rows of this site: ask each time
        look = partial(self._require_not_withdrawn, stage, update)
        await while_wanted(meeting.open(update.task, update.round, piece, content), look)
        log.info("piece.opened", task=update.task, round=update.round, piece=piece)

    async def _wanted(self, meeting: Rendezvous, update: Update) -> tuple[Piece, ...]:
        try:
            return await meeting.wanted(update.task, update.round)
        except Refused as refused:
            if refused.code != "opening.phase":
                raise
            await asyncio.sleep(ASK_S)  # it is a block ahead of us, or behind
            return ()

    async def _require_part(self, stage: Stage, update: Update) -> None:
        organisation = update.organisation
        await require_standing(self._approvals, self._board, stage.task, organisation)

    async def _require_not_withdrawn(self, stage: Stage, update: Update) -> None:
        organisation = update.organisation
        await require_not_withdrawn(self._approvals, self._board, stage.task, organisation)

    async def _permitted(self, stage: Stage) -> Update | None:
        """Our update of the round if it may be opened; None if nobody may ask for that.

        Raises `Refused("peer.opening")` where the task asks for more than this site permits.
        """
        sites = stage.task.terms.sites
        site = next((site for site in sites if site.trainer == self._member), None)
        if site is None:
            return None
        update = await self._board.record(
            Update, stage.task.id, stage.round.number, site.organisation
        )
        if update is None or update.evidence is not Evidence.REPLAYED:
            return None
        await self._require_part(stage, update)
        dataset = await self._board.record(Dataset, site.dataset)
        if not self._opening or dataset is None or not dataset.opening:
            raise Refused(
                "peer.opening",
                f"expected the site's `opening` and the record of {site.dataset} to permit "
                f"opening round {stage.round.number} of {stage.task.id}, found that they do not: "
                "nothing is opened",
            )
        return update

    async def _is_judged(self, stage: Stage) -> bool:
        found = await find_stage(self._board, stage.task.id, *OPENING_PHASES)
        return found is not None and found.round.number == stage.round.number

    async def _prepare(self, stage: Stage, update: Update) -> Exhibit:
        """Everything that pieces are made of; raises `Refused("peer.trace_missing")`.

        Rows that have changed since are opened in vain: their leaves are not the registered ones.
        """
        trace = await asyncio.to_thread(self._traces.find, update.task, update.round)
        if trace is None or root(origin(update), trace.segments()) != update.trace:
            raise Refused(
                "peer.trace_missing",
                f"expected the trace of round {update.round} of {update.task} in the store, found "
                "none or another: it cannot be opened, and verifiers will abstain",
            )
        data = await asyncio.to_thread(self._load, stage.task.terms.preprocessing)
        spec, bits = stage.base.spec, stage.base.grid_bits
        base = unpack_weights(spec, bits, await self._bases.fetch(stage.base))
        return await asyncio.to_thread(exhibit_of, stage, update, trace, base, data)


def exhibit_of(stage: Stage, update: Update, trace: Trace, base: Ints, data: LocalData) -> Exhibit:
    """One round's training, with this hospital's rows prepared and parted."""
    train = split(data.secret, data.table.labels).train
    part = Part(leaves(data.table, data.secret), train)
    preprocessing = stage.task.terms.preprocessing
    rows = prepare(stage.base.spec, preprocessing, data.table, part.leaves)
    return Exhibit(stage, update, trace, base, data, part, rows.take(train))
