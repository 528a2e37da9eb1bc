"""Bytes of weights and updates: safetensors files of grid integers, one file for one content.

A model's weights are int32 tensors under the names of `fl.spec`; an update is its delta as one
int32 vector and the segments of its trace, and its header names its origin, so that a file serves
no other task, round or trainer. The header follows from the spec, so reading compares
it instead of parsing it: a file with another name, dtype, shape, order, blank or trailing byte is
refused. We write the header ourselves, byte for byte as the safetensors library does (a test
compares), because addresses on the chain must not change with a library's version.
Format: https://huggingface.co/docs/safetensors, section "Format".
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.fixed import Ints, check_range
from fl.spec import parameter_count, parameters
from fl.trace import Origin, Segment, origin_digest
from vm.digest import DIGEST_BYTES, digest
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Digest

LENGTH_BYTES = 8  # of the header's length, at the beginning of the file
HEAD_BYTES = 104  # of an update file, enough to read its origin
_HEAD = re.compile(rb'.{8}\{"__metadata__":\{"update":"[0-9]{2} ([0-9a-f]{64})"\}', re.DOTALL)
DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("<u1"),
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def weights_size(spec: ModelSpec, grid_bits: int) -> int:
    """The length in bytes of every weights file of this model."""
    return _size(_weights_layout(spec), _weights_metadata(grid_bits))


def pack_weights(spec: ModelSpec, grid_bits: int, values: Ints) -> bytes:
    """The file of `values`, [parameters] in the spec's order; raises `Refused("update.range")`."""
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    flat = _int32(values)
    for parameter in parameters(spec):
        arrays[parameter.name] = flat[start : start + parameter.size]
        start += parameter.size
    assert start == len(flat), f"expected {start} weights, found {len(flat)}"
    return _pack(_weights_layout(spec), _weights_metadata(grid_bits), arrays)


def unpack_weights(spec: ModelSpec, grid_bits: int, data: bytes) -> Ints:
    """The weights, [parameters] in the spec's order; raises `Refused("weights.*")`."""
    metadata = _weights_metadata(grid_bits)
    arrays = _unpack(_weights_layout(spec), metadata, data, "weights")
    flat = [arrays[parameter.name] for parameter in parameters(spec)]
    return np.concatenate(flat).astype(np.int64)


def apply(spec: ModelSpec, grid_bits: int, base: bytes, delta: Ints) -> bytes:
    """The file of base + delta, exact; raises `Refused("weights.*" | "update.range")`."""
    return pack_weights(spec, grid_bits, unpack_weights(spec, grid_bits, base) + delta)


def update_size(spec: ModelSpec, grid_bits: int, segments: int) -> int:
    """The length in bytes of every update file of this model with so many segments."""
    metadata = _update_metadata(grid_bits, bytes(DIGEST_BYTES))
    return _size(_update_layout(spec, segments), metadata)


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
    metadata = _update_metadata(grid_bits, origin_digest(origin))
    return _pack(_update_layout(spec, len(segments)), metadata, arrays)


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
) -> NDArray[np.int32]:
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
    metadata = _update_metadata(grid_bits, expected)
    arrays = _unpack(_update_layout(spec, segments), metadata, data, "update")
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


def digest_ints(tag: str, values: Ints) -> Digest:
    """Digest of grid integers as little-endian int32; raises `Refused("update.range")`."""
    return digest(tag, _int32(values).tobytes())


def _weights_layout(spec: ModelSpec) -> list[_Tensor]:
    return [_Tensor(parameter.name, "I32", parameter.shape) for parameter in parameters(spec)]


def _update_layout(spec: ModelSpec, segments: int) -> list[_Tensor]:
    digests = (segments, DIGEST_BYTES)
    return [
        _Tensor("delta", "I32", (parameter_count(spec),)),
        _Tensor("moves", "I64", (segments,)),
        _Tensor("weights", "U8", digests),
        _Tensor("optimizer", "U8", digests),
        _Tensor("batches", "U8", digests),
    ]


def _ordered(layout: Sequence[_Tensor]) -> list[_Tensor]:
    """As safetensors lays tensors out: widest dtype first, which aligns them, then by name."""
    return sorted(layout, key=lambda tensor: (-DTYPES[tensor.dtype].itemsize, tensor.name))


def _weights_metadata(grid_bits: int) -> dict[str, str]:
    return {"grid_bits": str(grid_bits)}


def _update_metadata(grid_bits: int, origin: Digest) -> dict[str, str]:
    return {"update": f"{grid_bits} {origin.hex()}"}


def _header(layout: Sequence[_Tensor], metadata: dict[str, str]) -> bytes:
    """The length and the JSON header, padded with blanks to 8 bytes.

    The metadata has one entry only: the library keeps several in no fixed order.
    """
    entries: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for tensor in _ordered(layout):
        end = start + tensor.size
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _size(layout: Sequence[_Tensor], metadata: dict[str, str]) -> int:
    return len(_header(layout, metadata)) + sum(tensor.size for tensor in layout)


def _pack(
    layout: Sequence[_Tensor], metadata: dict[str, str], arrays: dict[str, NDArray[Any]]
) -> bytes:
    parts = [_header(layout, metadata)]
    for tensor in _ordered(layout):
        data = arrays[tensor.name].tobytes()
        assert len(data) == tensor.size, f"expected {tensor}, found {len(data)} bytes"
        parts.append(data)
    return b"".join(parts)


def _unpack(
    layout: Sequence[_Tensor], metadata: dict[str, str], data: bytes, what: str
) -> dict[str, NDArray[Any]]:
    """Flat read-only arrays by name; raises `Refused("<what>.size" | "<what>.header")`."""
    header = _header(layout, metadata)
    size = _size(layout, metadata)
    if len(data) != size:
        raise Refused(f"{what}.size", f"expected {size} bytes, found {len(data)}")
    if data[: len(header)] != header:
        raise Refused(
            f"{what}.header",
            f"expected the safetensors header of {len(layout)} tensors that the model's spec gives,"
            " found another",
        )
    arrays: dict[str, NDArray[Any]] = {}
    start = len(header)
    for tensor in _ordered(layout):
        dtype = DTYPES[tensor.dtype]
        arrays[tensor.name] = np.frombuffer(data, dtype, prod(tensor.shape), start)
        start += tensor.size
    return arrays


def _int32(values: Ints) -> NDArray[np.int32]:
    return check_range(values).astype(np.dtype("<i4"))


def _bytes(digests: Sequence[Digest]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8)
