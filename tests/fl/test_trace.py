"""A trace that cannot have been trained is refused, and the refusal names the segment."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.trace import Broken, Origin, Segment, check_trace, leaves, root, segment_count
from fl.trial import TRAINING
from vm.shape import HEIGHT_MAX
from vm.terms import SEGMENTS_MAX

ORIGIN = Origin("preterm", 3, "hospital-1.trainer", "opt-mn")
BASE = b"\xff" * 32


def segment(number: int, move: int = 100) -> Segment:
    """An honest segment's digests, different for each number."""
    return Segment(
        bytes([number]) * 32, bytes([number + 64]) * 32, bytes([number + 128]) * 32, move
    )


SEGMENTS = tuple(segment(number) for number in range(4))


def check(segments: tuple[Segment, ...], **changes: Any) -> None:
    """Check a trace committed as it is, ending where it says, unless `changes` say otherwise."""
    facts: dict[str, Any] = {
        "count": 4,
        "claimed": root(ORIGIN, segments),
        "base": BASE,
        "final": segments[-1].weights if segments else BASE,
        "norm": 400,
        "move_max": 300,
    }
    check_trace(changes.pop("origin", ORIGIN), segments, **(facts | changes))


def test_an_honest_trace_passes() -> None:
    """Nothing is held against training that moved, ended in the update and was committed to."""
    check(SEGMENTS)


@pytest.mark.parametrize(
    "other",
    [
        replace(ORIGIN, task="other"),
        replace(ORIGIN, round=4),
        replace(ORIGIN, trainer="hospital-2.trainer"),
        replace(ORIGIN, dataset="opt-ky"),
    ],
)
def test_a_trace_serves_one_task_round_trainer_and_dataset(other: Origin) -> None:
    """A copied trace, or one of an earlier round, is not under the root of its new origin."""
    with pytest.raises(Broken, match=r"trace\.root"):
        check(SEGMENTS, origin=other)


@given(st.integers(0, 3), st.sampled_from(["weights", "optimizer", "batches", "move"]))
def test_every_field_of_every_segment_is_committed(index: int, field: str) -> None:
    """Once the root is in a transaction, nothing that it stands for can be changed."""
    value: Any = 99 if field == "move" else b"\x77" * 32
    changed = list(SEGMENTS)
    changed[index] = replace(SEGMENTS[index], **{field: value})

    with pytest.raises(Broken, match=r"trace\.root"):
        check(tuple(changed), claimed=root(ORIGIN, SEGMENTS))


def test_segments_cannot_change_places() -> None:
    """A leaf holds its place."""
    swapped = (SEGMENTS[1], SEGMENTS[0], *SEGMENTS[2:])

    assert set(leaves(ORIGIN, swapped)).isdisjoint(leaves(ORIGIN, SEGMENTS)[:2])


def test_truncated_training_is_refused() -> None:
    """Fewer segments than the task asks for, or more, is not the task's training."""
    for segments in (SEGMENTS[:3], (), (*SEGMENTS, segment(9))):
        with pytest.raises(Broken, match=r"trace\.count"):
            check(segments)


def test_a_trace_to_other_weights_is_refused() -> None:
    """An honest trace beside a made-up update shows, in the last segment."""
    with pytest.raises(Broken, match=r"trace\.final") as broken:
        check(SEGMENTS, final=b"\x01" * 32)

    assert broken.value.segment == 3


@pytest.mark.parametrize(
    ("index", "bad", "code"),
    [
        (2, segment(2, move=0), "trace.zero"),
        (2, segment(1), "trace.repeated"),
        (0, replace(segment(0), weights=BASE), "trace.repeated"),
        (1, segment(1, move=301), "trace.bound"),
    ],
)
def test_a_segment_that_cannot_be_honest_is_named(index: int, bad: Segment, code: str) -> None:
    """No move, weights that were there before, a move beyond the bound: each is told where."""
    segments = (*SEGMENTS[:index], bad, *SEGMENTS[index + 1 :])

    with pytest.raises(Broken) as broken:
        check(segments)

    assert (broken.value.code, broken.value.segment) == (code, index)


def test_moves_that_cannot_add_up_to_the_update_are_refused() -> None:
    """By the triangle inequality; each move was floored, so four of 100 may reach 403."""
    check(SEGMENTS, norm=403)

    with pytest.raises(Broken, match=r"trace\.reach"):
        check(SEGMENTS, norm=404)


def test_the_longest_trace_is_checked() -> None:
    """SEGMENTS_MAX segments of the largest move that the encoding holds."""
    longest = tuple(
        Segment(number.to_bytes(32, "big"), BASE, BASE, HEIGHT_MAX)
        for number in range(SEGMENTS_MAX)
    )

    check(longest, count=SEGMENTS_MAX, move_max=HEIGHT_MAX)


def test_a_round_has_whole_segments() -> None:
    """Ten steps with a snapshot every two are five segments."""
    assert segment_count(replace(TRAINING, steps=10, snapshot_steps=2)) == 5
