"""The plain training loop of a site: torch alone, so that any framework's client can run it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and labels, a scalar


@dataclass(frozen=True, slots=True)
class Plan:
    """What a site does in a round, by `torch.optim.SGD`."""

    steps: int
    batch_rows: int
    rate: float
    momentum: float
    decay: float


def train(model: nn.Module, inputs: Tensor, labels: Tensor, plan: Plan, loss: Loss) -> None:
    """Train `model` where it stands, over as many shuffled epochs as fill every batch."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.rate, momentum=plan.momentum, weight_decay=plan.decay
    )
    epochs = -(-plan.steps * plan.batch_rows // len(labels))
    order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs)])
    for step in range(plan.steps):
        places = order[step * plan.batch_rows : (step + 1) * plan.batch_rows]
        optimizer.zero_grad()
        torch.autograd.backward(loss(model(inputs[places]), labels[places]))
        optimizer.step()
