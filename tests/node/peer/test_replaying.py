"""A verifier's replay: what it asks for, what it finds out, and that it ends in time."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.fixed import Ints, norm
from fl.model import Rows, build
from fl.opening import Part, pack_part, part_origin, unpack_part
from fl.replay import Replayed
from fl.trace import segment_count
from fl.train import Job, Keep, OnStep, Result, Snapshot, first, run_segment, train
from fl.weights import digest_ints
from node.peer import replaying
from node.peer.replaying import END_PERCENT, QUIET_PERCENT, Patience
from node.wire.blobs import OURS
from node.wire.cid import CHUNK_BYTES, split, summarise
from node.wire.openings import PART, Pending
from tests.fl.dialogue import REVEAL_MS, TASK, VERDICT_MS
from tests.harness import organisation
from tests.node.hospital import Town
from tests.node.peer.hall import Hall, judged
from vm.digest import WEIGHTS
from vm.learning import Decision, RoundPhase
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX, pack

HOME = organisation(1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is the hall's: asking again waits for nothing."""
    monkeypatch.setattr(replaying, "ASK_S", 0.0)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """All four hospitals have trained honestly; no test changes what is on its chain."""
    return judged(tmp_path_factory.mktemp("town")).town


@pytest.fixture
def hall(town: Town) -> Hall:
    """Before anybody asked."""
    return Hall(town)


def fabricated(segment: int) -> Callable[..., Result]:
    """Honest training but for one segment, whose end is made up: nobody trained to it.

    Its snapshots, digests and moves all fit each other, as those of a careful cheat do.
    """

    def cheat(
        job: Job,
        base: Ints,
        rows: Rows,
        on_step: OnStep | None = None,
        *,
        start: Snapshot | None = None,
        keep: Keep | None = None,
    ) -> Result:
        last, module = first(job, base), build(job.spec)
        for index in range(segment_count(job.training)):
            one = run_segment(job, module, base, index, last, rows)
            weights = one.weights + np.int32(1_000 if index == segment else 0)
            made = replace(
                one.segments[index],
                weights=digest_ints(WEIGHTS, weights),
                move=norm(weights.astype(np.int64) - last.weights),
            )
            last = Snapshot(weights, one.state, (*last.segments, made), one.losses)
            if keep is not None:
                keep(index + 1, last)
        delta = last.weights - base
        return Result(delta, norm(delta), last.segments, last.losses)

    return cheat


def test_honest_segments_pass(hall: Hall) -> None:
    """The verifier asks for the part and for what it drew, and for nothing else."""
    assert asyncio.run(hall.judge(1, 3)) is None
    assert set(hall.asked) == {PART, "1", "3"}


@pytest.mark.parametrize("forged", [0, 2])
def test_a_segment_that_nobody_trained_is_named(tmp_path: Path, forged: int) -> None:
    """The segments before and after it replay; this one does not."""
    hall = judged(tmp_path, first=fabricated(forged))

    found = {index: asyncio.run(hall.judge(index)) for index in range(4)}

    broken = found.pop(forged)
    assert broken is not None
    assert (broken.decision, broken.code, broken.segment) == (
        Decision.FAIL,
        "replay.result",
        forged,
    )
    assert set(found.values()) == {None}


def test_batches_that_the_beacon_did_not_draw(tmp_path: Path) -> None:
    """The part shows it in every segment, whichever was drawn, and no row need be opened."""

    def cheat(job: Job, *rest: Any, **more: Any) -> Result:
        return train(replace(job, beacon=bytes(32)), *rest, **more)

    hall = judged(tmp_path, first=cheat)

    found = asyncio.run(hall.judge(3))

    assert found is not None
    assert (found.decision, found.code, found.segment) == (Decision.FAIL, "replay.batches", 0)
    assert set(hall.asked) == {PART}


# Suspicion


def test_suspicion_replays_everything(tmp_path: Path) -> None:
    """The drawn segment is honest, the forged one is found all the same."""
    hall = judged(tmp_path, first=fabricated(2))
    seen: list[list[Replayed]] = []

    def suspect(replayed: Any) -> str:
        seen.append(list(replayed))
        return "an outlying move"

    found = asyncio.run(hall.judge(0, suspect=suspect))

    assert seen == [[Replayed(0, 0, 0)]]
    assert found is not None
    assert (found.code, found.segment) == ("replay.result", 2)


