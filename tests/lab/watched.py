"""An honest federation, as it looks to who may read its updates: the ground of leakage studies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fl import trial
from fl.aggregate import weighted_mean
from fl.experiment import Hospital, beacons
from fl.fixed import Ints
from fl.metric import Numbers
from fl.model import Rows, build, initial, load, losses
from fl.settle import aggregation_weight
from fl.train import Job, train
from tests.lab.data import Source, hospitals
from tests.lab.setting import OURS, PLAIN
from vm.terms import Training

SITES = 10  # of data that has none of its own


@dataclass(frozen=True, slots=True)
class Watched:
    """Bases [rounds + 1], the last one the outcome; jobs and deltas by round and site.

    All are arrays of grid integers, [parameters].
    """

    data: Source
    sites: Sequence[Hospital]
    bases: Sequence[Ints]
    jobs: Sequence[Sequence[Job]]
    deltas: Sequence[Sequence[Ints]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one seed says of one view: a measure of the attack's success, and what chance gives."""

    attack: str
    data: str
    view: str
    measure: str
    value: float
    chance: float


def watch(data: Source, seed: int, rounds: int, training: Training | None = None) -> Watched:
    """Train so many rounds by the weighted mean, on rows that differ from site to site."""
    sites = hospitals(data, SITES, False, seed)
    terms = replace(
        trial.terms("lab", [one.site for one in sites], rounds), aggregation=OURS[PLAIN]
    )
    shares = [aggregation_weight(terms, one.site) for one in sites]
    base = initial(data.spec, data.grid_bits, seed)
    bases, jobs, deltas = [base], [], []
    for beacon in beacons(seed.to_bytes(8, "big"), rounds):
        due = [
            Job(data.spec, data.grid_bits, training or data.training, beacon, one.site.dataset)
            for one in sites
        ]
        sent = [train(job, base, one.train).delta for job, one in zip(due, sites, strict=True)]
        base = base + weighted_mean(sent, shares, sum(shares))
        bases.append(base)
        jobs.append(due)
        deltas.append(sent)
    return Watched(data, sites, bases, jobs, deltas)


def row_losses(data: Source, weights: Ints, rows: Rows) -> Numbers:
    """Log-loss of each row in nat: [rows]."""
    module = build(data.spec)
    load(module, weights, data.grid_bits)
    with torch.no_grad():
        found: Numbers = losses(data.spec.output, module(rows.inputs), rows.labels).numpy()
    return found


def minimal(data: Source, rows: int, steps: int, snapshot_steps: int) -> Training:
    """The data's recipe with so many rows in a batch, steps in a round and steps in a segment."""
    return replace(data.training, batch_rows=rows, steps=steps, snapshot_steps=snapshot_steps)
