"""The trace of a round's training: what a trainer commits to, segment by segment.

A segment is the training between two snapshots. Its leaf binds who trained, on what, and where
each segment ended, after rounding to the grid; the root of all leaves is in the transaction, so
none of it can be made up once a verifier asks (design, section 5).

A segment's move is the floor of its Euclidean norm in grid units, as `Update.norm` is, and not the
square: the square of 2^25 coordinates of 32 bits needs 87 bits, which the encoding does not hold.
The floor is 0 exactly if nothing moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vm import tree
from vm.digest import ORIGIN, SEGMENT, digest
from vm.encoding import encode
from vm.learning import Update
from vm.refusal import Refused
from vm.shape import Count, Digest
from vm.terms import Evidence, Optimizer, Training


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as published: digests of weights and optimizer state at its end, and of batches.

    `batches` commits to the salted leaves of the rows in each step, `move` is in grid units.
    """

    VERSION: ClassVar[int] = 1

    weights: Digest
    optimizer: Digest
    batches: Digest
    move: Count


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose training a trace shows: no leaf serves another task, round, trainer or dataset."""

    task: str
    round: int
    trainer: str
    dataset: str


def origin(update: Update) -> Origin:
    """The origin of the trace that an update's record commits to."""
    return Origin(update.task, update.round, update.trainer, update.dataset)


def origin_digest(origin: Origin) -> Digest:
    """What an update's file names its origin by, in as many bytes whatever the names."""
    return digest(ORIGIN, encode((origin.task, origin.round, origin.trainer, origin.dataset)))


def segment_count(training: Training) -> int:
    """Segments of one round: whole ones, as `fl.task` demands."""
    return training.steps // training.snapshot_steps


def state_count(training: Training, parameters: int) -> int:
    """Numbers of an optimizer's state: SGD's velocity; Adam's first moments, then second roots."""
    match training.optimizer:
        case Optimizer.SGD:
            return parameters
        case Optimizer.ADAM:
            return 2 * parameters


def segments_due(training: Training, evidence: Evidence) -> int:
    """Segments that an update of this class has.

    A scored one has no trace: its only segment says where it ends.
    """
    return 1 if evidence is Evidence.SCORED else segment_count(training)


def leaves(origin: Origin, segments: Sequence[Segment]) -> tuple[Digest, ...]:
    """Leaf i is digest(SEGMENT, encode(origin, i, segment i))."""
    return tuple(
        digest(
            SEGMENT,
            encode(
                (
                    origin.task,
                    origin.round,
                    origin.trainer,
                    origin.dataset,
                    index,
                    segment.weights,
                    segment.optimizer,
                    segment.batches,
                    segment.move,
                )
            ),
        )
        for index, segment in enumerate(segments)
    )


def root(origin: Origin, segments: Sequence[Segment]) -> Digest:
    """RFC 6962 root over the segments' leaves."""
    return tree.root(leaves(origin, segments))


class Broken(Refused):
    """A trace that cannot be honest; `segment` is the first that shows it, if one alone does."""

    def __init__(self, code: str, message: str, segment: int | None = None) -> None:
        super().__init__(code, message)
        self.segment = segment


def check_trace(
    origin: Origin,
    segments: Sequence[Segment],
    *,
    count: int,
    claimed: Digest,
    base: Digest,
    final: Digest,
    norm: int,
    move_max: int,
) -> None:
    """Raise `Broken("trace.*")` unless the segments can be the training that led to the update.

    `count` segments are due and `claimed` is the root in the transaction; `base` and `final` are
    digests of the on-chain base model and of base plus update, `norm` is the update's norm, and no
    segment may move further than `move_max`. That the segments were really trained is not shown
    here: only replay shows it.
    """
    # 1. all segments that the task asks for are there
    if len(segments) != count:
        raise Broken("trace.count", f"expected {count} segments, found {len(segments)}")
    # 2. they are the ones that the transaction committed to
    if root(origin, segments) != claimed:
        raise Broken("trace.root", "expected segments under the committed root, found others")
    # 3. the training ends in base + update
    if segments[-1].weights != final:
        last = count - 1
        raise Broken("trace.final", "expected the trace to end in base + update", last)
    # 4. every segment trained, to weights that were not there before, within bounds
    seen = {base}
    for index, segment in enumerate(segments):
        if segment.move == 0:
            raise Broken("trace.zero", f"expected segment {index} to move, found no move", index)
        if segment.weights in seen:
            raise Broken(
                "trace.repeated", f"expected new weights in segment {index}, found old", index
            )
        if segment.move > move_max:
            raise Broken(
                "trace.bound",
                f"expected segment {index} to move at most {move_max}, found {segment.move}",
                index,
            )
        seen.add(segment.weights)
    # 5. the moves can add up to the update: each was floored, so each may be short of 1
    reach = sum(segment.move + 1 for segment in segments)
    if norm >= reach:
        raise Broken("trace.reach", f"expected moves that reach {norm}, found less than {reach}")
