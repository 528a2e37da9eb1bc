"""Rounding at every snapshot costs no accuracy, against the same steps in plain float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fl import optimizer
from fl.fixed import Int32s, Ints
from fl.model import Rows, build, load, losses, narrow, shaped
from fl.spec import logistic_regression, mlp, small_cnn
from fl.train import Job, segment_batches, train
from tests.fl.learning import ADAM, TRAINING, job_of
from vm.record import ModelSpec, Output
from vm.refusal import Refused
from vm.terms import Training

CLASSES = 6
SPECS = {
    "logistic": logistic_regression(64),
    "mlp": mlp(64, (32,), CLASSES),
    "cnn": small_cnn(1, 8, CLASSES),
}
RECIPES = {
    "sgd": replace(TRAINING, momentum=900_000, decay=0),
    "adam": replace(ADAM, decay=0),
}
TRAIN, TEST = 600, 1_000  # rows
NOISE = 1.5  # beside patterns of size 1: not all rows can be told
STEPS, SNAPSHOT_STEPS = 120, 3


def pictures(spec: ModelSpec) -> tuple[Rows, Rows]:
    """Rows of 64 numbers around a pattern of their class, to train and to test on."""
    random = np.random.default_rng(0)
    classes = 2 if spec.output is Output.BINARY else CLASSES
    blocks = random.normal(size=(classes, 4, 4))
    patterns = np.kron(blocks, np.ones((2, 2))).reshape(classes, 64)
    labels = random.integers(0, classes, TRAIN + TEST)
    numbers = patterns[labels] + NOISE * random.normal(size=(TRAIN + TEST, 64))
    numbers[:, ::4] = 0  # as the edge of a picture: no gradient there
    inputs = torch.from_numpy(numbers.reshape(-1, *spec.input))
    leaves = tuple(number.to_bytes(32, "big") for number in range(TRAIN + TEST))
    rows = Rows(inputs, torch.from_numpy(labels), leaves)
    return rows.take(range(TRAIN)), rows.take(range(TRAIN, TRAIN + TEST))


def first_weights(spec: ModelSpec) -> Ints:
    """Random ones of the usual size on the grid."""
    module = build(spec)
    random = np.random.default_rng(1)
    parts = [
        random.uniform(-1, 1, one.shape) / np.sqrt(np.prod(one.shape[1:] or (1,)))
        for one in module.parameters()
    ]
    return np.concatenate([np.rint(part.ravel() * 2**24) for part in parts]).astype(np.int64)


def accuracy(spec: ModelSpec, module: torch.nn.Module, rows: Rows) -> float:
    """The share of rows whose class is found."""
    with torch.no_grad():
        logits = module(rows.inputs)
    found = (logits[:, 0] > 0).long() if spec.output is Output.BINARY else logits.argmax(1)
    return float((found == rows.labels).double().mean())


def job(spec: ModelSpec, recipe: Training) -> Job:
    """Forty snapshots in a round."""
    training = replace(recipe, steps=STEPS, batch_rows=32, snapshot_steps=SNAPSHOT_STEPS)
    return job_of(spec, training)


def on_the_grid(spec: ModelSpec, recipe: Training, rows: Rows) -> torch.nn.Module:
    """Trained as in a round."""
    base = first_weights(spec)
    module = build(spec)
    load(module, base + train(job(spec, recipe), base, rows).delta, 24)
    return module


def unrounded(spec: ModelSpec, recipe: Training, rows: Rows) -> torch.nn.Module:
    """The same batches by torch's own optimizer, never rounded."""
    module = build(spec)
    load(module, first_weights(spec), 24)
    found: torch.optim.Optimizer = (
        torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
        if recipe is RECIPES["sgd"]
        else torch.optim.Adam(module.parameters(), lr=0.005, eps=1e-6)
    )
    for index in range(STEPS // SNAPSHOT_STEPS):
        for batch in segment_batches(job(spec, recipe), index, len(rows)):
            taken = rows.take(batch)
            found.zero_grad()
            loss = losses(spec.output, module(taken.inputs), taken.labels).mean()
            torch.autograd.backward(loss)
            found.step()
    return module


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_rounding_costs_no_accuracy(name: str, recipe: str) -> None:
    """Of 1,000 rows that were not trained on, at most 5 fewer are right after 40 roundings."""
    spec = SPECS[name]
    rows, test = pictures(spec)

    plain = accuracy(spec, unrounded(spec, RECIPES[recipe], rows), test)
    grid = accuracy(spec, on_the_grid(spec, RECIPES[recipe], rows), test)

    assert plain > 1.5 / (2 if spec.output is Output.BINARY else CLASSES), "something is learned"
    assert grid >= plain - 0.005


def test_the_second_moment_itself_would_not_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gradients are small it rounds to 0, and weights leave the grid; its root is kept."""
    spec, recipe = SPECS["mlp"], replace(RECIPES["adam"], epsilon_nano=60)
    rows, test = (replace(part, inputs=0.3 * part.inputs) for part in pictures(spec))

    def store_plain(state: optimizer.State, grid_bits: int) -> Int32s:
        return narrow([*state.first, *state.second], grid_bits)

    def load_plain(
        _: Training, flat: Int32s, like: list[torch.Tensor], grid_bits: int
    ) -> optimizer.State:
        half = len(flat) // 2
        return optimizer.State(
            shaped(flat[:half], like, grid_bits), shaped(flat[half:], like, grid_bits)
        )

    assert accuracy(spec, on_the_grid(spec, recipe, rows), test) > 0.9
    monkeypatch.setattr(optimizer, "store_state", store_plain)
    monkeypatch.setattr(optimizer, "load_state", load_plain)
    with pytest.raises(Refused, match=r"update\.range"):
        on_the_grid(spec, recipe, rows)
