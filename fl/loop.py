"""A site's own training loop: joins a round through the training peer on the same machine.

    import fl
    rnd = fl.join("preterm", "peer/loop.sock")
    rnd.load(model)
    inputs, labels = rnd.rows()
    for step in range(1, rnd.steps + 1):
        ...                                      # the loop as it was
        rnd.snapshot(step, model, optimizer)

The script has an environment of its own: this module needs numpy, and torch only where the script
brings it. It holds the socket that no other module of `fl` may hold (ADR 21).
"""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import distributions
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from fl import frames
from fl.fixed import Floats, Ints, from_grid, to_grid
from fl.frames import Array, Join, Kept, Message, Offer, Taken
from fl.spec import parameter_count, parameters
from vm.digest import ENVIRONMENT, SCRIPT, digest
from vm.encoding import encode
from vm.refusal import Refused
from vm.shape import Digest

SQUARED = ("exp_avg_sq", "max_exp_avg_sq")  # second moments: their roots go on the grid
INT32 = np.dtype("<i4")
PACKAGES_MAX = 10_000  # of an environment that is named by their versions


def join(task: str, path: str, *, scored: bool = False) -> "Round":
    """The next round of `task`, once there is one, from the peer whose socket is at `path`.

    Raises `Refused` with the peer's reason, and `Refused("loop.unreachable")`.
    """
    joining = Join(task, script_digest(), environment_digest(), scored)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            connection.connect(path)
        except OSError as error:
            raise Refused(
                "loop.unreachable",
                f"{path}: expected the socket of a running training peer, found: {error.strerror}",
            ) from error
        return Round(connection, joining)
    except BaseException:
        connection.close()
        raise


