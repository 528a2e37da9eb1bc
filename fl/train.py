"""Local training of one round: float64 steps, rounded to the task's grid at every snapshot.

The unit is the segment: from grid integers over its batches to grid integers. Whoever holds a
snapshot and the rows runs the same function and gets the same integers, so training resumes and
replays from any snapshot. Rounding swallows what threads and instruction sets do to the last
bits (arXiv 2403.09603).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fl import optimizer
from fl.fixed import Int32s, Ints, distance, norm
from fl.model import Rows, build, load, losses, shaped, store
from fl.sampling import batches
from fl.trace import Segment, segment_count, state_count
from fl.weights import digest_ints
from vm.digest import BATCHES, OPTIMIZER, WEIGHTS, digest
from vm.encoding import encode
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.shape import Digest
from vm.terms import Training

OnStep = Callable[[int, int, float], None]  # step from 1, steps, mean loss of its batch in nat
Batches = Sequence[tuple[int, ...]]  # places of the rows of each step


@dataclass(frozen=True, slots=True)
class Job:
    """What fixes a round's training, besides the rows: the model, the recipe and the order."""

    spec: ModelSpec
    grid_bits: int
    training: Training
    beacon: Digest
    dataset: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Training between two segments, in grid units: weights [parameters], state [state_count].

    Kept as int32, for both are large and several are alive at a time.
    """

    weights: Int32s
    state: Int32s
    segments: tuple[Segment, ...]  # those before it
    losses: tuple[float, ...]  # mean loss of each step so far, in nat


@dataclass(frozen=True, slots=True)
class Result:
    """A round's training: the update in grid units, [parameters], and how it came about."""

    delta: Ints
    norm: int
    segments: tuple[Segment, ...]
    losses: tuple[float, ...]


Keep = Callable[[int, Snapshot], None]  # number of segments done, and the snapshot after them


def train(
    job: Job,
    base: Ints,
    rows: Rows,
    on_step: OnStep | None = None,
    *,
    start: Snapshot | None = None,
    keep: Keep | None = None,
) -> Result:
    """Train one round from the model's `base`; raises `Refused("update.range" | "training.*")`.

    Training goes on from `start` if it is given: a snapshot of this very job, from its first
    snapshot (`first`) to its last. Each snapshot is given to `keep`, before the next is made.
    """
    last = first(job, base) if start is None else start
    for snapshot in snapshots(job, base, last, rows, on_step):
        last = snapshot
        if keep is not None:
            keep(len(last.segments), last)
    delta = last.weights - base
    return Result(delta, norm(delta), last.segments, last.losses)


def first(job: Job, base: Ints) -> Snapshot:
    """Before the first step: the optimizer's state is zero in every round."""
    state = np.zeros(state_count(job.training, len(base)), np.int32)
    return Snapshot(base.astype(np.int32), state, (), ())


def snapshots(
    job: Job, base: Ints, last: Snapshot, rows: Rows, on_step: OnStep | None = None
) -> Iterator[Snapshot]:
    """The snapshots that follow `last`, to the end of the round."""
    if not len(rows):
        raise Refused("training.no_rows", "expected rows to train on, found none")
    module = build(job.spec)
    for index in range(len(last.segments), segment_count(job.training)):
        last = run_segment(job, module, base, index, last, rows, on_step)
        yield last


def regenerate(
    job: Job, base: Ints, last: Snapshot, rows: Rows, segments: Sequence[Segment], count: int
) -> Snapshot:
    """The snapshot after `count` segments, made again from `last`, an earlier one that was kept.

    It is the one that `segments`, the trace of the first training, commits to; else raises
    `Refused("training.regenerated")`.
    """
    if len(last.segments) < count:
        last = next(one for one in snapshots(job, base, last, rows) if len(one.segments) == count)
    if last.segments != tuple(segments[:count]):
        raise Refused(
            "training.regenerated",
            f"expected the snapshot after {count} segments as it was, found another: open it where "
            "it was trained, with the software and rows of then",
        )
    return last


def run_segment(
    job: Job,
    module: nn.Module,
    base: Ints,
    index: int,
    before: Snapshot,
    rows: Rows,
    on_step: OnStep | None = None,
) -> Snapshot:
    """Segment `index`, from the snapshot before it to the one after it, on all training rows."""
    order = segment_batches(job, index, len(rows))
    weights, state, history = advance(
        job, module, base, index, before.weights, before.state, rows, order, on_step
    )
    segment = Segment(
        weights=digest_ints(WEIGHTS, weights),
        optimizer=digest_ints(OPTIMIZER, state),
        batches=batches_digest(order, rows.leaves),
        move=distance(weights, before.weights),
    )
    return Snapshot(weights, state, (*before.segments, segment), (*before.losses, *history))


def segment_batches(job: Job, index: int, rows: int) -> Batches:
    """Numbers, among as many training rows, of the rows in each step of segment `index`."""
    training = job.training
    begin = index * training.snapshot_steps
    end = begin + training.snapshot_steps
    return batches(job.beacon, job.dataset, rows, training.batch_rows, begin, end)


def advance(
    job: Job,
    module: nn.Module,
    base: Ints,
    index: int,
    weights: Int32s,
    state: Int32s,
    rows: Rows,
    order: Batches,
    on_step: OnStep | None = None,
) -> tuple[Int32s, Int32s, list[float]]:
    """Weights and state after segment `index` on batches of places in `rows`, and its losses."""
    training, bits = job.training, job.grid_bits
    load(module, weights, bits)
    parameters = list(module.parameters())
    moments = optimizer.load_state(training, state, parameters, bits)
    anchor = shaped(base, parameters, bits) if training.proximal else []
    history = []
    for step, batch in enumerate(order, start=index * training.snapshot_steps + 1):
        places = torch.tensor(batch)
        logits = module(rows.inputs[places])
        loss = losses(job.spec.output, logits, rows.labels[places]).mean()
        gradients = torch.autograd.grad(loss, parameters)
        optimizer.step(training, step, parameters, moments, gradients, anchor)
        del gradients  # before the next ones are made
        history.append(loss.item())
        if on_step is not None:
            on_step(step, training.steps, history[-1])
    return store(module, bits), optimizer.store_state(moments, bits), history


def batches_digest(order: Batches, leaves: Sequence[Digest]) -> Digest:
    """Commits to which rows each step saw, in order, by their salted leaves."""
    steps = tuple(b"".join(leaves[place] for place in batch) for batch in order)
    return digest(BATCHES, encode(steps))
