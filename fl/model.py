"""Models in torch: a declarative spec becomes a module of allow-listed layers, in float64.

Weights go in and come out as grid integers, so that every machine starts from the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl.fixed import CHUNK, Int32s, Ints, from_grid, to_grid
from fl.preprocess import Table
from vm.record import (
    AveragePool,
    Conv2d,
    Flatten,
    GroupNorm,
    Layer,
    Linear,
    ModelSpec,
    Output,
    Relu,
)
from vm.shape import Digest
from vm.terms import Preprocessing

FLOAT = torch.float64  # float32 differs between instruction sets by more than a grid step


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows ready for a model: inputs [rows, *spec.input] float64, labels [rows] int64, leaves.

    `leaves` are the rows' salted leaves in the dataset's commitment, to which batches commit.
    """

    inputs: Tensor
    labels: Tensor
    leaves: tuple[Digest, ...]

    def __len__(self) -> int:
        return len(self.leaves)

    def take(self, numbers: Sequence[int]) -> "Rows":
        """The rows of these numbers, in their order."""
        places = torch.tensor(numbers, dtype=torch.int64)
        leaves = tuple(self.leaves[number] for number in numbers)
        return Rows(self.inputs[places], self.labels[places], leaves)


def prepare(
    spec: ModelSpec, preprocessing: Preprocessing, table: Table, leaves: tuple[Digest, ...]
) -> Rows:
    """Rows of a preprocessed table: input = (value - center) / scale.

    Differences of millionths are exact in int64 and the division is one correctly rounded
    operation (IEEE 754), so every machine prepares the same numbers.
    """
    values = np.array(table.rows, np.int64).reshape(len(table.rows), len(preprocessing.columns))
    center = np.array([column.center for column in preprocessing.columns], np.int64)
    scale = np.array([column.scale for column in preprocessing.columns], np.int64)
    inputs = torch.from_numpy((values - center) / scale)
    labels = torch.tensor(table.labels, dtype=torch.int64)
    return Rows(inputs.reshape(-1, *spec.input), labels, leaves)


def build(spec: ModelSpec) -> nn.Sequential:
    """The module of a checked spec, in float64; its weights are still to be loaded."""
    return nn.Sequential(*(_layer(layer) for layer in spec.layers)).to(FLOAT)


def _layer(layer: Layer) -> nn.Module:
    match layer:
        case Linear(inputs, outputs):
            return nn.Linear(inputs, outputs)
        case Relu():
            return nn.ReLU()
        case Conv2d(inputs, outputs, kernel, stride, padding):
            return nn.Conv2d(inputs, outputs, kernel, stride, padding)
        case GroupNorm(groups, channels):
            return nn.GroupNorm(groups, channels)
        case AveragePool(size):
            return nn.AvgPool2d(size)
        case Flatten():
            return nn.Flatten()


def initial(spec: ModelSpec, grid_bits: int, seed: int) -> Ints:
    """First weights of a model, [parameters], drawn by torch and rounded to the grid.

    The last layer starts at zero: a fresh model prefers no class, and logistic regression starts
    where it is usually started. Called once, by the steward who registers the model: torch draws
    other numbers on other machines, so these are stored and never drawn again.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build(spec)
    last = [layer for layer in module if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
    return store(module, grid_bits).astype(np.int64)


def load(module: nn.Module, values: Ints | Int32s, grid_bits: int) -> None:
    """Set the parameters to grid integers, [parameters] in the order of `fl.spec.parameters`."""
    weights = list(module.parameters())
    for weight, numbers in zip(weights, shaped(values, weights, grid_bits), strict=True):
        weight.data = numbers


def store(module: nn.Module, grid_bits: int) -> Int32s:
    """The parameters rounded to the grid; raises `Refused("update.range")` where int32 cannot."""
    return narrow([weight.detach() for weight in module.parameters()], grid_bits)


def shaped(values: Ints | Int32s, like: Sequence[Tensor], grid_bits: int) -> list[Tensor]:
    """Flat grid integers as float64 tensors of their own memory, in the shapes of `like`."""
    found, start = [], 0
    for tensor in like:
        end = start + tensor.numel()
        numbers = torch.from_numpy(from_grid(values[start:end], grid_bits))
        found.append(numbers.reshape(tensor.shape))
        start = end
    assert start == len(values), f"expected {start} grid integers, found {len(values)}"
    return found


def narrow(tensors: Sequence[Tensor], grid_bits: int) -> Int32s:
    """Float64 tensors rounded to the grid, flat; raises `Refused("update.range")`.

    By chunks, so that a large model is not there as float64 twice.
    """
    found = np.empty(sum(tensor.numel() for tensor in tensors), np.int32)
    start = 0
    for tensor in tensors:
        numbers = tensor.numpy().reshape(-1)
        for at in range(0, numbers.size, CHUNK):
            part = to_grid(numbers[at : at + CHUNK], grid_bits)
            found[start : start + part.size] = part
            start += part.size
    return found


def losses(output: Output, logits: Tensor, labels: Tensor) -> Tensor:
    """Log-loss of each row in nat: [rows], from logits [rows, 1] or [rows, classes]."""
    match output:
        case Output.BINARY:
            return functional.binary_cross_entropy_with_logits(
                logits[:, 0], labels.to(FLOAT), reduction="none"
            )
        case Output.CLASSES:
            return functional.cross_entropy(logits, labels, reduction="none")
