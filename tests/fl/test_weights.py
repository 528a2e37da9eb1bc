"""Weights and updates as bytes: one file for one content, and no other file is read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fl.fixed import INT32_MAX, INT32_MIN, Ints
from fl.spec import logistic_regression, mlp, parameter_count, parameters
from fl.trace import Origin, Segment, origin_digest
from fl.weights import (
    HEAD_BYTES,
    apply,
    pack_update,
    pack_weights,
    read_origin,
    unpack_delta,
    unpack_update,
    unpack_weights,
    update_size,
    weights_size,
)
from vm.refusal import Refused

SPEC = mlp(3, (4, 4, 4, 4, 4), 2)  # eleven layers: "10.weight" sorts before "2.weight"
COUNT = parameter_count(SPEC)
WEIGHTS = np.arange(COUNT, dtype=np.int64) - 7
SEGMENTS = tuple(Segment(bytes([i]) * 32, bytes([i + 50]) * 32, bytes(32), i + 1) for i in range(3))
ORIGIN = Origin("preterm", 1, "hospital-1.trainer", "opt-1")
UPDATE = pack_update(SPEC, 24, ORIGIN, WEIGHTS, SEGMENTS)

ints = st.lists(st.integers(INT32_MIN, INT32_MAX), min_size=3, max_size=3)


def with_header(data: bytes, old: bytes, new: bytes) -> bytes:
    """The file with its JSON header rewritten and its length set right."""
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].replace(old, new)
    assert text != data[8 : 8 + length]
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@given(ints)
def test_weights_survive_their_file(values: list[int]) -> None:
    """Unpacking undoes packing, at the ends of int32 too."""
    spec = logistic_regression(2)
    weights: Ints = np.array(values, np.int64)

    data = pack_weights(spec, 24, weights)

    assert unpack_weights(spec, 24, data).tolist() == values
    assert len(data) == weights_size(spec, 24)


def test_an_update_survives_its_file() -> None:
    """The delta and every field of every segment come back."""
    delta, segments = unpack_update(SPEC, 24, ORIGIN, 3, UPDATE)

    assert delta.tolist() == WEIGHTS.tolist()
    assert segments == SEGMENTS
    assert len(UPDATE) == update_size(SPEC, 24, 3)


def test_a_delta_is_read_where_it_lies() -> None:
    """Who aggregates holds each update once, as the int32 in its file."""
    delta = unpack_delta(SPEC, 24, ORIGIN, 3, UPDATE)

    assert delta.tolist() == WEIGHTS.tolist()
    assert np.shares_memory(delta, np.frombuffer(UPDATE, np.uint8))
    with pytest.raises(Refused, match=r"update\.size"):
        unpack_delta(SPEC, 24, ORIGIN, 3, UPDATE[:-1])


def test_the_files_are_those_of_the_safetensors_library() -> None:
    """The library reads our files and writes the same bytes: anyone can open a model."""
    data = pack_weights(SPEC, 24, WEIGHTS)
    assert save(load(data), {"grid_bits": "24"}) == data
    assert save(load(UPDATE), {"update": f"24 {origin_digest(ORIGIN).hex()}"}) == UPDATE

    start = 0
    for parameter in parameters(SPEC):
        tensor = load(data)[parameter.name]
        assert tensor.shape == parameter.shape
        assert tensor.ravel().tolist() == WEIGHTS[start : start + parameter.size].tolist()
        start += parameter.size


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"I32"', b'"F32"'),
        (b'"0.weight"', b'"0.weighs"'),
        (b"[4,3]", b"[3,4]"),
        (b'"24"', b'"20"'),
        (b'"grid_bits"', b'"grid_byte"'),
        (b'{"dtype"', b'{ "dtype"'),
    ],
)
def test_another_header_is_refused(old: bytes, new: bytes) -> None:
    """Another dtype, name, shape, grid or blank would be another file for the same weights."""
    changed = with_header(pack_weights(SPEC, 24, WEIGHTS), old, new)

    with pytest.raises(Refused, match=r"weights\.(header|size)"):
        unpack_weights(SPEC, 24, changed)


def test_reordered_tensors_are_refused() -> None:
    """The same tensors laid out in another order are other bytes, so they are not read."""
    data = pack_weights(logistic_regression(1), 24, np.array([5, 6]))
    header = {
        "__metadata__": {"grid_bits": "24"},
        "0.weight": {"dtype": "I32", "shape": [1, 1], "data_offsets": [0, 4]},
        "0.bias": {"dtype": "I32", "shape": [1], "data_offsets": [4, 8]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = np.array([5, 6], "<i4").tobytes()
    reordered = len(text).to_bytes(8, "little") + text + body

    assert {k: v.tolist() for k, v in load(reordered).items()} == {
        k: v.tolist() for k, v in load(data).items()
    }
    with pytest.raises(Refused, match=r"weights\.header"):
        unpack_weights(logistic_regression(1), 24, reordered)


@pytest.mark.parametrize(
    "other",
    [
        replace(ORIGIN, task="theft"),
        replace(ORIGIN, round=2),
        replace(ORIGIN, trainer="hospital-2.trainer"),
        replace(ORIGIN, dataset="opt-2"),
    ],
)
def test_an_update_of_another_origin_is_refused(other: Origin) -> None:
    """Whose update a file is stands in it, so nobody can pass it off as their own."""
    with pytest.raises(Refused, match=r"update\.origin"):
        unpack_update(SPEC, 24, other, 3, UPDATE)


def test_the_origin_is_read_from_the_first_bytes() -> None:
    """Of updates alone: weights have none, and what is no file of ours says nothing."""
    assert read_origin(UPDATE[:HEAD_BYTES]) == origin_digest(ORIGIN)
    for other in (pack_weights(SPEC, 24, WEIGHTS), UPDATE[1:], UPDATE[: HEAD_BYTES - 1], b""):
        assert read_origin(other[:HEAD_BYTES]) is None


@pytest.mark.parametrize("cut", [b"", UPDATE[:7], UPDATE[:-1], UPDATE + b"\0", b"\xff" * 8])
def test_another_size_is_refused(cut: bytes) -> None:
    """A truncated, longer or absurd file is refused before anything is read."""
    with pytest.raises(Refused, match=r"update\.size"):
        unpack_update(SPEC, 24, ORIGIN, 3, cut)


def test_an_update_of_another_model_or_trace_is_refused() -> None:
    """The size follows from the spec and the number of segments in the record."""
    with pytest.raises(Refused, match=r"update\.size"):
        unpack_update(logistic_regression(2), 24, ORIGIN, 3, UPDATE)
    with pytest.raises(Refused, match=r"update\.size"):
        unpack_update(SPEC, 24, ORIGIN, 2, UPDATE)


def test_a_move_that_is_no_count_is_refused() -> None:
    """A negative move would make sums of moves meaningless."""
    delta = np.array([1, 1], np.int64)
    segment = Segment(bytes(32), bytes(32), bytes(32), -1)
    data = pack_update(logistic_regression(1), 24, ORIGIN, delta, [segment])

    with pytest.raises(Refused, match=r"update\.move"):
        unpack_update(logistic_regression(1), 24, ORIGIN, 1, data)


def test_apply_adds_exactly() -> None:
    """Validators form the new model from the base file and the aggregate, without torch."""
    base = pack_weights(SPEC, 24, WEIGHTS)

    assert apply(SPEC, 24, base, -2 * WEIGHTS) == pack_weights(SPEC, 24, -WEIGHTS)


def test_apply_refuses_what_leaves_the_grid() -> None:
    """Weights never wrap around."""
    spec = logistic_regression(1)
    base = pack_weights(spec, 24, np.array([INT32_MAX, 0]))

    with pytest.raises(Refused, match=r"update\.range"):
        apply(spec, 24, base, np.array([1, 0]))
