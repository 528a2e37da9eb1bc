"""Spoofed proofs: traces of a round that a trainer did not train as the task says.

Each commits to whatever it shows, names the batches that the beacon draws, and keeps within what
`fl.trace.check_trace` lets through if it can. Only the work is missing.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fl.dataset import leaves
from fl.fixed import Int32s, Ints, distance
from fl.model import Rows, build, initial, prepare
from fl.opening import Opening, Part
from fl.preprocess import Table
from fl.replay import MOVE_FACTOR, Claim, open_segment
from fl.sampling import split
from fl.settle import lower_median
from fl.spec import mlp
from fl.trace import Segment, segment_count
from fl.train import Batches, Job, Snapshot, advance, batches_digest, first, segment_batches, train
from fl.weights import digest_ints
from tests.lab.data import Source
from vm.digest import OPTIMIZER, PRF, WEIGHTS, digest
from vm.record import ModelSpec
from vm.shape import Digest
from vm.terms import MICRO, Optimizer, Preprocessing, Replay, Training

End = tuple[Int32s, Int32s]  # weights [parameters] and state [state_count] in grid units
SEGMENTS = 100
QUIET = MOVE_FACTOR - 1  # times the usual move: not outlying yet
EXACT = Replay(segments=7, off_by_one_max=0, tolerance=0)
SGD = Training(
    optimizer=Optimizer.SGD,
    rate=50_000,
    momentum=MICRO // 2,
    beta2=0,
    epsilon_nano=0,
    decay=1_000,
    proximal=0,
    steps=4 * SEGMENTS,
    batch_rows=16,
    snapshot_steps=4,
)
ADAM = replace(
    SGD,
    optimizer=Optimizer.ADAM,
    rate=5_000,
    momentum=9 * MICRO // 10,
    beta2=999 * MICRO // 1_000,
    epsilon_nano=1_000,
)


@dataclass(frozen=True, slots=True)
class Prover:
    """A site that trains, and opens what it trained."""

    job: Job
    preprocessing: Preprocessing
    base: Ints
    table: Table
    secret: bytes
    part: Part

    def rows(self, table: Table | None = None) -> Rows:
        """The training rows; of another table, its cells under the registered leaves."""
        table = table or self.table
        return prepare(self.job.spec, self.preprocessing, table, self.part.leaves).take(
            self.part.train
        )

    def trained(self, job: Job | None = None, rows: Rows | None = None) -> list[End]:
        """What a whole round leads through, the base first."""
        begin = first(self.job, self.base)
        ends: list[End] = [(begin.weights, begin.state)]
        train(
            job or self.job,
            self.base,
            rows or self.rows(),
            keep=lambda _, snapshot: ends.append((snapshot.weights, snapshot.state)),
        )
        return ends

    def segment(
        self, index: int, before: End, rows: Rows, steps: int | None = None, job: Job | None = None
    ) -> End:
        """The end of a segment of which only the first `steps` are trained."""
        order: Batches = segment_batches(self.job, index, len(rows))[:steps]
        job = job or self.job
        return advance(job, build(job.spec), self.base, index, *before, rows, order)[:2]

    def commit(self, ends: Sequence[End]) -> list[Snapshot]:
        """Snapshots with a trace that commits to these ends and to the batches that are due."""
        registered = tuple(self.part.leaves[number] for number in self.part.train)
        segments: list[Segment] = []
        found = [Snapshot(*ends[0], (), ())]
        for index, (weights, state) in enumerate(ends[1:]):
            order = segment_batches(self.job, index, len(registered))
            segments.append(
                Segment(
                    digest_ints(WEIGHTS, weights),
                    digest_ints(OPTIMIZER, state),
                    batches_digest(order, registered),
                    distance(weights, ends[index][0]),
                )
            )
            found.append(Snapshot(weights, state, tuple(segments), ()))
        return found

    def opening(self, trained: Sequence[Snapshot], index: int) -> Opening:
        """A segment as it was committed to, with the registered rows."""
        ends = trained[index], trained[index + 1]
        return open_segment(self.job, *ends, self.table, self.secret, self.part.train)

    def claim(self, trained: Sequence[Snapshot]) -> Claim:
        """What a verifier holds openings against."""
        segments = trained[-1].segments
        return Claim(self.job, self.preprocessing, EXACT, self.base, segments, self.part)


def provers(data: Source, seed: int, training: Training, spec: ModelSpec) -> list[Prover]:
    """The sites of a source in one round of a task, from first weights that the seed gives."""
    base = initial(spec, data.grid_bits, seed)
    beacon = digest(PRF, seed.to_bytes(8, "big"))
    return [
        _prover(data, training, spec, base, beacon, number)
        for number in range(1, len(data.tables) + 1)
    ]


def _prover(
    data: Source, training: Training, spec: ModelSpec, base: Ints, beacon: Digest, number: int
) -> Prover:
    table, name = data.tables[number - 1], f"site-{number:02}"
    secret = digest(PRF, beacon + name.encode())
    return Prover(
        Job(spec, data.grid_bits, training, beacon, f"{name}.{data.name}"),
        data.preprocessing,
        base,
        table,
        secret,
        Part(leaves(table, secret), split(secret, table.labels).train),
    )


@dataclass(frozen=True, slots=True)
class Scene:
    """What the attacker knows: its own round, and all that others have trained.

    `earlier` are the ends of its own round before, `others` those of other sites in this one,
    `stolen` the weights of a model that somebody else trained. `usual` is the move of an honest
    segment in grid units, in the middle.
    """

    own: Prover
    earlier: Sequence[End]
    others: Sequence[Sequence[End]]
    stolen: Int32s
    usual: int
    random: np.random.Generator


@dataclass(frozen=True, slots=True)
class Spoof:
    """Ends of all segments, the base first, and the steps trained for them, of the task's."""

    ends: Sequence[End]
    steps: int


