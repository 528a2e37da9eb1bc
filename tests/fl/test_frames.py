"""Frames between a training loop and its peer: bounded, canonical, and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import frames
from fl.frames import (
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    PART_BYTES_MAX,
    Array,
    Join,
    Kept,
    Message,
    Offer,
    Part,
    Taken,
    Turned,
)
from fl.spec import logistic_regression
from tests.fl.dialogue import TERMS
from vm.refusal import Refused

MESSAGES: list[Message] = [
    Join("task", bytes(32), bytes(range(32)), scored=True),
    Offer("task", 3, True, bytes(32), logistic_regression(2), 24, TERMS.training, 60, 2),
    Part(bytes(PART_BYTES_MAX)),
    Kept(1, 6),
    Taken(done=False),
    Turned("loop.over", "n" * 200),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TAG)
def test_what_is_framed_reads_back(message: Message) -> None:
    """Its first bytes say how many follow."""
    data = frames.frame(message)

    assert frames.length(data[:LENGTH_BYTES]) == len(data) - LENGTH_BYTES
    assert frames.message(data[LENGTH_BYTES:]) == message


@pytest.mark.parametrize("size", [0, FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_frame_out_of_bounds_is_refused_before_it_is_read(size: int) -> None:
    """Nothing is allocated for it."""
    with pytest.raises(Refused, match=r"loop\.frame"):
        frames.length(size.to_bytes(LENGTH_BYTES, "big"))
    assert frames.length(FRAME_BYTES_MAX.to_bytes(LENGTH_BYTES, "big")) == FRAME_BYTES_MAX


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    """With a code, never with another error."""
    try:
        found = frames.message(data)
    except Refused:
        return
    assert frames.frame(found)[LENGTH_BYTES:] == data


@given(st.integers(0, 3 * PART_BYTES_MAX))
def test_an_array_goes_in_parts_and_comes_whole(size: int) -> None:
    """Of any size, in parts of bounded size."""
    sent = bytes(size)
    array = Array(size)

    for data in frames.parts(sent):
        array.add(frames.message(data[LENGTH_BYTES:]))

    assert array.missing == 0
    assert array.bytes() == sent


def test_an_array_takes_no_more_than_it_has_room_for() -> None:
    """Nor anything but parts."""
    array = Array(10)
    array.add(Part(bytes(8)))

    for wrong in (Part(bytes(3)), Taken(done=True)):
        with pytest.raises(Refused, match=r"loop\.part: expected 2 more bytes"):
            array.add(wrong)

    assert array.missing == 2


def test_a_refusal_is_raised_where_an_answer_was_expected() -> None:
    """With the peer's code and reason; another message is a fault of its own."""
    assert frames.expect(Taken(done=True), Taken) == Taken(done=True)
    with pytest.raises(Refused, match=r"loop\.over: the round is over"):
        frames.expect(Turned("loop.over", "the round is over"), Taken)
    with pytest.raises(Refused, match=r"loop\.message: expected taken, found kept"):
        frames.expect(Kept(0, 0), Taken)
