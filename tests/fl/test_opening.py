"""Openings and parts as bytes: one file for one content, of a size that is known before."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fl.opening import (
    HEAD_BYTES,
    Opening,
    Part,
    opening_size,
    pack_opening,
    pack_part,
    part_origin,
    part_size,
    read_opening_origin,
    rows_opened_max,
    unpack_opening,
    unpack_part,
)
from fl.preprocess import ROWS_MAX
from fl.trace import Origin, origin_digest
from fl.weights import pack_weights
from tests.fl.learning import ADAM, TRAINING
from tests.fl.proving import SPEC, Hospital, hospital
from vm.refusal import Refused
from vm.terms import Training

SITE = hospital()
ORIGIN = Origin("preterm", 1, "hospital-1.trainer", "opt-1")
PART_ORIGIN = part_origin("preterm", "hospital-1.trainer", "opt-1")
OPENING = SITE.opening(SITE.trained(), 1)
ROWS = len(OPENING.salts)
FILE = pack_opening(SPEC, TRAINING, ORIGIN, OPENING)
PART_FILE = pack_part(PART_ORIGIN, SITE.part)


def unpacked(data: bytes, origin: Origin = ORIGIN, segment: int = 1, rows: int = ROWS) -> Opening:
    """What a verifier reads who expects this."""
    return unpack_opening(SPEC, TRAINING, origin, segment, rows, 8, data)


@pytest.mark.parametrize("training", [TRAINING, ADAM])
@pytest.mark.parametrize("index", [0, 1])
def test_an_opening_survives_its_file(training: Training, index: int) -> None:
    """All arrays, salts and cells come back; the first segment's has nothing before it."""
    site: Hospital = hospital(training)
    opening = site.opening(site.trained(), index)
    data = pack_opening(SPEC, training, ORIGIN, opening)
    rows = len(opening.salts)

    found = unpack_opening(SPEC, training, ORIGIN, index, rows, 8, data)

    assert len(data) == opening_size(SPEC, training, index, rows, 8)
    for name in ("weights", "state", "after_weights", "after_state", "cells"):
        assert getattr(found, name).tolist() == getattr(opening, name).tolist()
    assert (found.segment, found.salts) == (index, opening.salts)
    assert len(found.weights) == (len(site.base) if index else 0)
    assert rows <= rows_opened_max(training, len(site.train))


def test_arrays_are_read_where_they_lie() -> None:
    """Snapshots of a large model are in memory once, in the file's bytes."""
    found = unpacked(FILE)

    for array in (found.weights, found.state, found.after_weights, found.after_state, found.cells):
        assert np.shares_memory(array, np.frombuffer(FILE, np.uint8))


def test_the_files_are_those_of_the_safetensors_library() -> None:
    """The library reads them and writes the same bytes."""
    opening, part = (
        f"{origin_digest(ORIGIN).hex()} 1 {ROWS}",
        f"{origin_digest(PART_ORIGIN).hex()} 60 40",
    )

    assert save(load(FILE), {"opening": opening}) == FILE
    assert save(load(PART_FILE), {"part": part}) == PART_FILE


def test_the_origin_is_read_from_the_first_bytes() -> None:
    """Of openings and parts, and of nothing else: who may read a file follows from it."""
    assert read_opening_origin(FILE[:HEAD_BYTES]) == origin_digest(ORIGIN)
    assert read_opening_origin(PART_FILE[:HEAD_BYTES]) == origin_digest(PART_ORIGIN)
    for other in (pack_weights(SPEC, 24, SITE.base), FILE[1:], FILE[:80], b""):
        assert read_opening_origin(other[:HEAD_BYTES]) is None


def test_the_largest_header_is_read_too() -> None:
    """With seven digits in both counts the origin still stands within HEAD_BYTES."""
    part = Part((bytes(32),), (0,))
    data = pack_part(PART_ORIGIN, part).replace(b' 1 1"', b' 1000000 1000000"')

    assert read_opening_origin(data[:HEAD_BYTES]) == origin_digest(PART_ORIGIN)


@pytest.mark.parametrize(
    "other",
    [
        replace(ORIGIN, task="theft"),
        replace(ORIGIN, round=2),
        replace(ORIGIN, trainer="hospital-2.trainer"),
        replace(ORIGIN, dataset="opt-2"),
    ],
)
def test_an_opening_of_another_origin_is_refused(other: Origin) -> None:
    """The attack: answer with what another trainer opened, or oneself in another round."""
    with pytest.raises(Refused, match=r"opening\.origin"):
        unpacked(FILE, origin=other)


def test_an_opening_of_another_segment_or_size_is_refused() -> None:
    """Another segment, more rows, a cut or a longer file."""
    with pytest.raises(Refused, match=r"opening\.header"):
        unpacked(FILE, segment=2)
    with pytest.raises(Refused, match=r"opening\.size"):
        unpacked(FILE, rows=ROWS + 1)
    for data in (b"", FILE[:-1], FILE + b"\0"):
        with pytest.raises(Refused, match=r"opening\.size"):
            unpacked(data)


def test_a_part_survives_its_file() -> None:
    """The leaves of all rows, and the numbers of those that are trained on."""
    assert unpack_part(PART_ORIGIN, PART_FILE) == SITE.part
    assert len(PART_FILE) == part_size(60, 40)


def test_a_part_of_another_origin_is_refused() -> None:
    """Whose part it is stands in it."""
    with pytest.raises(Refused, match=r"opening\.origin"):
        unpack_part(replace(PART_ORIGIN, dataset="opt-2"), PART_FILE)


WRAPPING = (0, 2**31 - 1, -(2**31) + 1, -1, 59)  # in int32 each difference is above 0


@pytest.mark.parametrize("numbers", [(1, 0), (0, 0), (-1, 0), (0, 60), WRAPPING])
def test_a_part_names_each_row_once(numbers: tuple[int, ...]) -> None:
    """The attack: count rows twice, name rows that are not there, or let int32 wrap around."""
    part = Part(SITE.part.leaves, numbers)

    with pytest.raises(Refused, match=r"opening\.part"):
        unpack_part(PART_ORIGIN, pack_part(PART_ORIGIN, part))


@pytest.mark.parametrize(
    "counts", [b"60 0", b"60 61", b"0 0", b"%d 40" % (ROWS_MAX + 1), b"9999999 40"]
)
def test_counts_are_bounded_before_anything_is_allocated(counts: bytes) -> None:
    """A header that claims no rows, or more than a dataset may have."""
    data = PART_FILE.replace(b" 60 40", b" " + counts)

    with pytest.raises(Refused, match=r"opening\.header"):
        unpack_part(PART_ORIGIN, data)


@given(st.binary(max_size=300))
def test_no_bytes_crash_a_reader(data: bytes) -> None:
    """Whatever comes, the answer is a refusal."""
    with pytest.raises(Refused, match=r"opening\."):
        unpack_part(PART_ORIGIN, data)
    with pytest.raises(Refused, match=r"opening\."):
        unpacked(data)
