"""SVGs of how often spoofed proofs are found, beside the bound of sampling, 1 - (1 - s)^q."""

from collections.abc import Sequence

from tests.lab.proofs import DRAWN, Cost, Line
from tests.lab.spoof import SEGMENTS

COST_MAX = 0.2  # at the right end of the axis of costs
STEPS = 100  # of a curve


def by_share(lines: Sequence[Line]) -> str:
    """Detection over the share of skipped segments, for a verifier that draws DRAWN."""
    curve = _curve([1 - (1 - step / STEPS) ** DRAWN for step in range(STEPS + 1)])
    marks = "".join(_mark(one.failing, one.caught, one.low, one.high) for one in lines)
    words = (
        f"segments skipped; found by one verifier that draws {DRAWN} of {SEGMENTS} "
        f"(line: 1-(1-s)^{DRAWN})"
    )
    return _svg(curve + marks, [f"{tick} %" for tick in range(0, 101, 20)], words)


def by_cost(costs: Sequence[Cost]) -> str:
    """Detection over what one verifier repeats of the training, by the share that was skipped."""
    drawn = "".join(_found(costs, skipped) for skipped in sorted({one.skipped for one in costs}))
    ticks = [f"{100 * COST_MAX * tick / 5:.0f} %" for tick in range(6)]
    words = "training repeated by one verifier, by share skipped (lines: 1-(1-s)^q)"
    return _svg(drawn, ticks, words)


def _found(costs: Sequence[Cost], skipped: float) -> str:
    """The bound and the points of one share that is skipped, with the share written between."""
    bound = [1 - (1 - skipped) ** (COST_MAX * SEGMENTS * step / STEPS) for step in range(STEPS + 1)]
    marks = "".join(
        _mark(one.cost / COST_MAX, one.caught, one.low, one.high)
        for one in costs
        if one.skipped == skipped
    )
    place = int(STEPS * (1 - skipped) / 2)
    x, y = _point(place / STEPS, bound[place]).split(",")
    words = f'<text x="{float(x) + 8:.0f}" y="{float(y) + 14:.0f}">{100 * skipped:.0f} %</text>'
    return _curve(bound) + marks + words


def _point(across: float, found: float) -> str:
    """Both as shares of their axes."""
    return f"{60 + 400 * across:.1f},{260 - 240 * found:.1f}"


def _curve(found: Sequence[float]) -> str:
    """Through values at equal distances from the left end to the right one."""
    points = " ".join(_point(step / STEPS, one) for step, one in enumerate(found))
    return f'<polyline points="{points}"/>\n'


def _mark(across: float, found: float, low: float, high: float) -> str:
    x, y = _point(across, found).split(",")
    return (
        f'<polyline class="error" points="{_point(across, low)} {_point(across, high)}"/>'
        f'<circle cx="{x}" cy="{y}" r="3"/>'
    )


def _svg(drawn: str, ticks: Sequence[str], words: str) -> str:
    """Axes of shares around what is drawn; `ticks` stand at every fifth of the one across."""
    labels = "".join(
        f'<text x="{60 + 80 * place}" y="278" text-anchor="middle">{tick}</text>'
        f'<text x="52" y="{264 - 48 * place}" text-anchor="end">{place / 5:.1f}</text>'
        for place, tick in enumerate(ticks)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 310" font-family="sans-serif" '
        'font-size="11">\n<style>polyline{fill:none;stroke:#888}.error{stroke:#c33}'
        "circle{fill:#c33}</style>\n"
        f'<rect width="100%" height="100%" fill="#fff"/>\n<polyline points="60,20 60,260 460,260"/>'
        f'\n{drawn}\n{labels}\n<text x="260" y="300" text-anchor="middle">{words}</text>\n</svg>\n'
    )
