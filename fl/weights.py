"""Bytes of weights and updates: safetensors files of grid integers, one file for one content.

A model's weights are int32 tensors under the names of `fl.spec`; an update is its delta as one
int32 vector and the segments of its trace, and its header names its origin, so that a file serves
no other task, round or trainer. The header follows from the spec, and no other is read
(`fl.tensors`).
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.fixed import CHUNK, Int32s, Ints, check_range
from fl.spec import parameter_count, parameters
from fl.tensors import DTYPES, Layout, Tensor, pack, unpack
from fl.trace import Origin, Segment, origin_digest
from vm.digest import DIGEST_BYTES, digest_parts
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Digest

HEAD_BYTES = 104  # of an update file, enough to read its origin
_HEAD = re.compile(rb'.{8}\{"__metadata__":\{"update":"[0-9]{2} ([0-9a-f]{64})"\}', re.DOTALL)


def weights_size(spec: ModelSpec, grid_bits: int) -> int:
    """The length in bytes of every weights file of this model."""
    return _weights_layout(spec, grid_bits).size


def pack_weights(spec: ModelSpec, grid_bits: int, values: Ints) -> bytes:
    """The file of `values`, [parameters] in the spec's order; raises `Refused("update.range")`."""
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    flat = _int32(values)
    for parameter in parameters(spec):
        arrays[parameter.name] = flat[start : start + parameter.size]
        start += parameter.size
    assert start == len(flat), f"expected {start} weights, found {len(flat)}"
    return pack(_weights_layout(spec, grid_bits), arrays)


def unpack_weights(spec: ModelSpec, grid_bits: int, data: bytes) -> Ints:
    """The weights, [parameters] in the spec's order; raises `Refused("weights.*")`."""
    arrays = unpack(_weights_layout(spec, grid_bits), data, "weights")
    flat = [arrays[parameter.name] for parameter in parameters(spec)]
    return np.concatenate(flat).astype(np.int64)


def apply(spec: ModelSpec, grid_bits: int, base: bytes, delta: Ints) -> bytes:
    """The file of base + delta, exact; raises `Refused("weights.*" | "update.range")`."""
    return pack_weights(spec, grid_bits, unpack_weights(spec, grid_bits, base) + delta)


def update_size(spec: ModelSpec, grid_bits: int, segments: int) -> int:
    """The length in bytes of every update file of this model with so many segments."""
    return _update_layout(spec, grid_bits, bytes(DIGEST_BYTES), segments).size


def pack_update(
    spec: ModelSpec, grid_bits: int, origin: Origin, delta: Ints, segments: Sequence[Segment]
) -> bytes:
    """The file of an update; raises `Refused("update.range")` where int32 does not hold it."""
    arrays = {
        "delta": _int32(delta),
        "moves": np.array([segment.move for segment in segments], DTYPES["I64"]),
        "weights": _bytes([segment.weights for segment in segments]),
        "optimizer": _bytes([segment.optimizer for segment in segments]),
        "batches": _bytes([segment.batches for segment in segments]),
    }
    return pack(_update_layout(spec, grid_bits, origin_digest(origin), len(segments)), arrays)


def unpack_update(
    spec: ModelSpec, grid_bits: int, origin: Origin, segments: int, data: bytes
) -> tuple[Ints, tuple[Segment, ...]]:
    """The delta, [parameters], and the segments; raises `Refused("update.*")`."""
    arrays = _read_update(spec, grid_bits, origin, segments, data)
    moves = arrays["moves"].tolist()
    digests = (
        arrays[name].reshape(segments, DIGEST_BYTES) for name in ("weights", "optimizer", "batches")
    )
    found = tuple(
        Segment(weights.tobytes(), optimizer.tobytes(), batches.tobytes(), move)
        for weights, optimizer, batches, move in zip(*digests, moves, strict=True)
    )
    return arrays["delta"].astype(np.int64), found


def unpack_delta(
    spec: ModelSpec, grid_bits: int, origin: Origin, segments: int, data: bytes
) -> Int32s:
    """The delta alone, read in place; raises as `unpack_update`."""
    return _read_update(spec, grid_bits, origin, segments, data)["delta"]


def _read_update(
    spec: ModelSpec, grid_bits: int, origin: Origin, segments: int, data: bytes
) -> dict[str, NDArray[Any]]:
    """The arrays of an update's file, checked."""
    expected = origin_digest(origin)
    if read_origin(data) not in (None, expected):
        raise Refused(
            "update.origin",
            f"expected that of {origin.trainer} in round {origin.round} of {origin.task}, "
            "found another",
        )
    arrays = unpack(_update_layout(spec, grid_bits, expected, segments), data, "update")
    if not all(0 <= move <= HEIGHT_MAX for move in arrays["moves"].tolist()):
        raise Refused("update.move", f"expected moves from 0 to {HEIGHT_MAX}, found another")
    return arrays


def read_origin(head: bytes) -> Digest | None:
    """Digest of the origin that an update file's header names; None of any other file.

    `head` are the file's first HEAD_BYTES or more. Whoever writes a file can name any origin, but
    another origin makes another file, with another address.
    """
    found = _HEAD.match(head)
    return None if found is None else bytes.fromhex(found[1].decode())


def digest_ints(tag: str, values: Ints | Int32s) -> Digest:
    """Digest of grid integers as little-endian int32; raises `Refused("update.range")`."""
    starts = range(0, values.size, CHUNK)
    return digest_parts(tag, (_int32(values[at : at + CHUNK]).data.cast("B") for at in starts))


def _weights_layout(spec: ModelSpec, grid_bits: int) -> Layout:
    tensors = (Tensor(one.name, "I32", one.shape) for one in parameters(spec))
    return Layout("grid_bits", str(grid_bits), tuple(tensors))


def _update_layout(spec: ModelSpec, grid_bits: int, origin: Digest, segments: int) -> Layout:
    digests = (segments, DIGEST_BYTES)
    tensors = (
        Tensor("delta", "I32", (parameter_count(spec),)),
        Tensor("moves", "I64", (segments,)),
        Tensor("weights", "U8", digests),
        Tensor("optimizer", "U8", digests),
        Tensor("batches", "U8", digests),
    )
    return Layout("update", f"{grid_bits} {origin.hex()}", tensors)


def _int32(values: Ints | Int32s) -> Int32s:
    """As little-endian int32, in place where they are; raises `Refused("update.range")`."""
    if values.dtype == np.int64:
        check_range(values.astype(np.int64, copy=False))
    return values.astype(DTYPES["I32"], copy=False)


def _bytes(digests: Sequence[Digest]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8)