def test_suspicion_of_an_honest_trainer_accuses_nobody(hall: Hall) -> None:
    """It costs the verifier work: each segment is asked for once."""
    assert asyncio.run(hall.judge(1, suspect=lambda _: "a high loss")) is None
    assert sorted(hall.asked) == ["0", "1", "2", "3", PART]


def test_no_suspicion_no_more_work(hall: Hall) -> None:
    """What was drawn is enough."""
    assert asyncio.run(hall.judge(1, suspect=lambda _: None)) is None
    assert set(hall.asked) == {PART, "1"}


# What cannot be known


def abstained(hall: Hall, *segments: int, code: str = "replay.not_opened") -> str:
    """The reason of the abstention that replay ends in."""
    found = asyncio.run(hall.judge(*segments))

    assert found is not None
    assert (found.decision, found.code, found.segment) == (Decision.ABSTAIN, code, None)
    assert len(found.reason.encode()) <= NOTE_BYTES_MAX
    return found.reason


def test_a_trainer_that_does_not_open(hall: Hall) -> None:
    """The verifier abstains after a stated share of the phase, and blames nobody."""
    hall.away = True

    assert HOME in abstained(hall, 1)
    assert hall.now_ms >= VERDICT_MS * QUIET_PERCENT // 100
    assert hall.now_ms < VERDICT_MS * (QUIET_PERCENT + 2) // 100


def test_a_rerun_ends_by_the_time_of_its_own_phase(hall: Hall) -> None:
    """It has the length of the reveal, not of the verdicts."""
    stage, update = hall.stage(), hall.update()
    rerun = replace(stage.round, phase=RoundPhase.RERUN)
    hall.away = True

    found = asyncio.run(
        hall.replaying().judge(
            replace(stage, round=rerun), update, hall.town.blobs[update.blob], (1,)
        )
    )

    assert found is not None
    assert found.code == "replay.not_opened"
    assert REVEAL_MS * QUIET_PERCENT // 100 <= hall.now_ms < REVEAL_MS * (QUIET_PERCENT + 2) // 100


def test_a_trainer_that_opens_some_segments_only(hall: Hall) -> None:
    """What passed does not make up for what was not shown."""
    hall.door = lambda piece, content: Pending(0) if piece == "3" else content

    assert "3" in abstained(hall, 1, 3)


def test_a_trainer_that_trickles(hall: Hall) -> None:
    """A chunk now and then is progress, yet it ends before the phase does."""
    hall.away, held = True, iter(range(1, 10**6))
    take = hall.take

    async def trickle(*where: Any) -> Pending:
        await take(*where)
        return Pending(next(held))

    hall.take = trickle  # type: ignore[method-assign, assignment]
    abstained(hall, 1)

    assert VERDICT_MS * END_PERCENT // 100 <= hall.now_ms < VERDICT_MS * (END_PERCENT + 2) // 100


def test_a_count_of_chunks_that_goes_up_and_down_is_no_progress(hall: Hall) -> None:
    """Whoever lies about what has come gains no time by it."""
    hall.away, told = True, cycle((0, 1))
    take = hall.take

    async def lie(*where: Any) -> Pending:
        await take(*where)
        return Pending(next(told))

    hall.take = lie  # type: ignore[method-assign, assignment]
    abstained(hall, 1)

    assert hall.now_ms < VERDICT_MS * (QUIET_PERCENT + 2) // 100


def test_a_validator_that_is_away_for_a_while(hall: Hall) -> None:
    """Refusals are waited out: it may be restarting, or not yet at this block."""
    hall.refusal = Refused("blob.unreachable", "expected an answer, found none")
    take = hall.take

    async def back_later(*where: Any) -> Any:
        if hall.now_ms > 1_000:
            hall.refusal = None
        hall.clock_ms()
        return await take(*where)

    hall.take = back_later  # type: ignore[method-assign, assignment]

    assert asyncio.run(hall.judge(1, 3)) is None


def test_a_validator_that_stays_away(hall: Hall) -> None:
    """As a trainer that does not open."""
    hall.refusal = Refused("blob.unreachable", "expected an answer, found none")

    abstained(hall, 1)


