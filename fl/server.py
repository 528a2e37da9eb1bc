"""Server-side optimizers in integers: how an aggregate becomes a step of the model, and its state.

FedAvg, FedAvgM and FedAdam (Reddi et al. 2021, algorithm 2) with everything on the model's grid, so
that every validator comes to the same step and the same state. Adam's second moment is kept as its
square root: the moment itself rounds to 0 on the grid and training breaks (field notes, C).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fl.fixed import CHUNK, Int32s, Ints, check_range, divide, root
from fl.spec import parameter_count
from fl.tensors import Layout, Tensor, pack, unpack
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.terms import MICRO, Server, ServerOptimizer

PRODUCT_MAX = 2**62  # of a rate and a number that it scales: twice as much fits int64
_ARRAYS = {  # of the state by optimizer, each [p]
    ServerOptimizer.AVERAGE: (),
    ServerOptimizer.MOMENTUM: ("velocity",),
    ServerOptimizer.ADAM: ("first", "root"),
}


@dataclass(frozen=True, slots=True)
class Moments:
    """What an optimizer keeps from round to round: arrays [p] of grid units, none of FedAvg."""

    arrays: tuple[Int32s, ...]


def start(server: Server, grid_bits: int, count: int) -> Moments:
    """The state before a task's first closed round, of a model with `count` parameters.

    Moments are zero, but that of squares is tau^2, as Reddi et al. ask: the first step is then no
    larger than later ones, and no correction of bias is needed.
    """
    values = {"velocity": 0, "first": 0, "root": _tau(server, grid_bits)}
    return Moments(
        tuple(np.full(count, values[name], np.int32) for name in _ARRAYS[server.optimizer])
    )


def step(server: Server, grid_bits: int, delta: Ints, state: Moments) -> tuple[Ints, Moments]:
    """The step of the model [p] after aggregate `delta` [p], and the next state.

    Raises `Refused("update.range")` where a number leaves the grid.
    """
    moved = np.empty(len(delta), np.int64)
    after = Moments(tuple(np.empty(len(delta), np.int32) for _ in state.arrays))
    for part in _parts(len(delta)):
        old = [array[part].astype(np.int64) for array in state.arrays]
        moved[part], new = _step(server, grid_bits, check_range(delta[part]), old)
        for array, values in zip(after.arrays, new, strict=True):
            array[part] = check_range(values)
    return moved, after


def _step(
    server: Server, grid_bits: int, delta: Ints, state: list[Ints]
) -> tuple[Ints, list[Ints]]:
    match server.optimizer:
        case ServerOptimizer.AVERAGE:
            return _scale(server, delta), []
        case ServerOptimizer.MOMENTUM:
            (velocity,) = state
            velocity = divide(server.momentum * velocity, MICRO) + delta  # Hsu et al. 2019
            return _scale(server, velocity), [velocity]
        case ServerOptimizer.ADAM:
            first, second = state
            beta = server.momentum
            first = divide(beta * first + (MICRO - beta) * delta, MICRO)
            second = _root_mean_square(server.beta2, second, delta)
            ratio = divide(first << grid_bits, second + _tau(server, grid_bits))
            return _scale(server, ratio), [first, second]


def _scale(server: Server, values: Ints) -> Ints:
    """Times the rate, half to even; no product exceeds PRODUCT_MAX."""
    largest = PRODUCT_MAX // server.rate
    if int(np.abs(values).max(initial=0)) > largest:
        raise Refused("update.range", f"expected a step within {largest} grid units, found more")
    return divide(server.rate * values, MICRO)


def _root_mean_square(beta: int, root_before: Ints, delta: Ints) -> Ints:
    """The root, to the nearest unit, of the floor of beta r^2 + (1 - beta) delta^2; beta in 10^-6.

    Squares are up to 2^62, and a millionth of them times 10^6 is too; the mean of two squares is
    formed from quotients and remainders by 10^6, so that no product exceeds 2^62.
    """
    quotient = np.zeros_like(delta)
    remainder = np.zeros_like(delta)
    for weight, values in ((beta, root_before), (MICRO - beta, delta)):
        high, low = np.divmod(np.square(values), MICRO)
        quotient += weight * high
        remainder += weight * low
    return root(quotient + remainder // MICRO)


def _tau(server: Server, grid_bits: int) -> int:
    """In grid units, from 1 to 2^grid_bits for what a task may ask (`fl.resilience`)."""
    return (server.tau << grid_bits) // MICRO


def _parts(count: int) -> Iterator[slice]:
    return (slice(at, at + CHUNK) for at in range(0, count, CHUNK))


def state_size(spec: ModelSpec, grid_bits: int, server: Server) -> int:
    """The length in bytes of every state file of this model and optimizer."""
    return _layout(spec, grid_bits, server).size


def pack_state(spec: ModelSpec, grid_bits: int, server: Server, state: Moments) -> bytes:
    """The file of a state."""
    names = _ARRAYS[server.optimizer]
    arrays = dict(zip(names, state.arrays, strict=True))
    return pack(_layout(spec, grid_bits, server), arrays)


def unpack_state(spec: ModelSpec, grid_bits: int, server: Server, data: bytes) -> Moments:
    """The state in a file, in place; raises `Refused("server.*")`."""
    arrays = unpack(_layout(spec, grid_bits, server), data, "server")
    return Moments(tuple(arrays[name] for name in _ARRAYS[server.optimizer]))


def _layout(spec: ModelSpec, grid_bits: int, server: Server) -> Layout:
    shape = (parameter_count(spec),)
    tensors = tuple(Tensor(name, "I32", shape) for name in _ARRAYS[server.optimizer])
    return Layout("server", f"{grid_bits} {server.optimizer.value}", tensors)
