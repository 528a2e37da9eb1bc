"""Gradient inversion: rows made again from what training did to the weights.

The attacker knows the recipe, which row stood in which batch (the beacon is public), and, to be on
the safe side, every row's label. It looks for inputs within the columns' bounds that, trained on,
lead from the weights before to the weights after (Zhu et al. 2019; by Adam and then L-BFGS, through
all steps), beginning at the mean of such rows of its own. Of a step on one row the layer that sees
it tells the row at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fl.experiment import Hospital, join
from fl.fixed import Int32s, Ints, from_grid
from fl.metric import Numbers
from fl.model import FLOAT, Rows, build, losses, shaped
from fl.train import Batches, Job, Snapshot, first, segment_batches, snapshots
from tests.lab.data import Source
from tests.lab.watched import Finding, Watched, minimal, watch
from vm.record import Linear, ModelSpec, Relu
from vm.terms import MICRO, Training

ROUNDS = 12  # of the honest federation
EARLY = 1  # the round attacked, from 0: the second one, while rows still have much to teach
ADAM_STEPS = 10_000  # of training that Adam goes through, so many at most
ADAM_ITERATIONS_MAX = 600
ADAM_RATE = 0.03  # at first, and falling to 0
LBFGS_ITERATIONS = 100
NOISE = 0.1  # of the first guess, so that rows of one class part
RECOVERED = 0.95  # correlation from which a row counts as made again
STILL = 1e-9  # a squared change below counts as this: nothing is divided by nothing


@dataclass(frozen=True, slots=True)
class Piece:
    """Some steps as seen from outside: weights and velocity before, weights after, whose rows.

    Weights and velocity are grid integers, [parameters]; `order` names rows by their place.
    """

    before: Ints | Int32s
    velocity: Int32s
    after: Ints | Int32s
    order: Batches


def inversion(data: Source, seed: int) -> Iterator[Finding]:
    """Every view of one site's training, from one step on one row to all of its rounds."""
    for view, training, pieces in _views(data):
        seen = watch(data, seed, ROUNDS, training)
        random = torch.Generator().manual_seed(seed)
        yield from _findings(seen, view, pieces(seen, seen.sites[0]), random)


Pieces = Callable[[Watched, Hospital], list[Piece]]


def _views(data: Source) -> Iterator[tuple[str, Training, Pieces]]:
    usual = data.training
    yield "a step of 1 row (no task may)", minimal(data, 1, 64, 1), _segment
    yield "a segment of 1 step of 8 rows (the least)", minimal(data, 8, 8, 1), _segment
    yield f"a segment of {_steps(usual)}", usual, _segment
    yield "an update of 8 steps of 8 rows (the least)", minimal(data, 8, 8, 8), _update
    yield f"an update of {usual.steps} steps of {usual.batch_rows} rows", usual, _update
    yield f"the same of {ROUNDS} rounds", usual, _updates
    yield f"all segments of {ROUNDS} rounds", usual, _segments


def _steps(training: Training) -> str:
    return f"{training.snapshot_steps} steps of {training.batch_rows} rows"


def _opened(seen: Watched, number: int, site: Hospital) -> list[Piece]:
    """All segments of a round of the first site."""
    job, base = seen.jobs[number][0], seen.bases[number]
    before, found = first(job, base), []
    for after in snapshots(job, base, before, site.train):
        found.append(_between(job, before, after, len(site.train)))
        before = after
    return found


def _between(job: Job, before: Snapshot, after: Snapshot, rows: int) -> Piece:
    order = segment_batches(job, len(before.segments), rows)
    return Piece(before.weights, before.state, after.weights, order)


def _segment(seen: Watched, site: Hospital) -> list[Piece]:
    return _opened(seen, EARLY, site)[:1]


def _segments(seen: Watched, site: Hospital) -> list[Piece]:
    return [piece for number in range(ROUNDS) for piece in _opened(seen, number, site)]


def _update(seen: Watched, site: Hospital) -> list[Piece]:
    return [_whole(_opened(seen, EARLY, site))]


def _updates(seen: Watched, site: Hospital) -> list[Piece]:
    return [_whole(_opened(seen, number, site)) for number in range(ROUNDS)]


def _whole(pieces: Sequence[Piece]) -> Piece:
    """A round of which only the two ends are seen."""
    order = [batch for piece in pieces for batch in piece.order]
    return replace(pieces[0], after=pieces[-1].after, order=order)


def _findings(
    seen: Watched, view: str, pieces: Sequence[Piece], random: torch.Generator
) -> Iterator[Finding]:
    """Beside rows found in place stands the mean of the site's own rows of the label.

    Who finds no more has learned what the site's rows have in common, and of no row what is its
    own. Beside the likest of all rows found stand as many rows of other sites.
    """
    data, job = seen.data, seen.jobs[0][0]
    drawn = sorted({row for piece in pieces for batch in piece.order for row in batch})
    rows, own = seen.sites[0].train.take(drawn), join([one.train for one in seen.sites[1:]])
    guess, others = _guess(rows, own), _others(rows, own, random)
    if len(drawn) == 1:
        made = exact_row(job, pieces[0])[None]
    else:
        place = {row: at for at, row in enumerate(drawn)}
        pieces = [
            replace(one, order=[tuple(place[row] for row in batch) for batch in one.order])
            for one in pieces
        ]
        start = guess + NOISE * torch.randn(guess.shape, generator=random, dtype=FLOAT)
        made = invert(job, pieces, rows.labels, start, bounds(data))
    true = rows.inputs.numpy()
    (own_place, likest), (_, likest_other) = (alike(one.numpy(), true) for one in (made, others))
    mean_place, _ = alike(_guess(rows, seen.sites[0].train).numpy(), true)
    for measure, value, chance in (
        ("correlation in place", own_place, mean_place),
        ("correlation, likest", likest, likest_other),
        ("made again", likest > RECOVERED, likest_other > RECOVERED),
    ):
        found, by_chance = float(value.mean()), float(chance.mean())
        yield Finding("inversion", data.name, view, measure, found, by_chance)


