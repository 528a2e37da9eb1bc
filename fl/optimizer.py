"""Local optimizers whose state lives on the grid between two snapshots.

SGD with momentum in torch's form (Sutskever et al. 2013, without dampening), and Adam (Kingma and
Ba 2015, torch's form, with L2 decay in the gradient). Adam's second moment is stored as its square
root: the moment itself is a squared gradient, which rounds to 0 on a grid of 2^-24 and leaves a
step divided by nothing (on digits accuracy falls from 96 to 55 %).

Every operation is one of torch's elementwise kernels with one rounding each (IEEE 754): products
are formed before they are added, since a fused kernel rounds once on a machine that has one and
twice on another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl.fixed import Int32s
from fl.model import narrow, shaped
from vm.terms import MICRO, NANO, Optimizer, Training


@dataclass(slots=True)
class State:
    """The moments, each shaped as the parameters; of SGD `second` is empty."""

    first: list[Tensor]  # SGD: velocity; Adam: mean of gradients
    second: list[Tensor]  # Adam: mean of their squares, not its root


def load_state(training: Training, flat: Int32s, like: Sequence[Tensor], grid_bits: int) -> State:
    """The state from grid integers, [state_count] as `fl.trace` counts them."""
    match training.optimizer:
        case Optimizer.SGD:
            return State(shaped(flat, like, grid_bits), [])
        case Optimizer.ADAM:
            half = len(flat) // 2
            roots = shaped(flat[half:], like, grid_bits)
            return State(shaped(flat[:half], like, grid_bits), [root.square_() for root in roots])


def store_state(state: State, grid_bits: int) -> Int32s:
    """The state rounded to the grid; raises `Refused("update.range")`. `state` is used up."""
    roots = [moment.sqrt_() for moment in state.second]
    return narrow([*state.first, *roots], grid_bits)


def step(
    training: Training,
    number: int,
    weights: Sequence[Tensor],
    state: State,
    gradients: Sequence[Tensor],
    anchor: Sequence[Tensor],
) -> None:
    """Step `number`, from 1, in place; `gradients` are used up.

    Adam's bias correction counts the steps of the round. `anchor` are the round's base weights,
    to which FedProx pulls (Li et al. 2020): the gradient of mu/2 |w - anchor|^2 is added; empty
    without.
    """
    decay = training.decay / MICRO
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            gradient.add_(weight * decay)
        if training.proximal:
            pull = training.proximal / MICRO
            for weight, gradient, place in zip(weights, gradients, anchor, strict=True):
                gradient.add_((weight - place).mul_(pull))
        match training.optimizer:
            case Optimizer.SGD:
                _sgd(training, weights, state, gradients)
            case Optimizer.ADAM:
                _adam(training, number, weights, state, gradients)


def _sgd(
    training: Training, weights: Sequence[Tensor], state: State, gradients: Sequence[Tensor]
) -> None:
    """Momentum: v = momentum v + gradient; w = w - rate v."""
    rate, momentum = training.rate / MICRO, training.momentum / MICRO
    for weight, velocity, gradient in zip(weights, state.first, gradients, strict=True):
        velocity.mul_(momentum).add_(gradient)
        weight.sub_(velocity * rate)


def _adam(
    training: Training,
    number: int,
    weights: Sequence[Tensor],
    state: State,
    gradients: Sequence[Tensor],
) -> None:
    """Running means m of g and v of g^2: w = w - rate m' / (sqrt(v') + epsilon).

    m' = m / (1 - beta1^number) and v' = v / (1 - beta2^number) undo that both start at zero.
    """
    rate, epsilon = training.rate / MICRO, training.epsilon_nano / NANO
    beta1, beta2 = training.momentum / MICRO, training.beta2 / MICRO
    first_due, second_due = 1 - _power(beta1, number), 1 - _power(beta2, number)
    moments = zip(weights, state.first, state.second, gradients, strict=True)
    for weight, first, second, gradient in moments:
        first.mul_(beta1).add_(gradient * (1 - beta1))
        second.mul_(beta2).add_(gradient.square_().mul_(1 - beta2))
        change = torch.div(first, first_due).mul_(rate)
        weight.sub_(change.div_((second / second_due).sqrt_().add_(epsilon)))


def _power(base: float, exponent: int) -> float:
    """By squaring, in operations that IEEE 754 fixes: C's pow is not the same everywhere."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