def test_an_organisation_whose_validator_nobody_knows(hall: Hall) -> None:
    """The reason says so; a stranger's words go into no verdict."""
    odd = Refused("peer.no_validator", "expected one\x00\n\u2028\ud800, found none" + "x" * 500)

    async def nobody(organisation: str) -> Any:
        raise odd

    hall.meet = nobody  # type: ignore[method-assign]

    assert abstained(hall, 1).startswith("peer.no_validator: expected one, found none")


def other_piece(hall: Hall, piece: str) -> bytes:
    """What the trainer opens of another piece."""
    hall.wanted_pieces.append(piece)
    asyncio.run(hall.answer())
    return hall.opened[piece]


@pytest.mark.parametrize(
    "lie",
    [
        lambda hall: other_piece(hall, "2"),
        lambda hall: other_piece(hall, "1")[:-1],
        lambda hall: other_piece(hall, "1")[:-1] + b"\x07",
        lambda hall: b"",
        lambda hall: bytes(len(other_piece(hall, "1"))),
    ],
)
def test_a_lying_validator_can_only_deny(hall: Hall, lie: Callable[[Hall], bytes]) -> None:
    """Another piece, a cut one, a changed one: none of it proves anything against the trainer."""
    served = lie(hall)
    hall.door = lambda piece, content: served if piece == "1" else content

    assert abstained(hall, 1).startswith("opening.")


def test_a_validator_that_serves_too_much(hall: Hall) -> None:
    """More than the piece can have is not even fetched."""
    served = other_piece(hall, PART)
    hall.door = lambda piece, content: served if piece == "1" else content

    assert HOME in abstained(hall, 1)


def test_another_piece_in_place_of_the_part(hall: Hall) -> None:
    """The same: without the part nothing can be held against the trainer."""
    served = other_piece(hall, "2")
    hall.door = lambda piece, content: served if piece == PART else content

    assert abstained(hall, 1).startswith("opening.")


def test_a_part_with_other_rows_trained_on(hall: Hall) -> None:
    """The update commits to its training rows: those of the part must be the same."""
    origin = part_origin(TASK, f"{HOME}.trainer", "opt-1")
    part = unpack_part(origin, other_piece(hall, PART))
    lie = pack_part(origin, Part(part.leaves, part.train[1:]))
    hall.door = lambda piece, content: lie if piece == PART else content

    assert abstained(hall, 1).startswith("opening.data")


def test_replay_that_takes_too_long(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier seals in time; the thread ends with its segment."""
    monkeypatch.setattr(Patience, "left_ms", 0)
    monkeypatch.setattr(Patience, "is_over", False)

    abstained(hall, 1, code="replay.no_time")


def test_the_time_of_a_restarted_verifier_is_the_chains(hall: Hall) -> None:
    """What was lost of the phase before it came back counts."""
    hall.past_ms = VERDICT_MS * END_PERCENT // 100
    hall.away = True

    abstained(hall, 1)

    assert hall.now_ms < VERDICT_MS // 100


def test_nothing_of_what_was_opened_stays(hall: Hall) -> None:
    """Another hospital's rows are on this one's disk only while they come."""
    asyncio.run(hall.judge(1, 3))

    assert not list(hall.town.folder.glob("openings-2/*/*"))


def test_nothing_stays_of_a_piece_that_never_came_whole(hall: Hall) -> None:
    """Attack: a validator that gives a part of rows, each time of another blob, and then no more.

    They would lie here until a restart, and push out pieces that others are bringing.
    """

    async def stall(*where: Any) -> Pending:
        content = hall.clock_ms().to_bytes(8, "big") + bytes(CHUNK_BYTES)
        found, manifest = summarise(split(content))
        where[4].begin(found, pack(manifest), OURS)
        where[4].put(found, 0, content[:CHUNK_BYTES])
        return Pending(0, fetched=1)

    hall.take = stall  # type: ignore[method-assign, assignment]

    abstained(hall, 1)

    assert not list(hall.town.folder.glob("openings-2/*/*"))


def test_pieces_are_asked_for_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one is there in a moment; a trainer that is away is not asked ten times a second."""
    monkeypatch.setattr(replaying, "ASK_S", 0.5)

    assert list(islice(replaying.pauses_s(), 6)) == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
