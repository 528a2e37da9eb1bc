"""Logs of a service: one JSON object a line, also of what libraries log."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from node.home.logs import LIBRARIES, configure_logs


@pytest.fixture(autouse=True)
def libraries() -> Iterator[None]:
    """Leave logging as it was."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    for name in LIBRARIES:
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


def test_a_line_is_json_with_the_member_s_id(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with level and time; below the level nothing is written."""
    configure_logs("info", "auto", member="hospital-1.validator")

    structlog.get_logger().info("block.executed", height=7)
    structlog.get_logger().debug("block.detail")

    out, err = capsys.readouterr()
    line = json.loads(err)
    assert out == ""
    assert line["event"] == "block.executed"
    assert (line["height"], line["level"], line["member"]) == (7, "info", "hospital-1.validator")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("name", [*LIBRARIES, "aiohttp.server"])
def test_a_library_s_failure_is_a_line_of_ours(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its traceback is a field: a log of JSON lines stays one."""
    configure_logs("info", "json", member="hospital-1.validator")

    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger(name).exception("Error handling %s", "request")
    logging.getLogger(name).info("chatter")

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["logger"]) == ("library", "error", name)
    assert line["reason"] == "Error handling request"
    assert "ValueError: two\nlines" in line["exception"]


def test_setting_up_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Handlers are replaced, not added."""
    configure_logs("info", "json", member="a")
    configure_logs("info", "json", member="b")

    logging.getLogger("asyncio").error("once")

    assert json.loads(capsys.readouterr().err)["member"] == "b"


def test_pretty_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the configuration says so, no JSON."""
    configure_logs("info", "pretty", member="a")

    structlog.get_logger().info("block.executed", height=7)

    err = capsys.readouterr().err
    assert "block.executed" in err
    assert not err.startswith("{")
