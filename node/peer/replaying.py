"""A verifier's replay: asks for openings, trains them again, ends in a judgement in time.

The trainer's organisation may be slow, cut off, or unwilling; its validator may lie. So there are
two times, both shares of the phase: how long nothing may have come, and when it ends in any case.
Whatever is served and is not what the trainer committed to proves nothing: it counts as not
opened, and the verifier abstains. Only a contradiction within what was committed to is a fail.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog

from fl.opening import (
    check_part,
    opening_size,
    part_origin,
    part_size,
    rows_max,
    rows_opened_max,
    unpack_opening,
    unpack_part,
)
from fl.replay import Claim, Replayed, check_batches, replay, rows_drawn
from fl.trace import Broken, origin
from fl.train import Job, segment_batches
from fl.verify import Judgement
from fl.weights import unpack_update, unpack_weights
from node.client.board import Board
from node.peer.bases import Bases
from node.peer.stage import Stage
from node.wire.blobs import BlobStore
from node.wire.openings import PART, Pending, Piece, Rendezvous
from vm.learning import Decision, RoundPhase, Update
from vm.record import Dataset
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX

QUIET_PERCENT = 35  # of the phase: as long as that nothing more may have come of an update
END_PERCENT = 75  # of the phase: then it ends with what there is, so that the seal is in time
ASK_FIRST_S = (
    0.05  # between two times that the same pieces are asked for: a small one is soon there
)
ASK_S = 0.5  # the same, doubled each time until nothing has come for a while
REPLAYS_MAX = 2  # at a time: more would only share the same cores and fill the memory

Meet = Callable[[str], Awaitable[Rendezvous]]  # an organisation's validator
Suspect = Callable[[Sequence[Replayed]], str | None]  # why to replay all; None for no reason

T = TypeVar("T")

log = structlog.get_logger()


class Unknown(Refused):
    """What an update is worth was not found out in time: `replay.not_opened` or `.no_time`."""


@dataclass(slots=True)
class Patience:
    """How long one update's openings are waited for, in milliseconds of a steady clock."""

    clock_ms: Callable[[], int]
    quiet_ms: int
    end_ms: int  # by the clock
    since_ms: int = field(init=False)  # when something came last
    brought: int = 0  # the most chunks that the validator said to have of the update
    fetched: dict[Piece, int] = field(default_factory=dict)  # the most that came from there

    def __post_init__(self) -> None:
        self.since_ms = self.clock_ms()

    def note(self, piece: Piece, pending: Pending) -> None:
        """So many chunks have come: only more than ever before is progress."""
        if pending.brought > self.brought or pending.fetched > self.fetched.get(piece, 0):
            self.since_ms = self.clock_ms()
        self.brought = max(self.brought, pending.brought)
        self.fetched[piece] = max(self.fetched.get(piece, 0), pending.fetched)

    def work_done(self) -> None:
        """Our own work took the time since, not the trainer."""
        self.since_ms = self.clock_ms()

    @property
    def left_ms(self) -> int:
        """Until the end."""
        return max(0, self.end_ms - self.clock_ms())

    @property
    def is_over(self) -> bool:
        """Whether waiting any longer is in vain."""
        return not self.left_ms or self.clock_ms() - self.since_ms >= self.quiet_ms


