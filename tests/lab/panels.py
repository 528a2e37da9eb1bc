"""Points lost over the share of attackers, as an SVG: one small panel for each attack."""

from collections.abc import Sequence

from tests.lab.setting import DEFAULT, PLAIN
from tests.lab.table import ATTACKS, Line

# Rule and filter of each curve, with its colour: ours as deployed, and rules by themselves.
CURVES = {
    (DEFAULT, True): "#06c",
    (PLAIN, False): "#c33",
    (f"byzfl.{DEFAULT}", False): "#393",
}
LOST_MAX = 40.0  # points, at the top of a panel
LOST_MIN = -5.0
SHARE_MAX = 40.0  # percent of the sites
WIDTH, HEIGHT = 170, 110  # of a panel's inside
LEFT, TOP, RIGHT, BOTTOM = 40, 26, 12, 26
COLUMNS = 3
LEGEND = 38  # the rules, and below them what the axes are


def panels(lines: Sequence[Line], iid: bool) -> str:
    """The plot of one kind of rows; whiskers are standard errors."""
    chosen = [one for one in lines if one.setting.iid is iid]
    attacks = [name for name in ATTACKS if any(one.setting.attack == name for one in chosen)]
    across, down = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    rows = -(-len(attacks) // COLUMNS)
    drawn = "".join(
        f'<g transform="translate({place % COLUMNS * across + LEFT},'
        f'{LEGEND + place // COLUMNS * down + TOP})">\n{_panel(name, chosen)}</g>\n'
        for place, name in enumerate(attacks)
    )
    legend = "".join(
        f'<text x="{LEFT + 200 * place}" y="16" fill="{colour}">{rule}'
        f"{', filtered' if filtered else ''}</text>"
        for place, ((rule, filtered), colour) in enumerate(CURVES.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * across} '
        f'{LEGEND + rows * down}" font-family="sans-serif" font-size="10">\n'
        "<style>polyline{fill:none}.axis{stroke:#888}</style>\n"
        f'<rect width="100%" height="100%" fill="#fff"/>\n{legend}\n'
        f'<text x="{LEFT}" y="30">points lost over percent of sites that attack; more than '
        f"{LOST_MAX:.0f} at the edge</text>\n{drawn}</svg>\n"
    )


def _panel(attack: str, lines: Sequence[Line]) -> str:
    ticks = "".join(
        f'<text x="{_x(share):.0f}" y="{HEIGHT + 13}" text-anchor="middle">{share}</text>'
        for share in range(0, 41, 10)
    ) + "".join(
        f'<text x="-5" y="{_y(lost) + 3:.0f}" text-anchor="end">{lost}</text>'
        for lost in range(0, 41, 10)
    )
    axis = f"0,0 0,{HEIGHT} {WIDTH},{HEIGHT}"
    zero = f"0,{_y(0):.1f} {WIDTH},{_y(0):.1f}"
    return (
        f'<text x="{WIDTH / 2:.0f}" y="-8" text-anchor="middle" font-weight="bold">{attack}</text>'
        f'<polyline class="axis" points="{axis}"/><polyline class="axis" stroke-dasharray="2 2" '
        f'points="{zero}"/>{ticks}\n'
        + "".join(_curve(attack, lines, *key, colour) for key, colour in CURVES.items())
    )


def _curve(attack: str, lines: Sequence[Line], rule: str, filtered: bool, colour: str) -> str:
    own = [
        one
        for one in lines
        if (one.setting.rule, one.setting.filtering) == (rule, filtered)
        and one.setting.attack in ("none", attack)
    ]
    spots = sorted(
        (100 * one.setting.dishonest / one.setting.sites, one.cost, one.cost_error or 0.0)
        for one in own
    )
    curve = " ".join(f"{_x(share):.1f},{_y(lost):.1f}" for share, lost, _ in spots)
    whiskers = "".join(
        f'<polyline stroke="{colour}" points="{_x(share):.1f},{_y(lost - error):.1f} '
        f'{_x(share):.1f},{_y(lost + error):.1f}"/>'
        f'<circle cx="{_x(share):.1f}" cy="{_y(lost):.1f}" r="2" fill="{colour}"/>'
        for share, lost, error in spots
    )
    return f'<polyline stroke="{colour}" points="{curve}"/>{whiskers}\n'


def _x(share: float) -> float:
    return WIDTH * share / SHARE_MAX


def _y(lost: float) -> float:
    """Held within the panel: what lies beyond is drawn at its edge."""
    held = min(max(lost, LOST_MIN), LOST_MAX)
    return HEIGHT * (LOST_MAX - held) / (LOST_MAX - LOST_MIN)