def scene(data: Source, seed: int, training: Training = SGD, hidden: int = 16) -> Scene:
    """One attacker among the sites of a source, in a round that follows an earlier one."""
    spec = mlp(len(data.preprocessing.columns), (hidden,), 2)
    before = provers(data, seed, training, spec)
    earlier = before[0].trained()
    base = before[0].base + (earlier[-1][0] - before[0].base) // 4  # a careful server's step
    beacon = digest(PRF, before[0].job.beacon)
    now = [
        replace(one, base=base, job=replace(one.job, beacon=beacon))
        for one in before  # the same rows and secrets
    ]
    others = [one.trained() for one in now[1:]]
    foreign = replace(now[-1].job, beacon=digest(PRF, beacon))
    moves = [distance(after[0], at[0]) for at, after in pairwise(others[0])]
    return Scene(
        now[0],
        earlier,
        others,
        now[-1].trained(job=foreign)[-1][0],
        lower_median(moves) or 1,
        np.random.default_rng(seed),
    )


def honest(at: Scene) -> Spoof:
    """No spoof: every step is trained."""
    return Spoof(at.own.trained(), at.own.job.training.steps)


def random_ends(at: Scene) -> Spoof:
    """A free rider: each segment is noise as long as others' segments are."""
    start = first(at.own.job, at.own.base)
    ends = [(start.weights, start.state)]
    for _ in range(segment_count(at.own.job.training)):
        ends.append((_off(at, ends[-1][0]), start.state))
    return Spoof(ends, 0)


def nothing(at: Scene) -> Spoof:
    """A free rider: the base, with another coordinate a grid step off in each segment."""
    start = first(at.own.job, at.own.base)
    weights = [start.weights.copy()]
    for index in range(segment_count(at.own.job.training)):
        weights.append(weights[-1].copy())
        weights[-1][index % len(start.weights)] += 1
    return Spoof([(one, start.state) for one in weights], 0)


def copied(at: Scene) -> Spoof:
    """A free rider: another site's trace of this round, under one's own dataset."""
    return Spoof(at.others[0], 0)


def replayed_earlier(at: Scene) -> Spoof:
    """A free rider: one's own earlier round once more, shifted to the new base."""
    shift = at.own.base - at.earlier[0][0]
    return Spoof([((one + shift).astype(np.int32), state) for one, state in at.earlier], 0)


