"""A hospital that trains and opens, and a verifier's claim on it: for tests of replay."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from fl.dataset import leaves
from fl.fixed import Int32s, Ints, distance
from fl.model import Rows, prepare
from fl.opening import Opening, Part, open_rows
from fl.preprocess import Table
from fl.replay import Claim, rows_drawn
from fl.spec import mlp
from fl.trace import Segment
from fl.train import Job, Snapshot, first, segment_batches, snapshots
from fl.weights import digest_ints
from tests.fl.learning import TRAINING, base_of, job_of
from vm.digest import OPTIMIZER, WEIGHTS
from vm.record import ModelSpec
from vm.terms import MICRO, Column, Preprocessing, Replay, Training

SPEC = mlp(8, (16, 16), 3)
SECRET = bytes(range(32))
EXACT = Replay(segments=1, off_by_one_max=0, tolerance=0)
PREPROCESSING = Preprocessing(
    tuple(
        Column(f"column {place}", "1", (), -9 * MICRO, 9 * MICRO, 0, 0, MICRO) for place in range(8)
    ),
    Column("class", "1", (), 0, 2 * MICRO, 0, 0, MICRO),
)


def table_of(count: int = 60, seed: int = 0) -> Table:
    """Noise in millionths, brighter in the part of the columns that belongs to the row's class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    parts = np.arange(8) * 3 // 8
    numbers = random.normal(size=(count, 8)).clip(-4, 4) + (parts == labels[:, np.newaxis])
    rows = np.rint(numbers * MICRO).astype(np.int64)
    return Table(tuple(map(tuple, rows.tolist())), tuple(labels.tolist()))


@dataclass(frozen=True, slots=True)
class Hospital:
    """A table of which every third row is kept from training, and a job on the rest."""

    job: Job
    base: Ints
    table: Table
    train: tuple[int, ...]

    @property
    def part(self) -> Part:
        """All leaves, and the numbers of those that are trained on."""
        return Part(leaves(self.table, SECRET), self.train)

    def rows(self, table: Table | None = None) -> Rows:
        """The training rows; with another table its cells under the true leaves."""
        found = prepare(self.job.spec, PREPROCESSING, table or self.table, self.part.leaves)
        return found.take(self.train)

    def trained(self, job: Job | None = None, rows: Rows | None = None) -> list[Snapshot]:
        """All snapshots of the round, the first before its first step."""
        begin = first(self.job, self.base)
        return [
            begin,
            *snapshots(job or self.job, self.base, begin, rows or self.rows()),
        ]

    def claim(self, trained: Sequence[Snapshot], allowed: Replay = EXACT) -> Claim:
        """What a verifier holds openings of these snapshots against."""
        segments = trained[-1].segments
        return Claim(self.job, PREPROCESSING, allowed, self.base, segments, self.part)

    def opening(self, trained: Sequence[Snapshot], index: int) -> Opening:
        """Segment `index` opened as it is in these snapshots, with the rows that are drawn."""
        before, after = trained[index], trained[index + 1]
        drawn = rows_drawn(segment_batches(self.job, index, len(self.train)))
        salts, cells = open_rows(self.table, SECRET, [self.train[number] for number in drawn])
        none = np.zeros(0, np.int32)
        return Opening(
            index,
            before.weights if index else none,
            before.state if index else none,
            after.weights,
            after.state,
            salts,
            cells,
        )


def hospital(training: Training = TRAINING, spec: ModelSpec = SPEC) -> Hospital:
    """One of 60 rows, of which 40 are trained on."""
    assert prod(spec.input) == 8
    train = tuple(number for number in range(60) if number % 3)
    return Hospital(job_of(spec, training), base_of(spec), table_of(), train)


def forged(honest: Sequence[Snapshot], changed: dict[int, tuple[Int32s, Int32s]]) -> list[Snapshot]:
    """Snapshots with others' weights and state in some places, and a trace that commits to them."""
    pairs = [changed.get(place, (one.weights, one.state)) for place, one in enumerate(honest)]
    segments: list[Segment] = []
    found = [replace(honest[0], weights=pairs[0][0], state=pairs[0][1])]
    for place, (weights, state) in enumerate(pairs[1:], start=1):
        segments.append(
            replace(
                honest[-1].segments[place - 1],
                weights=digest_ints(WEIGHTS, weights),
                optimizer=digest_ints(OPTIMIZER, state),
                move=distance(weights, pairs[place - 1][0]),
            )
        )
        found.append(Snapshot(weights, state, tuple(segments), ()))
    return found
