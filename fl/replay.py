"""Replay: a verifier trains one segment again and holds it against what the trainer committed to.

The committed snapshot before the segment, the rows that the beacon draws and the task's recipe give
one snapshot after it (`fl.train`). What a trainer could bend is checked first: the opened snapshots
are the committed ones, the rows are leaves of the registered dataset, in the order of the beacon,
within what the preprocessing makes. What replay cannot see: whether the rows are true, and which
of a dataset's rows the trainer left out of its training part; and whoever finds other weights that
the same steps lead from (arXiv 2208.03567) still has to train those steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl.fixed import CHUNK, Int32s, Ints, distance
from fl.model import Rows, build, prepare
from fl.opening import Opening, Part, open_rows
from fl.preprocess import Table
from fl.sampling import batches
from fl.settle import lower_median
from fl.spec import check_spec
from fl.trace import Broken, Segment, state_count
from fl.train import Batches, Job, Snapshot, advance, batches_digest, segment_batches
from fl.weights import digest_ints
from vm.digest import OPTIMIZER, ROW, WEIGHTS, digest
from vm.encoding import encode
from vm.record import Output
from vm.refusal import Refused
from vm.terms import Preprocessing, Replay

MOVE_FACTOR = 4  # a segment's move so many times above or below the others' median is outlying


@dataclass(frozen=True, slots=True)
class Claim:
    """What all openings of one update are held against.

    `base` are the round's base weights, [parameters]; `segments` are the update's, as
    `fl.trace.check_trace` passed them; `part` is what `fl.opening.check_part` passed.
    """

    job: Job
    preprocessing: Preprocessing
    replay: Replay
    base: Ints
    segments: tuple[Segment, ...]
    part: Part


@dataclass(frozen=True, slots=True)
class Replayed:
    """What replay found: how many coordinates differ, and by how many grid steps at most."""

    segment: int
    differing: int
    worst: int


def rows_drawn(order: Batches) -> tuple[int, ...]:
    """The numbers in these batches, each once and rising: the rows that are opened."""
    return tuple(sorted({number for batch in order for number in batch}))


def open_segment(
    job: Job,
    before: Snapshot,
    after: Snapshot,
    table: Table,
    secret: bytes,
    train: Sequence[int],
) -> Opening:
    """The trainer's opening of the segment between two snapshots.

    `train` are the numbers in `table` of its training rows.
    """
    index = len(before.segments)
    assert len(after.segments) == index + 1, "the snapshots are a segment's two ends"
    drawn = rows_drawn(segment_batches(job, index, len(train)))
    salts, cells = open_rows(table, secret, [train[place] for place in drawn])
    none = np.zeros(0, np.int32)
    return Opening(
        segment=index,
        weights=before.weights if index else none,
        state=before.state if index else none,
        after_weights=after.weights,
        after_state=after.state,
        salts=salts,
        cells=cells,
    )


def check_batches(claim: Claim) -> None:
    """Raise `Broken("replay.batches")` unless all segments saw the batches that the beacon draws.

    The part alone shows it, whatever is opened besides.
    """
    training, part = claim.job.training, claim.part
    leaves = tuple(part.leaves[number] for number in part.train)
    order = batches(
        claim.job.beacon, claim.job.dataset, len(leaves), training.batch_rows, 0, training.steps
    )
    for index, segment in enumerate(claim.segments):
        first = index * training.snapshot_steps
        drawn = order[first : first + training.snapshot_steps]
        if batches_digest(drawn, leaves) != segment.batches:
            raise _other_batches(index)


def replay(claim: Claim, opening: Opening) -> Replayed:
    """Train the opened segment again.

    Raises `Refused("opening.*")` for what the trainer did not commit to, which proves nothing
    against it, and `Broken("replay.*")`, naming the segment, where the committed is no training.
    """
    job, index = claim.job, opening.segment
    # 1. the snapshots are those that the trace commits to; the first is the chain's base
    weights, state = _before(claim, opening)
    after = opening.after_weights, opening.after_state
    _check_snapshot(claim.segments[index], *after, "opening.after")
    # 2. the rows are the dataset's that the beacon draws, in that order
    order, rows = _rows(claim, opening)
    # 3. the move is what it is said to be
    claimed = claim.segments[index].move
    try:
        move = distance(opening.after_weights, weights)
    except Refused as refused:
        raise Broken("replay.move", f"found no move: {refused.message}", index) from refused
    if move != claimed:
        raise Broken("replay.move", f"expected a move of {claimed}, found {move}", index)
    # 4. the steps lead from the one snapshot to the other
    try:
        found = advance(job, build(job.spec), claim.base, index, weights, state, rows, order)
    except Refused as refused:
        raise Broken("replay.result", f"found no training: {refused.message}", index) from refused
    pairs = list(zip(after, found[:2], strict=True))
    return _allow(claim.replay, differences(pairs, index))


def _before(claim: Claim, opening: Opening) -> tuple[Int32s, Int32s]:
    """Weights and state before the segment."""
    if opening.segment == 0:
        state = np.zeros(state_count(claim.job.training, len(claim.base)), np.int32)
        return claim.base.astype(np.int32), state
    weights, state = opening.weights, opening.state
    _check_snapshot(claim.segments[opening.segment - 1], weights, state, "opening.before")
    return weights, state


def _check_snapshot(end: Segment, weights: Int32s, state: Int32s, code: str) -> None:
    """The snapshot is the one committed to as the end of this segment."""
    if digest_ints(WEIGHTS, weights) != end.weights:
        raise Refused(code, "expected the committed weights in a snapshot, found others")
    if digest_ints(OPTIMIZER, state) != end.optimizer:
        raise Refused(code, "expected the committed state in a snapshot, found another")


def _rows(claim: Claim, opening: Opening) -> tuple[Batches, Rows]:
    """The batches by place in the opened rows, and those rows, prepared."""
    index, part = opening.segment, claim.part
    order = segment_batches(claim.job, index, len(part.train))
    numbers = rows_drawn(order)
    leaves = tuple(
        digest(ROW, salt + encode(tuple(cells.tolist())))
        for salt, cells in zip(opening.salts, opening.cells, strict=True)
    )
    if leaves != tuple(part.leaves[part.train[number]] for number in numbers):
        raise Refused("opening.rows", "expected the dataset's rows that are drawn, found others")
    _check_cells(claim, opening)
    places = {number: place for place, number in enumerate(numbers)}
    local = [tuple(places[number] for number in batch) for batch in order]
    if batches_digest(local, leaves) != claim.segments[index].batches:
        raise _other_batches(index)
    inputs = tuple(tuple(row) for row in opening.cells[:, :-1].tolist())
    table = Table(inputs, tuple(opening.cells[:, -1].tolist()))
    return local, prepare(claim.job.spec, claim.preprocessing, table, leaves)


def _other_batches(index: int) -> Broken:
    return Broken(
        "replay.batches", "expected the batches that the beacon draws, found others", index
    )


def _check_cells(claim: Claim, opening: Opening) -> None:
    """Every cell of the registered rows is one that the task's preprocessing makes."""
    columns = claim.preprocessing.columns
    low = np.array([column.low for column in columns], np.int64)
    high = np.array([column.high for column in columns], np.int64)
    inputs, labels = opening.cells[:, :-1], opening.cells[:, -1]
    (logits,) = check_spec(claim.job.spec)
    classes = 2 if claim.job.spec.output is Output.BINARY else logits
    fit = inputs.shape[1:] == low.shape and ((inputs >= low) & (inputs <= high)).all()
    if not (fit and ((labels >= 0) & (labels < classes)).all()):
        raise Broken(
            "replay.cells",
            "expected registered rows within the columns' bounds, found one beyond",
            opening.segment,
        )


