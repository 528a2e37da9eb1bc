"""Small made-up data and jobs that the tests of training and verification share."""

from dataclasses import replace
from math import prod

import numpy as np
import torch

from fl.fixed import Ints
from fl.model import Rows, initial
from fl.spec import logistic_regression, mlp, small_cnn
from fl.train import Job
from vm.record import ModelSpec, Output
from vm.terms import MICRO, Optimizer, Training

SPECS = {
    "logistic": logistic_regression(8),
    "mlp": mlp(8, (16, 16), 3),
    "cnn": small_cnn(1, 8, 3),
}
TRAINING = Training(
    optimizer=Optimizer.SGD,
    rate=50_000,
    momentum=MICRO // 2,
    beta2=0,
    epsilon_nano=0,
    decay=1_000,
    proximal=0,
    steps=12,
    batch_rows=16,
    snapshot_steps=3,
)
ADAM = replace(
    TRAINING,
    optimizer=Optimizer.ADAM,
    rate=5_000,
    momentum=9 * MICRO // 10,
    beta2=999 * MICRO // 1_000,
    epsilon_nano=1_000,
)
RECIPES = {"sgd": TRAINING, "adam": ADAM}


def rows_of(spec: ModelSpec, count: int = 60, seed: int = 0) -> Rows:
    """Noise, brighter by 1 in the part of the inputs that belongs to the row's class."""
    random = np.random.default_rng(seed)
    classes = 2 if spec.output is Output.BINARY else 3
    labels = random.integers(0, classes, count)
    parts = np.arange(prod(spec.input)) * classes // prod(spec.input)  # [inputs]
    numbers = random.normal(size=(count, len(parts))) + (parts == labels[:, np.newaxis])
    inputs = torch.from_numpy(numbers.reshape(count, *spec.input))
    leaves = tuple(number.to_bytes(32, "big") for number in range(count))
    return Rows(inputs, torch.from_numpy(labels), leaves)


def job_of(spec: ModelSpec, training: Training = TRAINING) -> Job:
    """A round of training under a fixed beacon."""
    return Job(spec, 24, training, bytes(range(32)), "made-up")


def base_of(spec: ModelSpec) -> Ints:
    """Fixed first weights on the grid, from numpy, whose stream is the same everywhere."""
    shape = initial(spec, 24, 0).shape
    return np.random.default_rng(1).integers(-(2**22), 2**22, shape)
