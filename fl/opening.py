"""What a trainer opens to verifiers: one segment's snapshots and rows, and the part it trains on.

An opening is a safetensors file whose every size follows from the task, the segment and the number
of rows that the beacon draws, and whose header names its origin: no other file is read
(`fl.tensors`). Rows come in order of their place in the training part, each with its salt, so that
its leaf can be recomputed. Nothing here is trusted: `fl.replay` holds it against the chain.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl.dataset import part_digest, salt
from fl.fixed import Int32s
from fl.preprocess import ROWS_MAX, Table
from fl.spec import parameter_count
from fl.tensors import Arrays, Layout, Tensor, pack, unpack
from fl.trace import Origin, origin_digest, state_count
from vm.digest import DIGEST_BYTES
from vm.record import Dataset, ModelSpec
from vm.refusal import Refused
from vm.shape import Digest
from vm.terms import Training
from vm.tree import root

HEAD_BYTES = 128  # of an opening's or a part's file, enough to read its origin and counts
PART_ROUND = 0  # of a part's origin: it is the same in every round of the task
_HEAD = re.compile(
    rb'.{8}\{"__metadata__":\{"(?:opening|part)":"([0-9a-f]{64}) ([0-9]{1,7}) ([0-9]{1,7})"\}',
    re.DOTALL,
)

Cells = NDArray[np.int64]  # [rows, columns + 1]: as in the leaf, inputs and then the label


@dataclass(frozen=True, slots=True)
class Opening:
    """One segment: what is before and after it in grid units, and the rows of its batches.

    `weights` and `state` are empty of segment 0: before it are the chain's base and zeros. The
    other three sorts of arrays are [parameters], [state_count] and by rows opened.
    """

    segment: int
    weights: Int32s
    state: Int32s
    after_weights: Int32s
    after_state: Int32s
    salts: tuple[Digest, ...]
    cells: Cells


@dataclass(frozen=True, slots=True)
class Part:
    """The leaves of all rows of a dataset, and the numbers of those that the trainer trains on."""

    leaves: tuple[Digest, ...]
    train: tuple[int, ...]

    @property
    def data(self) -> Digest:
        """What an update commits to its training rows by, in their order."""
        return part_digest(tuple(self.leaves[number] for number in self.train))


def open_rows(
    table: Table, secret: bytes, numbers: Sequence[int]
) -> tuple[tuple[Digest, ...], Cells]:
    """Salts and cells of the rows of these numbers in a hospital's own table."""
    salts = tuple(salt(secret, number) for number in numbers)
    cells = [(*table.rows[number], table.labels[number]) for number in numbers]
    return salts, np.array(cells, np.int64)


def part_origin(task: str, trainer: str, dataset: str) -> Origin:
    """The origin that a part's file names."""
    return Origin(task, PART_ROUND, trainer, dataset)


def opening_size(spec: ModelSpec, training: Training, segment: int, rows: int, columns: int) -> int:
    """The bytes of the file of an opening of so many rows."""
    return _opening_layout(spec, training, bytes(DIGEST_BYTES), segment, rows, columns).size


def rows_max(dataset: Dataset) -> int:
    """The most rows of a dataset; its band is its steward's word, and may claim any number."""
    return min(dataset.rows.high, ROWS_MAX)


def rows_opened_max(training: Training, rows: int) -> int:
    """The most rows that the batches of one segment hold, of a dataset of so many rows at most."""
    return min(training.snapshot_steps * training.batch_rows, rows)


def part_size(rows: int, train: int) -> int:
    """The bytes of the file of a part of so many rows, of which so many are trained on."""
    return _part_layout(bytes(DIGEST_BYTES), rows, train).size


def read_opening_origin(head: bytes) -> Digest | None:
    """Digest of the origin that the header of an opening or a part names; None of any other file.

    `head` are the file's first HEAD_BYTES or more.
    """
    found = _HEAD.match(head)
    return None if found is None else bytes.fromhex(found[1].decode())


def pack_opening(spec: ModelSpec, training: Training, origin: Origin, opening: Opening) -> bytes:
    """The file of an opening."""
    rows, width = opening.cells.shape
    layout = _opening_layout(
        spec, training, origin_digest(origin), opening.segment, rows, width - 1
    )
    arrays: Arrays = {
        "weights": opening.weights,
        "state": opening.state,
        "after_weights": opening.after_weights,
        "after_state": opening.after_state,
        "salts": np.frombuffer(b"".join(opening.salts), np.uint8),
        "cells": opening.cells,
    }
    return pack(layout, arrays)