def differences(pairs: Sequence[tuple[Int32s, Int32s]], index: int) -> Replayed:
    """How far pairs of vectors of equal length lie apart: what replay of segment `index` found."""
    count = worst = 0
    for claimed, found in pairs:
        for at in range(0, found.size, CHUNK):
            there = claimed[at : at + CHUNK].astype(np.int64)
            off = np.abs(found[at : at + CHUNK] - there)
            count += int(np.count_nonzero(off))
            worst = max(worst, int(off.max()))
    return Replayed(index, count, worst)


def _allow(allowed: Replay, found: Replayed) -> Replayed:
    """What was found, if it is within what the task allows."""
    exact = found.worst <= 1 and found.differing <= allowed.off_by_one_max
    if not exact and found.worst > allowed.tolerance:
        raise Broken(
            "replay.result",
            "expected the committed snapshot after the segment, found "
            f"{found.differing} coordinates off by up to {found.worst} grid steps",
            found.segment,
        )
    return found


def suspicious(
    replayed: Sequence[Replayed],
    moves: Sequence[int],
    others: Sequence[Sequence[int]],
    score_bp: int | None,
    scores: Sequence[int],
    margin_bp: int,
) -> str | None:
    """Why all segments should be replayed after those that were drawn passed; None for no reason.

    `moves` are the update's, [segments], `others` those of the round's other updates; they are held
    against those with as many segments, for a scored update has one. `score_bp` is its score on
    this verifier's rows and `scores` those of the updates that it would pass. Suspicion costs the
    verifier work and accuses nobody.
    """
    if any(one.differing for one in replayed):
        return "a coordinate differs by a grid step"
    alike = [profile for profile in others if len(profile) == len(moves)]
    for index, move in enumerate(moves):
        usual = lower_median([profile[index] for profile in alike])
        if usual is not None and not usual <= move * MOVE_FACTOR <= usual * MOVE_FACTOR**2:
            return f"segment {index} moves {move}, others {usual}"
    usual = lower_median(scores)
    if score_bp is not None and usual is not None and score_bp > usual + margin_bp:
        return f"a log-loss of {score_bp} basis points, others {usual}"
    return None
