"""Curves as an SVG: latency over throughput on each net, and what of the CPU goes into votes."""

from collections.abc import Callable, Sequence
from math import ceil, log10

from tests.bench.scale.curve import Scale
from tests.bench.scale.run import Point

COLOURS = ("#06c", "#393", "#c80", "#c33", "#639", "#888")  # by number of validators, in order
WIDTH, HEIGHT = 230, 190  # of a panel's inside
LEFT, TOP, RIGHT, BOTTOM = 46, 52, 14, 40
WAIT_MS_MIN, WAIT_MS_MAX = 10.0, 2_000.0  # of the axis of waits, which has powers of ten
TPS_STEP = 500  # of the axis of throughput, or a multiple that leaves so many steps at most:
TPS_STEPS_MAX = 5

Place = tuple[float, float]


def svg(found: Scale) -> str:
    """One panel for each net, and one for the votes' share on the first."""
    counts = list(found.costs)
    nets = list(dict.fromkeys(point.net for point in found.points))
    tps_max = max(point.tps for point in found.points)
    step = TPS_STEP * ceil(tps_max / TPS_STEP / TPS_STEPS_MAX)
    panels = [_waits(found, net, counts, step) for net in nets]
    panels.append(_shares(found, nets[0], counts))
    across = LEFT + WIDTH + RIGHT
    legend = "".join(
        f'<text x="{LEFT + 90 * place}" y="16" fill="{_colour(place)}">{n} validators</text>'
        for place, n in enumerate(counts)
    )
    drawn = "".join(
        f'<g transform="translate({across * place + LEFT},{TOP})">\n{panel}</g>\n'
        for place, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across * len(panels)} '
        f'{TOP + HEIGHT + BOTTOM}" font-family="sans-serif" font-size="10">\n'
        "<style>polyline{fill:none}.axis{stroke:#888}</style>\n"
        f'<rect width="100%" height="100%" fill="#fff"/>\n{legend}\n{drawn}</svg>\n'
    )


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _waits(found: Scale, net: str, counts: Sequence[int], step: int) -> str:
    """Medians as lines, 99 of 100 dashed, both over what was certified."""
    right = step * TPS_STEPS_MAX

    def y(wait_ms: float) -> float:
        held = min(max(wait_ms, WAIT_MS_MIN), WAIT_MS_MAX)
        return HEIGHT * log10(WAIT_MS_MAX / held) / log10(WAIT_MS_MAX / WAIT_MS_MIN)

    def places(n: int, wait_ms: Callable[[Point], float]) -> list[Place]:
        points = _loads(found, net, n)
        return [(WIDTH * point.tps / right, y(wait_ms(point))) for point in points]

    curves = "".join(
        _curve(places(n, lambda point: point.p50_ms), _colour(place))
        + _curve(places(n, lambda point: point.p99_ms), _colour(place), ' stroke-dasharray="3 2"')
        for place, n in enumerate(counts)
    )
    columns = [(WIDTH * tps / right, f"{tps:,}") for tps in range(0, right + 1, step)]
    rows = [(y(10.0**power), f"{10**power:,}") for power in range(1, 4)]
    words = "transactions/s certified; ms at p50, p99 dashed"
    return _axes(net, columns, rows, words) + curves


def _shares(found: Scale, net: str, counts: Sequence[int]) -> str:
    """The votes' part of all CPU seconds over load, that of the most that can be had included."""
    curves = "".join(
        _curve(
            [
                (WIDTH * point.load, HEIGHT * (1 - point.vote_share))
                for point in [*_loads(found, net, n), found.at(n, net, 1.0)]
            ],
            _colour(place),
        )
        for place, n in enumerate(counts)
    )
    columns = [(WIDTH * tenth / 10, f"{10 * tenth} %") for tenth in range(0, 11, 2)]
    rows = [(HEIGHT * (1 - tenth / 10), f"{10 * tenth} %") for tenth in range(0, 11, 2)]
    words = "share of the most that can be had; votes' share of CPU"
    return _axes(f"votes, {net}", columns, rows, words) + curves


def _loads(found: Scale, net: str, n: int) -> list[Point]:
    own = (point for point in found.points if (point.net, point.validators) == (net, n))
    return sorted((point for point in own if point.load < 1), key=lambda point: point.load)


def _axes(
    title: str, columns: Sequence[tuple[float, str]], rows: Sequence[tuple[float, str]], words: str
) -> str:
    ticks = "".join(
        f'<text x="{x:.0f}" y="{HEIGHT + 13}" text-anchor="middle">{text}</text>'
        for x, text in columns
    ) + "".join(f'<text x="-5" y="{y + 3:.0f}" text-anchor="end">{text}</text>' for y, text in rows)
    return (
        f'<text x="{WIDTH / 2:.0f}" y="-10" text-anchor="middle" font-weight="bold">{title}</text>'
        f'<polyline class="axis" points="0,0 0,{HEIGHT} {WIDTH},{HEIGHT}"/>{ticks}'
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT + 30}" text-anchor="middle">{words}</text>\n'
    )


def _curve(places: Sequence[Place], colour: str, more: str = "") -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = (
        ""
        if more
        else "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in places
        )
    )
    return f'<polyline stroke="{colour}" points="{points}"{more}/>{dots}\n'