def unpack_opening(
    spec: ModelSpec,
    training: Training,
    origin: Origin,
    segment: int,
    rows: int,
    columns: int,
    data: bytes,
) -> Opening:
    """The opening of `segment`, its arrays in place; raises `Refused("opening.*")`.

    `rows` are as many as the beacon draws for the segment.
    """
    expected = origin_digest(origin)
    if read_opening_origin(data[:HEAD_BYTES]) not in (None, expected):
        raise Refused(
            "opening.origin",
            f"expected that of {origin.trainer} in round {origin.round} of {origin.task}, "
            "found another",
        )
    layout = _opening_layout(spec, training, expected, segment, rows, columns)
    arrays = unpack(layout, data, "opening")
    return Opening(
        segment=segment,
        weights=arrays["weights"],
        state=arrays["state"],
        after_weights=arrays["after_weights"],
        after_state=arrays["after_state"],
        salts=_digests(arrays["salts"]),
        cells=arrays["cells"].reshape(rows, columns + 1),
    )


def pack_part(origin: Origin, part: Part) -> bytes:
    """The file of a part."""
    layout = _part_layout(origin_digest(origin), len(part.leaves), len(part.train))
    arrays: Arrays = {
        "leaves": np.frombuffer(b"".join(part.leaves), np.uint8),
        "train": np.array(part.train, np.int32),
    }
    return pack(layout, arrays)


def unpack_part(origin: Origin, data: bytes) -> Part:
    """The part, its numbers rising and within its rows; raises `Refused("opening.*")`."""
    found = _HEAD.match(data[:HEAD_BYTES])
    rows, train = (0, 0) if found is None else (int(found[2]), int(found[3]))
    if not 1 <= train <= rows <= ROWS_MAX:
        raise Refused(
            "opening.header", f"expected a part of 1 to {ROWS_MAX} rows, found another file"
        )
    expected = origin_digest(origin)
    if read_opening_origin(data[:HEAD_BYTES]) != expected:
        raise Refused(
            "opening.origin",
            f"expected the part of {origin.trainer} in {origin.task}, found another",
        )
    arrays = unpack(_part_layout(expected, rows, train), data, "opening")
    numbers = arrays["train"].astype(np.int64)  # an int32 difference could wrap around
    if numbers[0] < 0 or numbers[-1] >= rows or not (np.diff(numbers) > 0).all():
        raise Refused("opening.part", f"expected rising numbers of rows below {rows}, found others")
    return Part(_digests(arrays["leaves"]), tuple(numbers.tolist()))


def check_part(part: Part, dataset_root: Digest, data: Digest) -> None:
    """Raise `Refused("opening.*")` unless it is the part of the dataset and of the update."""
    if root(part.leaves) != dataset_root:
        raise Refused(
            "opening.dataset", "expected leaves under the registered dataset's root, found others"
        )
    if part.data != data:
        raise Refused(
            "opening.data", "expected the training rows that the update commits to, found others"
        )


def _opening_layout(
    spec: ModelSpec, training: Training, origin: Digest, segment: int, rows: int, columns: int
) -> Layout:
    weights = parameter_count(spec)
    state = state_count(training, weights)
    before = (0, 0) if segment == 0 else (weights, state)
    tensors = (
        Tensor("weights", "I32", (before[0],)),
        Tensor("state", "I32", (before[1],)),
        Tensor("after_weights", "I32", (weights,)),
        Tensor("after_state", "I32", (state,)),
        Tensor("salts", "U8", (rows, DIGEST_BYTES)),
        Tensor("cells", "I64", (rows, columns + 1)),
    )
    return Layout("opening", f"{origin.hex()} {segment} {rows}", tensors)


def _part_layout(origin: Digest, rows: int, train: int) -> Layout:
    tensors = (Tensor("leaves", "U8", (rows, DIGEST_BYTES)), Tensor("train", "I32", (train,)))
    return Layout("part", f"{origin.hex()} {rows} {train}", tensors)


def _digests(flat: NDArray[np.uint8]) -> tuple[Digest, ...]:
    data = flat.tobytes()
    return tuple(data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES))