def bounds(data: Source) -> tuple[Tensor, Tensor]:
    """The least and the largest prepared value of each column, [inputs]; they are public."""
    columns = data.preprocessing.columns
    low, high = (
        torch.tensor([(end - one.center) / one.scale for one, end in ends], dtype=FLOAT)
        for ends in (
            [(one, one.low) for one in columns],
            [(one, one.high) for one in columns],
        )
    )
    return low, high


def _others(rows: Rows, own: Rows, random: torch.Generator) -> Tensor:
    """For each row another site's row of its label: what a match by chance looks like."""
    found = []
    for label in rows.labels:
        alike = own.inputs[own.labels == label]
        found.append(alike[torch.randint(len(alike), (), generator=random)])
    return torch.stack(found)


def _guess(rows: Rows, own: Rows) -> Tensor:
    """For each row the mean of some rows of its label: to begin with, those of an attacker."""
    return torch.stack([own.inputs[own.labels == label].mean(dim=0) for label in rows.labels])


def alike(found: Numbers, true: Numbers) -> tuple[Numbers, Numbers]:
    """Of each true row [rows, inputs] the correlation with the found row in its place, [rows].

    And the largest one with any of those found, [rows].
    """
    both = np.corrcoef(np.concatenate([true, found]))
    across = both[: len(true), len(true) :]
    return np.diag(across), across.max(axis=1)


def exact_row(job: Job, piece: Piece) -> Tensor:
    """The only row of one step, [inputs].

    The gradient of a layer's weights is residual x row, that of its bias the residual itself.
    """
    like = list(build(job.spec).parameters())
    weights, velocity, after = (
        shaped(units, like, job.grid_bits)[:2]
        for units in (piece.before, piece.velocity, piece.after)
    )
    rate, momentum = job.training.rate / MICRO, job.training.momentum / MICRO
    decay = job.training.decay / MICRO
    inner, bias = (
        (old - new) / rate - momentum * speed - decay * old
        for old, speed, new in zip(weights, velocity, after, strict=True)
    )
    strongest = bias.abs().argmax()
    return inner[strongest] / bias[strongest]


def invert(
    job: Job,
    pieces: Sequence[Piece],
    labels: Tensor,
    start: Tensor,
    within: tuple[Tensor, Tensor],
) -> Tensor:
    """Inputs [rows, inputs] that lead through the pieces, searched from `start`."""
    like = list(build(job.spec).parameters())
    inputs = start.clone().requires_grad_()
    changes = [
        torch.from_numpy(
            from_grid(piece.after, job.grid_bits) - from_grid(piece.before, job.grid_bits)
        )
        for piece in pieces
    ]

    def off() -> Tensor:
        inputs.grad = None
        total = torch.zeros((), dtype=FLOAT)
        for piece, change in zip(pieces, changes, strict=True):
            found = changed(job, piece, like, inputs, labels)
            total = total + (found - change).square().sum() / change.square().sum().clamp(STILL)
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    _adam(inputs, off, within, sum(len(piece.order) for piece in pieces))
    search = torch.optim.LBFGS(
        [inputs], max_iter=LBFGS_ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )
    search.step(off)  # type: ignore[no-untyped-call]
    return inputs.detach().clamp(*within)


def _adam(
    inputs: Tensor, off: Callable[[], Tensor], within: tuple[Tensor, Tensor], steps: int
) -> None:
    """Lower `off` over inputs within their bounds, in place."""
    iterations = min(ADAM_ITERATIONS_MAX, ADAM_STEPS // steps)
    search = torch.optim.Adam([inputs], lr=ADAM_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(search, iterations)
    for _ in range(iterations):
        off()
        search.step()
        falling.step()
        with torch.no_grad():
            inputs.clamp_(*within)


def changed(
    job: Job, piece: Piece, like: Sequence[Tensor], inputs: Tensor, labels: Tensor
) -> Tensor:
    """By how much a piece's steps on these rows change the weights, [parameters].

    As `fl.train.advance` with SGD, but for what rounding does, and to be differentiated.
    """
    rate, momentum = job.training.rate / MICRO, job.training.momentum / MICRO
    decay = job.training.decay / MICRO
    start = shaped(piece.before, like, job.grid_bits)
    speeds = shaped(piece.velocity, like, job.grid_bits)
    weights = [weight.requires_grad_() for weight in start]
    for batch in piece.order:
        places = torch.tensor(batch)
        logits = _logits(job.spec, weights, inputs[places])
        loss = losses(job.spec.output, logits, labels[places]).mean()
        found = torch.autograd.grad(loss, weights, create_graph=True)
        speeds = [
            momentum * speed + gradient + decay * weight
            for speed, gradient, weight in zip(speeds, found, weights, strict=True)
        ]
        weights = [weight - rate * speed for weight, speed in zip(weights, speeds, strict=True)]
    moved = [(new - old).reshape(-1) for new, old in zip(weights, start, strict=True)]
    return torch.cat(moved)


def _logits(spec: ModelSpec, weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """The model of a dense spec as a function of its weights: [rows, outputs]."""
    left = iter(weights)
    for layer in spec.layers:
        match layer:
            case Linear():
                inputs = functional.linear(inputs, next(left), next(left))
            case Relu():
                inputs = torch.relu(inputs)
            case _:
                raise ValueError(f"expected dense layers, found {layer}")
    return inputs
