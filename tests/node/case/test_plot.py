"""Geometry of the page's figures."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from node.case import plot

SCORES = st.lists(st.none() | st.integers(0, 1_000_000), min_size=1, max_size=200)


def rounds_of(scores: list[int | None]) -> list[dict[str, Any]]:
    """Rounds with these scores."""
    return [{"number": number, "score_bp": score} for number, score in enumerate(scores, 1)]


@given(SCORES)
def test_every_score_is_drawn_inside_the_figure(scores: list[int | None]) -> None:
    """Lower scores are lower, and rounds go from left to right."""
    found = plot.line(rounds_of(scores))

    drawn = [score for score in scores if score is not None]
    if found is None:
        assert not drawn
        return
    assert len(found.points) == len(drawn)
    assert all(plot.LEFT <= mark.x <= plot.WIDTH - plot.RIGHT for mark in found.points)
    assert all(plot.TOP <= mark.y <= plot.LINE_HEIGHT - plot.BOTTOM for mark in found.points)
    assert all(one.x <= other.x for one, other in pairwise(found.points))
    assert len(found.columns) <= plot.LABELS_MAX
    assert 2 <= len(found.rows) <= plot.TICKS + 3
    for (one, mark), (other, its) in pairwise(zip(drawn, found.points, strict=True)):
        assert one == other or (one < other) == (mark.y > its.y) or mark.y == its.y


@given(st.lists(st.dictionaries(st.sampled_from(plot.STATUSES), st.integers(1, 999)), max_size=64))
def test_bars_are_as_long_as_what_they_count(found: list[dict[str, int]]) -> None:
    """Parts of a bar meet, and none leaves the figure."""
    items = [
        {"organisation": f"h{number}", "statuses": statuses}
        for number, statuses in enumerate(found)
    ]

    bars = plot.bars(items)

    assert len(bars.rows) == len(found)
    for row, statuses in zip(bars.rows, found, strict=True):
        assert {item.status: item.count for item in row.segments} == statuses
        assert all(one.x + one.width == other.x for one, other in pairwise(row.segments))
        assert all(item.x + item.width <= plot.WIDTH - plot.RIGHT for item in row.segments)
        assert row.y + plot.BAR <= bars.height


def test_scores_are_written_in_nats() -> None:
    """Hundredths of a hundredth, exactly."""
    written = [plot.nats(value) for value in (0, 1, 6_900, 12_345, -50)]
    assert written == ["0.0000", "0.0001", "0.6900", "1.2345", "-0.0050"]
