"""Geometry of the page's two figures, in whole pixels: integers draw the same on every machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 720
LEFT = 150  # room for names and for figures on the axis
RIGHT = 20
PLOT = WIDTH - LEFT - RIGHT
LINE_HEIGHT = 220
TOP = 16
BOTTOM = 34
BAR = 20
GAP = 10
TICKS = 4  # steps of the score's axis
LABELS_MAX = 10  # along the axis of rounds
STATUSES = ("accepted", "rejected", "undecided", "absent", "declined", "unapproved", "submitted")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a figure, and what is written there."""

    x: int
    y: int
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """The scores of rounds: points from left to right, and both axes' labels."""

    height: int
    points: tuple[Mark, ...]
    rows: tuple[Mark, ...]
    columns: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: what it counts, and where it is."""

    status: str
    count: int
    x: int
    width: int


@dataclass(frozen=True, slots=True)
class Row:
    """A site's bar."""

    name: str
    y: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """What became of each site's part in all rounds."""

    height: int
    rows: tuple[Row, ...]
    statuses: tuple[str, ...]  # that occur, for the legend


def nats(value: int) -> str:
    """A score or contribution in hundredths of a hundredth of a nat, in nats."""
    whole, rest = divmod(abs(value), 10_000)
    return f"{'-' if value < 0 else ''}{whole}.{rest:04}"


def line(rounds: Sequence[dict[str, Any]]) -> Line | None:
    """The score of each round that has one; None if none has."""
    scored = [(place, item) for place, item in enumerate(rounds) if item["score_bp"] is not None]
    if not scored:
        return None
    scores: list[int] = [item["score_bp"] for _, item in scored]
    step = max(1, -(-(max(scores) - min(scores)) // TICKS))
    low = min(scores) // step * step
    span = step * max(1, -(-(max(scores) - low) // step))
    depth, last = LINE_HEIGHT - TOP - BOTTOM, max(1, len(rounds) - 1)

    def x(place: int) -> int:
        return LEFT + PLOT * place // last

    def y(score: int) -> int:
        return TOP + depth - depth * (score - low) // span

    every = -(-len(rounds) // LABELS_MAX)
    return Line(
        LINE_HEIGHT,
        tuple(
            Mark(x(place), y(item["score_bp"]), f"round {item['number']}: {nats(item['score_bp'])}")
            for place, item in scored
        ),
        tuple(Mark(LEFT, y(score), nats(score)) for score in range(low, low + span + 1, step)),
        tuple(
            Mark(x(place), LINE_HEIGHT - BOTTOM, str(item["number"]))
            for place, item in enumerate(rounds)
            if place % every == 0
        ),
    )


def bars(contributions: Sequence[dict[str, Any]]) -> Bars:
    """One bar for each site, as long as the site with the most rounds has rounds."""
    most = max((sum(item["statuses"].values()) for item in contributions), default=1) or 1
    rows = []
    for number, item in enumerate(contributions):
        begin, segments = 0, []
        for status in STATUSES:
            count = item["statuses"].get(status, 0)
            if count:
                left, right = PLOT * begin // most, PLOT * (begin + count) // most
                segments.append(Segment(status, count, LEFT + left, right - left))
                begin += count
        rows.append(Row(item["organisation"], GAP + number * (BAR + GAP), tuple(segments)))
    found = {segment.status for row in rows for segment in row.segments}
    return Bars(
        GAP + len(rows) * (BAR + GAP),
        tuple(rows),
        tuple(status for status in STATUSES if status in found),
    )
