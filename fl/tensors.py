"""Safetensors files of which the reader knows the header: it compares it and never parses it.

A file with another name, dtype, shape, order, blank or trailing byte is refused, so for one content
there is one file. We write the header ourselves, byte for byte as the safetensors library does (a
test compares), because addresses on the chain must not change with a library's version.
Format: https://huggingface.co/docs/safetensors, section "Format".
"""

import json
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vm.refusal import Refused

LENGTH_BYTES = 8  # of the header's length, at the beginning of the file
DTYPES: dict[str, np.dtype[Any]] = {  # in the order in which a file holds them
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("<u1"),
}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """What fixes a file's header: its tensors and one entry of metadata.

    More entries than one the library keeps in no fixed order.
    """

    key: str
    value: str
    tensors: tuple[Tensor, ...]

    @property
    def ordered(self) -> list[Tensor]:
        """As safetensors lays tensors out: widest dtype first, which aligns them, then by name."""
        order = list(DTYPES)
        return sorted(self.tensors, key=lambda one: (order.index(one.dtype), one.name))

    @property
    def size(self) -> int:
        """The bytes of every file of this layout."""
        return len(self.header()) + sum(tensor.size for tensor in self.tensors)

    def header(self) -> bytes:
        """The length and the JSON header, padded with blanks to 8 bytes."""
        entries: dict[str, object] = {"__metadata__": {self.key: self.value}}
        start = 0
        for tensor in self.ordered:
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


def pieces(layout: Layout, arrays: Arrays) -> list[bytes | memoryview]:
    """The file in parts, to be written one after the other: arrays are not copied."""
    parts: list[bytes | memoryview] = [layout.header()]
    for tensor in layout.ordered:
        array = np.ascontiguousarray(arrays[tensor.name], DTYPES[tensor.dtype])
        assert array.nbytes == tensor.size, f"expected {tensor}, found {array.nbytes} bytes"
        if tensor.size:  # an empty array has no memory to view
            parts.append(array.data.cast("B"))
    return parts


def pack(layout: Layout, arrays: Arrays) -> bytes:
    """The file."""
    return b"".join(pieces(layout, arrays))


def unpack(layout: Layout, data: bytes, what: str) -> Arrays:
    """Flat read-only arrays by name, in place; raises `Refused("<what>.size" | "<what>.header")`.

    The size comes first: nothing is allocated for a file of another length.
    """
    header = layout.header()
    size = layout.size
    if len(data) != size:
        raise Refused(f"{what}.size", f"expected {size} bytes, found {len(data)}")
    if data[: len(header)] != header:
        raise Refused(
            f"{what}.header",
            f"expected the safetensors header of {len(layout.tensors)} tensors that the model's "
            "spec gives, found another",
        )
    arrays: Arrays = {}
    start = len(header)
    for tensor in layout.ordered:
        dtype = DTYPES[tensor.dtype]
        arrays[tensor.name] = np.frombuffer(data, dtype, prod(tensor.shape), start)
        start += tensor.size
    return arrays