class Round:
    """One round of a task: weights to start from, rows to train on, and who takes snapshots.

    `number` is the round's, `steps` and `batch_rows` are those of the task, `last` says that the
    task is done when this round closes.
    """

    def __init__(self, connection: socket.socket, joining: Join) -> None:
        self._connection = connection
        self._send(frames.frame(joining))
        offer = self._offer = cast(Offer, frames.expect(self._receive(), Offer))
        self.task, self.number, self.last = offer.task, offer.round, offer.last
        self.steps, self.batch_rows = offer.training.steps, offer.training.batch_rows
        self._shapes = [parameter.shape for parameter in parameters(offer.spec)]
        self._base = self._array(parameter_count(offer.spec), INT32).astype(np.int64)
        inputs = self._array(offer.rows * offer.inputs, np.dtype("<f8"))
        self._inputs = inputs.reshape(offer.rows, *offer.spec.input)
        self._labels = self._array(offer.rows, np.dtype("<i8"))
        self._done = 0  # segments

    def rows(self) -> tuple[Floats, NDArray[np.int64]]:
        """Inputs [rows, *input] and labels [rows] as the task preprocesses them.

        These are the site's training rows; those that score and test models are not among them.
        """
        return self._inputs, self._labels

    def arrays(self) -> list[Floats]:
        """The weights to start from, one array for each parameter, in the order of the spec."""
        return _split(from_grid(self._base, self._offer.grid_bits), self._shapes)

    def load(self, model: Any) -> None:
        """Set a torch module's parameters; raises `Refused("loop.shapes" | "loop.buffers")`."""
        import torch

        found = list(model.parameters())
        shapes = [tuple(parameter.shape) for parameter in found]
        if shapes != self._shapes:
            raise Refused(
                "loop.shapes", f"expected parameters of shapes {self._shapes}, found {shapes}"
            )
        if any(buffer.is_floating_point() for buffer in model.buffers()):
            raise Refused(
                "loop.buffers",
                "expected a model whose parameters are all that it learns, found buffers, such as "
                "those of BatchNorm: take GroupNorm, whose statistics are no weights",
            )
        with torch.no_grad():
            for parameter, values in zip(found, self.arrays(), strict=True):
                parameter.copy_(torch.from_numpy(values))

    def snapshot(self, step: int, model: Any, optimizer: Any) -> bool:
        """After each step, from 1: at the end of a segment round in place and hand over.

        Model and optimizer go on from the rounded numbers, so that the segment which follows
        starts where this one is seen to end. Returns whether the update is whole; it is after the
        last step. Raises `Refused("loop.step")` when a segment's end was left out, `update.range`,
        and what the peer refuses.
        """
        index, rest = divmod(step, self._offer.training.snapshot_steps)
        if rest:
            return False
        if index != self._done + 1:
            due = (self._done + 1) * self._offer.training.snapshot_steps
            raise Refused("loop.step", f"expected a snapshot after step {due}, found step {step}")
        weights, state = round_in_place(model, optimizer, self._offer.grid_bits)
        return self._hand_over(weights, state)

    def hand_over(self, arrays: Sequence[NDArray[Any]]) -> None:
        """The whole update of a round joined as scored: trained weights, as `arrays` gives them."""
        shapes = [np.shape(array) for array in arrays]
        if shapes != self._shapes:
            raise Refused(
                "loop.shapes", f"expected arrays of shapes {self._shapes}, found {shapes}"
            )
        flat = np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
        self._hand_over(to_grid(flat, self._offer.grid_bits), np.zeros(0, np.int64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the round; the peer waits for another join until the round's deadline."""
        self._connection.close()

    def _hand_over(self, weights: Ints, state: Ints) -> bool:
        self._send(frames.frame(Kept(self._done, len(state))))
        for part in frames.parts(weights.astype(INT32).tobytes() + state.astype(INT32).tobytes()):
            self._send(part)
        taken = cast(Taken, frames.expect(self._receive(), Taken))
        self._done += 1
        if taken.done:
            self.close()
        return taken.done

    def _array(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        array = Array(count * dtype.itemsize)
        while array.missing:
            array.add(self._receive())
        return np.frombuffer(bytearray(array.bytes()), dtype)  # which the script may write to

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # who refuses may have closed already: the answer says why
            self._connection.sendall(data)

    def _receive(self) -> Message:
        size = frames.length(self._read(frames.LENGTH_BYTES))
        return frames.message(self._read(size))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                found = self._connection.recv(size - len(data))
            except OSError:
                found = b""
            if not found:
                raise Refused(
                    "loop.closed",
                    "expected an answer of the training peer, found the connection closed: the "
                    "round is over, or the peer was stopped; its log says which",
                )
            data += found
        return bytes(data)


class NumPyClient(Protocol):
    """What of Flower's `NumPyClient` is used; whoever has it needs no flwr."""

    def fit(
        self, parameters: list[Floats], config: dict[str, Any]
    ) -> tuple[Sequence[NDArray[Any]], int, dict[str, Any]]:
        """Train from `parameters`; returns trained ones, a number of examples, and metrics."""


def fit(
    client: NumPyClient, task: str, path: str, config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One round of `task` by a Flower client, as a scored update; returns the client's metrics.

    The weights go to `client.fit` in the order of the model's spec, with `config` and the round's
    number as "server_round". How many examples it says is not used: a site's weight is on the
    chain. Raises as `join` does, and `Refused("loop.shapes")`.
    """
    with join(task, path, scored=True) as rnd:
        settings = {"server_round": rnd.number, **(config or {})}
        trained, _, metrics = client.fit(rnd.arrays(), settings)
        rnd.hand_over(trained)
    return metrics


def round_in_place(model: Any, optimizer: Any, grid_bits: int) -> tuple[Ints, Ints]:
    """Round a torch model and its optimizer's state to the grid; the numbers, flat.

    State comes parameter by parameter, by name. Of second moments the root is rounded, since they
    themselves would round to zero. Raises `Refused("update.range")` and changes nothing then.
    """
    import torch

    found = list(model.parameters())
    tensors = [(parameter, "") for parameter in found]
    for parameter in found:
        state = optimizer.state.get(parameter, {})
        for name in sorted(state):
            value = state[name]
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                tensors.append((value, name))
    rounded = []
    for tensor, name in tensors:
        values = tensor.detach().cpu().double()
        values = values.sqrt() if name in SQUARED else values
        rounded.append(to_grid(values.numpy().ravel(), grid_bits))
    with torch.no_grad():
        for (tensor, name), units in zip(tensors, rounded, strict=True):
            values = torch.from_numpy(from_grid(units, grid_bits)).reshape(tensor.shape)
            tensor.copy_(values.square() if name in SQUARED else values)
    empty = [np.zeros(0, np.int64)]
    return np.concatenate(rounded[: len(found)]), np.concatenate(rounded[len(found) :] or empty)


def script_digest() -> Digest:
    """Of the program that runs: its main file's bytes, or none where there is no file."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None:
        return digest(SCRIPT, b"")
    with open(path, "rb") as file:  # noqa: PTH123 - `pathlib` is not for `fl`
        return digest(SCRIPT, file.read())


def environment_digest() -> Digest:
    """Of Python's version and those of all packages that are installed."""
    found = {(item.metadata["Name"] or "", item.version or "") for item in distributions()}
    assert len(found) <= PACKAGES_MAX, f"{len(found)} packages"
    return digest(ENVIRONMENT, encode((sys.version, tuple(sorted(found)))))


def _split(flat: Floats, shapes: Sequence[tuple[int, ...]]) -> list[Floats]:
    """A flat vector as arrays of these shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = np.split(flat, ends)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