def truncated_round(at: Scene) -> Spoof:
    """The first half of the segments; the rest repeat the last change, ever smaller."""
    whole = segment_count(at.own.job.training)
    return skipped(at, range(whole // 2, whole))


def truncated_segments(at: Scene) -> Spoof:
    """The first half of the steps of each segment."""
    half = at.own.job.training.snapshot_steps // 2
    return _each(at, at.own.job, at.own.rows(), half)


def other_rate(at: Scene) -> Spoof:
    """All steps at twice the rate."""
    return _recipe(at, replace(at.own.job.training, rate=2 * at.own.job.training.rate))


def near_rate(at: Scene) -> Spoof:
    """All steps at the next rate that terms can say: a millionth higher."""
    return _recipe(at, replace(at.own.job.training, rate=at.own.job.training.rate + 1))


def other_data(at: Scene) -> Spoof:
    """All steps on the registered rows' inputs with other labels."""
    table = at.own.table
    flipped = Table(table.rows, tuple(1 - label for label in table.labels))
    return _each(at, at.own.job, at.own.rows(flipped))


def one_row(at: Scene) -> Spoof:
    """All steps on the registered rows but one, whose label is turned."""
    table, place = at.own.table, at.own.part.train[0]
    labels = list(table.labels)
    labels[place] = 1 - labels[place]
    return _each(at, at.own.job, at.own.rows(Table(table.rows, tuple(labels))))


def line(at: Scene) -> Spoof:
    """A straight line from the base to a stolen model."""
    start, whole = first(at.own.job, at.own.base), segment_count(at.own.job.training)
    way = at.stolen - at.own.base
    ends = [
        ((at.own.base + way * place // whole).astype(np.int32), start.state)
        for place in range(whole + 1)
    ]
    return Spoof(ends, 0)


def reused(at: Scene) -> Spoof:
    """One honest segment, and its change again in all that follow, ever smaller."""
    return skipped(at, range(1, segment_count(at.own.job.training)))


def stolen_half(at: Scene) -> Spoof:
    """A line to a stolen model in half of the segments, then honest ones from there."""
    half = segment_count(at.own.job.training) // 2
    return _stolen(at, half)


def stolen_jump(at: Scene) -> Spoof:
    """One leap to a stolen model in segment 0, then honest segments from there."""
    return _stolen(at, 1)


def stolen_quiet(at: Scene) -> Spoof:
    """A line to a stolen model in as few segments as look usual, then honest ones from there."""
    way = distance(at.stolen, at.own.base)
    return _stolen(at, -(-way // (QUIET * at.usual)))


def skipped(at: Scene, segments: Collection[int]) -> Spoof:
    """Honest but for these segments: each repeats the last trained change, ever smaller."""
    start, rows, training = first(at.own.job, at.own.base), at.own.rows(), at.own.job.training
    ends = [(start.weights, start.state)]
    change = _off(at, start.weights) - start.weights  # before anything is trained
    for index in range(segment_count(training)):
        before = ends[-1]
        if index in segments:
            change = np.where(np.abs(change) > 1, change * 0.98, change).astype(np.int32)
            ends.append((before[0] + change, before[1]))
        else:
            ends.append(at.own.segment(index, before, rows))
            change = ends[-1][0] - before[0]
    return Spoof(ends, training.steps - len(segments) * training.snapshot_steps)


def _stolen(at: Scene, fabricated: int) -> Spoof:
    start, rows, training = first(at.own.job, at.own.base), at.own.rows(), at.own.job.training
    way = at.stolen - at.own.base
    ends = [
        ((at.own.base + way * place // fabricated).astype(np.int32), start.state)
        for place in range(fabricated + 1)
    ]
    for index in range(fabricated, segment_count(training)):
        ends.append(at.own.segment(index, ends[-1], rows))
    return Spoof(ends, training.steps - fabricated * training.snapshot_steps)


def _recipe(at: Scene, training: Training) -> Spoof:
    return _each(at, replace(at.own.job, training=training), at.own.rows())


def _each(at: Scene, job: Job, rows: Rows, steps: int | None = None) -> Spoof:
    """Each segment by another job, on other rows, or for fewer steps."""
    start, training = first(at.own.job, at.own.base), at.own.job.training
    ends = [(start.weights, start.state)]
    for index in range(segment_count(training)):
        ends.append(at.own.segment(index, ends[-1], rows, steps, job))
    return Spoof(ends, segment_count(training) * (steps or training.snapshot_steps))


def _off(at: Scene, weights: Int32s) -> Int32s:
    """The weights after noise as long as others' segments are."""
    noise = at.random.normal(size=len(weights))
    noise *= at.usual / np.linalg.norm(noise)
    return weights + np.rint(noise).astype(np.int32)


SPOOFS: dict[str, Callable[[Scene], Spoof]] = {
    "free rider: random": random_ends,
    "free rider: nothing trained": nothing,
    "free rider: another site's trace": copied,
    "free rider: an earlier round's": replayed_earlier,
    "truncated: half of the segments": truncated_round,
    "truncated: half of each segment": truncated_segments,
    "twice the rate": other_rate,
    "a rate a millionth higher": near_rate,
    "other labels": other_data,
    "one label of one row": one_row,
    "a line to a stolen model": line,
    "one honest segment reused": reused,
    "stolen model, half fabricated": stolen_half,
    "stolen model, few usual segments": stolen_quiet,
    "stolen model, one leap": stolen_jump,
}
