"""Local training of one round: float64 steps, rounded to the task's grid at every snapshot.

The unit is the segment: from grid integers over its batches to grid integers. Whoever holds a
snapshot and the rows runs the same function and gets the same integers, so training resumes and
replays from any snapshot. Rounding swallows what threads and instruction sets do to the last
bits (arXiv 2403.09603).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fl.fixed import Ints, from_grid, norm, to_grid
from fl.model import Rows, build, load, losses, store
from fl.sampling import batches
from fl.trace import Segment, segment_count
from fl.weights import digest_ints
from vm.digest import BATCHES, OPTIMIZER, WEIGHTS, digest
from vm.encoding import encode
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.shape import Digest
from vm.terms import MICRO, Training

OnStep = Callable[[int, int, float], None]  # step from 1, steps, mean loss of its batch in nat


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
    """Training between two segments: weights and momentum in grid units, [parameters] each."""

    weights: Ints
    velocity: Ints
    segments: tuple[Segment, ...]
    losses: tuple[float, ...]  # mean loss of each step so far, in nat


@dataclass(frozen=True, slots=True)
class Result:
    """A round's training: the update in grid units, [parameters], and how it came about."""

    delta: Ints
    norm: int
    segments: tuple[Segment, ...]
    losses: tuple[float, ...]


def train(job: Job, base: Ints, rows: Rows, on_step: OnStep | None = None) -> Result:
    """Train one round from the model's `base`; raises `Refused("update.range" | "training.*")`."""
    last = start(base)
    for snapshot in snapshots(job, last, rows, on_step):
        last = snapshot
    delta = last.weights - base
    return Result(delta, norm(delta), last.segments, last.losses)


def start(base: Ints) -> Snapshot:
    """Before the first step: the momentum is zero in every round."""
    return Snapshot(base, np.zeros_like(base), (), ())


def snapshots(
    job: Job, state: Snapshot, rows: Rows, on_step: OnStep | None = None
) -> Iterator[Snapshot]:
    """The snapshots that follow `state`, to the end of the round."""
    if not len(rows):
        raise Refused("training.no_rows", "expected rows to train on, found none")
    module = build(job.spec)
    for index in range(len(state.segments), segment_count(job.training)):
        state = run_segment(job, module, index, state, rows, on_step)
        yield state


def run_segment(
    job: Job,
    module: nn.Module,
    index: int,
    state: Snapshot,
    rows: Rows,
    on_step: OnStep | None = None,
) -> Snapshot:
    """Segment `index`, from the snapshot before it to the one after it.

    SGD with momentum in torch's form (Sutskever et al. 2013, without dampening):
    v = momentum v + gradient + decay w; w = w - rate v.
    """
    training = job.training
    rate, momentum, decay = (x / MICRO for x in (training.rate, training.momentum, training.decay))
    first = index * training.snapshot_steps
    end = first + training.snapshot_steps
    order = batches(job.beacon, job.dataset, len(rows), training.batch_rows, first, end)
    load(module, state.weights, job.grid_bits)
    weights = list(module.parameters())
    velocity = _shaped(state.velocity, weights, job.grid_bits)
    history = []
    for step, batch in enumerate(order, start=first + 1):
        places = torch.tensor(batch)
        logits = module(rows.inputs[places])
        loss = losses(job.spec.output, logits, rows.labels[places]).mean()
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, v, gradient in zip(weights, velocity, gradients, strict=True):
                v.mul_(momentum).add_(gradient).add_(w * decay)
                w.sub_(v * rate)
        history.append(loss.item())
        if on_step is not None:
            on_step(step, training.steps, history[-1])
    after = store(module, job.grid_bits)
    flat_velocity = to_grid(nn.utils.parameters_to_vector(velocity).numpy(), job.grid_bits)
    segment = Segment(
        weights=digest_ints(WEIGHTS, after),
        optimizer=digest_ints(OPTIMIZER, flat_velocity),
        batches=_batches_digest(order, rows),
        move=norm(after - state.weights),
    )
    return Snapshot(after, flat_velocity, (*state.segments, segment), (*state.losses, *history))


def _shaped(values: Ints, like: list[nn.Parameter], grid_bits: int) -> list[torch.Tensor]:
    """Flat grid integers as float64 tensors of the parameters' shapes."""
    flat = torch.from_numpy(from_grid(values, grid_bits))
    parts = torch.split(flat, [parameter.numel() for parameter in like])
    return [part.reshape(parameter.shape) for part, parameter in zip(parts, like, strict=True)]


def _batches_digest(order: list[tuple[int, ...]], rows: Rows) -> Digest:
    """Commits to which rows each step saw, in order, by their salted leaves."""
    steps = tuple(b"".join(rows.leaves[number] for number in batch) for batch in order)
    return digest(BATCHES, encode(steps))
