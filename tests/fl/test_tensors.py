"""Files whose header the reader knows: the library reads them, and no other bytes are read."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from fl.tensors import Arrays, Layout, Tensor, pack, pieces, unpack
from vm.refusal import Refused

LAYOUT = Layout(
    "made",
    "up",
    (
        Tensor("bytes", "U8", (3,)),
        Tensor("none", "I32", (0,)),
        Tensor("numbers", "I32", (2, 2)),
        Tensor("losses", "F64", (1,)),
        Tensor("moves", "I64", (1,)),
    ),
)
ARRAYS: Arrays = {
    "bytes": np.array([1, 2, 3], np.uint8),
    "none": np.zeros(0, np.int32),
    "numbers": np.array([[1, -2], [3, -4]], np.int32),
    "losses": np.array([0.5]),
    "moves": np.array([7]),
}


def test_what_is_packed_is_unpacked_in_place() -> None:
    """Arrays come back flat, as views of the file's bytes."""
    data = pack(LAYOUT, ARRAYS)

    found = unpack(LAYOUT, data, "made")

    assert len(data) == LAYOUT.size
    assert {name: found[name].tolist() for name in found} == {
        name: array.ravel().tolist() for name, array in ARRAYS.items()
    }
    assert np.shares_memory(found["numbers"], np.frombuffer(data, np.uint8))


def test_the_library_reads_and_writes_the_same_bytes() -> None:
    """Every dtype and an empty array too."""
    data = pack(LAYOUT, ARRAYS)

    assert save(load(data), {"made": "up"}) == data


def test_pieces_are_the_file_without_copies() -> None:
    """Whoever writes a large array to a disk holds it once."""
    parts = pieces(LAYOUT, ARRAYS)

    assert b"".join(parts) == pack(LAYOUT, ARRAYS)
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), ARRAYS["bytes"]) for part in parts)


@pytest.mark.parametrize("change", [b"\0", b""])
def test_another_size_is_refused_first(change: bytes) -> None:
    """Before the header is compared and anything is allocated."""
    data = pack(LAYOUT, ARRAYS)[:-1] + change * 2

    with pytest.raises(Refused, match=r"made\.size"):
        unpack(LAYOUT, data, "made")


def test_another_header_is_refused() -> None:
    """Of the same size too."""
    data = pack(LAYOUT, ARRAYS).replace(b'"up"', b'"in"')

    with pytest.raises(Refused, match=r"made\.header"):
        unpack(LAYOUT, data, "made")