class Replaying:
    """Replays segments of others' updates, as one verifier."""

    def __init__(
        self,
        board: Board,
        bases: Bases,
        store: BlobStore,
        meet: Meet,
        clock_ms: Callable[[], int],
    ) -> None:
        """`store` keeps what comes until it is whole; `clock_ms` is steady."""
        self._board = board
        self._bases = bases
        self._store = store
        self._meet = meet
        self._clock_ms = clock_ms
        self._places = asyncio.Semaphore(REPLAYS_MAX)
        self._visits = 0  # under way
        self._ends: dict[tuple[str, int, RoundPhase], int] = {}  # by the steady clock, in ms

    async def judge(
        self,
        stage: Stage,
        update: Update,
        blob: bytes,
        segments: Sequence[int],
        suspect: Suspect | None = None,
    ) -> Judgement | None:
        """Replay these segments, and all if what they showed is suspicious; None if all passed.

        `blob` is the update's file, whose trace has passed `fl.trace.check_trace`.
        """
        passed: dict[int, Replayed] = {}
        self._visits += 1
        try:
            async with await self._meet(update.organisation) as meeting:
                visit = _Visit(meeting, self._store, self._places, await self._patience(stage))
                claim = await self._claim(visit, stage, update, blob)
                await visit.replay(claim, update, segments, passed)
                reason = suspect(list(passed.values())) if suspect else None
                if reason is not None:
                    log.info("update.suspicious", **_whose(update), reason=reason)
                    rest = [index for index in range(update.segments) if index not in passed]
                    await visit.replay(claim, update, rest, passed)
        except Broken as broken:
            return Judgement(Decision.FAIL, broken.code, _note(broken.message), broken.segment)
        except Unknown as unknown:
            return Judgement(Decision.ABSTAIN, unknown.code, _note(unknown.message))
        except Refused as refused:  # also what was served in place of what was committed to
            return Judgement(Decision.ABSTAIN, "replay.not_opened", _note(str(refused)))
        finally:
            log.info("update.replayed", **_whose(update), segments=sorted(passed))
            self._visits -= 1
            if not self._visits:
                await asyncio.to_thread(self._forget)
        return None

    def _forget(self) -> None:
        """Delete what never came whole: others' rows are here no longer than work on them."""
        for address in self._store.addresses():
            self._store.delete(address)

    async def _claim(self, visit: "_Visit", stage: Stage, update: Update, blob: bytes) -> Claim:
        """What openings are held against, once the part shows that the batches are right."""
        dataset = await self._board.record(Dataset, update.dataset)
        assert dataset is not None, "an update names a registered dataset"
        terms, spec, bits = stage.task.terms, stage.base.spec, stage.base.grid_bits
        base = unpack_weights(spec, bits, await self._bases.fetch(stage.base))
        rows = rows_max(dataset)
        data = await visit.take(update, PART, part_size(rows, rows))
        part = unpack_part(part_origin(update.task, update.trainer, update.dataset), data)
        check_part(part, dataset.root, update.data)
        claim = Claim(
            job=Job(spec, bits, terms.training, stage.round.beacon, update.dataset),
            preprocessing=terms.preprocessing,
            replay=terms.replay,
            base=base,
            segments=unpack_update(spec, bits, origin(update), update.segments, blob)[1],
            part=part,
        )
        await visit.run(partial(check_batches, claim))
        return claim

    async def _patience(self, stage: Stage) -> Patience:
        """Since this verifier has seen the phase, or by the chain's time if that is longer."""
        terms, rnd = stage.task.terms, stage.round
        phase_ms = terms.verdict_ms if rnd.phase is RoundPhase.VERDICT else terms.reveal_ms
        key, now_ms = (rnd.task, rnd.number, rnd.phase), self._clock_ms()
        if key not in self._ends:
            past_ms = (await self._board.client.header()).time_ms - (rnd.deadline_ms - phase_ms)
            self._ends = {known: end for known, end in self._ends.items() if known[0] != rnd.task}
            self._ends[key] = now_ms - max(0, past_ms) + phase_ms * END_PERCENT // 100
        return Patience(self._clock_ms, phase_ms * QUIET_PERCENT // 100, self._ends[key])


class _Visit:
    """One update's pieces as they come from its organisation's validator."""

    def __init__(
        self,
        meeting: Rendezvous,
        store: BlobStore,
        places: asyncio.Semaphore,
        patience: Patience,
    ) -> None:
        self._meeting = meeting
        self._store = store
        self._places = places
        self._patience = patience
        self._pauses_s = pauses_s()

    async def take(self, update: Update, piece: Piece, bytes_max: int) -> bytes:
        """One piece, waited for; raises `Unknown("replay.not_opened")`."""
        while (content := await self._ask(update, piece, bytes_max)) is None:
            await self._wait(update, piece)
        return content

    async def replay(
        self, claim: Claim, update: Update, segments: Sequence[int], passed: dict[int, Replayed]
    ) -> None:
        """Replay segments in whatever order they come, noting those that passed.

        Raises `Broken("replay.*")`, `Refused("opening.*")` and `Unknown`.
        """
        training, columns = claim.job.training, len(claim.preprocessing.columns)
        rows = rows_opened_max(training, len(claim.part.train))
        waiting = list(segments)
        while waiting:
            missing = []
            for index in waiting:
                size = opening_size(claim.job.spec, training, index, rows, columns)
                content = await self._ask(update, str(index), size)
                if content is None:
                    missing.append(index)
                else:
                    passed[index] = await self.run(partial(_replay, claim, update, index, content))
            if len(missing) == len(waiting):
                await self._wait(update, str(missing[0]))
            waiting = missing

    async def run(self, work: Callable[[], T]) -> T:
        """The outcome of `work` in a thread; raises `Unknown("replay.no_time")`.

        A thread that is too late ends with its segment, unheard.
        """
        async with self._places:
            thread = asyncio.ensure_future(asyncio.to_thread(work))
            await asyncio.wait([thread], timeout=self._patience.left_ms / 1_000)
            if not thread.done():
                thread.add_done_callback(_unheard)
                raise Unknown(
                    "replay.no_time", "expected replay to end in time, found it under way"
                )
        self._patience.work_done()
        return thread.result()

    async def _ask(self, update: Update, piece: Piece, bytes_max: int) -> bytes | None:
        """A piece if it is there."""
        where = update.task, update.round, update.organisation, piece
        try:
            found = await self._meeting.take(*where, self._store, bytes_max)
        except Refused as refused:  # nobody there, or not yet at this block: time may cure it
            log.debug("piece.refused", **_whose(update), piece=piece, code=refused.code)
            return None
        if isinstance(found, Pending):
            self._patience.note(piece, found)
            return None
        self._pauses_s = pauses_s()
        return found

    async def _wait(self, update: Update, piece: Piece) -> None:
        if self._patience.is_over:
            raise Unknown(
                "replay.not_opened",
                f"expected {update.organisation} to open {piece} in time, found that it did not",
            )
        await asyncio.sleep(next(self._pauses_s))


def pauses_s() -> Iterator[float]:
    """How long to wait before the same pieces are asked for again, as long as none comes."""
    pause_s = ASK_FIRST_S
    while True:
        yield min(pause_s, ASK_S)
        pause_s = min(2 * pause_s, ASK_S)


def _replay(claim: Claim, update: Update, index: int, content: bytes) -> Replayed:
    job = claim.job
    rows = len(rows_drawn(segment_batches(job, index, len(claim.part.train))))
    columns = len(claim.preprocessing.columns)
    opening = unpack_opening(job.spec, job.training, origin(update), index, rows, columns, content)
    return replay(claim, opening)


def _unheard(thread: asyncio.Future[T]) -> None:
    if not thread.cancelled():
        thread.exception()


def _whose(update: Update) -> dict[str, object]:
    return {"task": update.task, "round": update.round, "organisation": update.organisation}


def _note(message: str) -> str:
    """As much of a message as fits a verdict; words may be a stranger's."""
    return "".join(letter for letter in message if " " <= letter <= "~")[:NOTE_BYTES_MAX]
