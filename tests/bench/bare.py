"""What others are measured against: federated averaging as a plain torch loop, and bare rules."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor

from fl.aggregate import aggregate
from fl.experiment import Hospital
from fl.fixed import Int32s
from fl.model import build, losses
from fl.resilience import updates_needed
from tests.bench.loop import Plan, train
from tests.lab.data import Source
from vm.terms import AVERAGE, MICRO, Aggregation, Mixing, Optimizer, Rule

UPDATES = 15
MILLION = 1_000_000
REPEATS = 3


def _rule(rule: Rule, mixing: Mixing = Mixing.NONE, f: int = 3, bucket: int = 1) -> Aggregation:
    radius = MICRO if rule is Rule.CENTERED_CLIPPING else 0
    found = Aggregation(rule, mixing, f, 1, bucket, radius, AVERAGE)
    return replace(found, updates_min=updates_needed(found))


RULES = {  # for 15 updates; clipping is proven for a tenth of them, so it stands one
    "weighted_mean": _rule(Rule.WEIGHTED_MEAN, f=0),
    "median": _rule(Rule.MEDIAN),
    "trimmed_mean": _rule(Rule.TRIMMED_MEAN),
    "krum": _rule(Rule.KRUM),
    "multi_krum": _rule(Rule.MULTI_KRUM),
    "geometric_median": _rule(Rule.GEOMETRIC_MEDIAN),
    "centered_clipping (f = 1)": _rule(Rule.CENTERED_CLIPPING, f=1),
    "bucketed_median": _rule(Rule.MEDIAN, Mixing.BUCKETS, bucket=2),
    "nnm_trimmed_mean": _rule(Rule.TRIMMED_MEAN, Mixing.NEIGHBOURS),
}


def plan_of(data: Source) -> Plan:
    """A site's part in a round of the task."""
    training = data.training
    assert training.optimizer is Optimizer.SGD, "the loop is of SGD"
    return Plan(
        training.steps,
        training.batch_rows,
        training.rate / MICRO,
        training.momentum / MICRO,
        training.decay / MICRO,
    )


def rounds_s(
    data: Source, sites: Sequence[Hospital], rounds: int, dtype: torch.dtype
) -> list[float]:
    """Seconds of each round: every site trains in turn, then the plain mean.

    The task's steps, batches, rate, momentum and decay by `torch.optim.SGD`, without the grid.
    """
    plan = plan_of(data)
    model = build(data.spec).to(dtype)
    rows = [(site.train.inputs.to(dtype), site.train.labels) for site in sites]
    found = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return losses(data.spec.output, logits, labels).mean()

    for _ in range(rounds):
        begin = time.perf_counter()
        base = [weight.detach().clone() for weight in model.parameters()]
        total = [torch.zeros_like(weight) for weight in base]
        for inputs, labels in rows:
            for weight, start in zip(model.parameters(), base, strict=True):
                weight.data.copy_(start)
            train(model, inputs, labels, plan, loss)
            for summed, weight in zip(total, model.parameters(), strict=True):
                summed.add_(weight.detach())
        for weight, summed in zip(model.parameters(), total, strict=True):
            weight.data.copy_(summed / len(rows))
        found.append(time.perf_counter() - begin)
    return found


def updates_of(parameters: int, seed: int) -> list[Int32s]:
    """What the rules are timed on: [UPDATES, parameters], alike as honest updates are."""
    random = np.random.default_rng(seed)
    common = random.normal(0, 2**18, parameters)
    return [
        np.rint(common + random.normal(0, 2**16, parameters)).astype(np.int32)
        for _ in range(UPDATES)
    ]


def rules_ms(updates: Sequence[Int32s]) -> dict[str, float]:
    """Milliseconds per million parameters of each rule: the median of a few runs, on one thread."""
    ids = [f"site-{number:02}" for number in range(UPDATES)]
    weights = [100] * UPDATES
    return {
        name: milliseconds(
            partial(aggregate, rule, updates, weights, ids, bytes(32)), len(updates[0])
        )
        for name, rule in RULES.items()
    }


def milliseconds(work: Callable[[], object], parameters: int) -> float:
    """Of `work`, per million parameters: the median of a few runs."""
    taken = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return median(taken) * 1_000 * MILLION / parameters
