"""A case file's page: HTML of one file without scripts, that reads and prints well.

Every value is escaped; names and reasons on a chain are strangers' words.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from node.case import plot


def write_page(contents: dict[str, Any]) -> bytes:
    """The page of what `node.case.contents` says."""
    text = _template().render(
        case=contents,
        line=plot.line(contents["rounds"]),
        bars=plot.bars(contents["contributions"]),
        plot=plot,
    )
    return text.encode()


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["nats"] = plot.nats
    folder = files("node.case")
    environment.globals["style"] = (folder / "page.css").read_text("utf-8")
    return environment.from_string((folder / "page.html").read_text("utf-8"))
