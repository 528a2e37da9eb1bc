"""Logs by structlog: JSON lines in service, coloured lines on a terminal; always on stderr.

What is logged are ids, codes, counts and heights: never a key, a row or a cell's value. Callers
pass those as keyword arguments; there is no free text from patients' data to leak.
"""

import logging
import sys
from typing import Literal

import structlog

LIBRARIES = ("aiohttp", "asyncio")  # which log by themselves

Format = Literal["auto", "json", "pretty"]
Level = Literal["debug", "info", "warning", "error"]


def configure_logs(level: Level, style: Format, **context: str) -> None:
    """Set up logging for this process; `context` (the member's id) goes with every line."""
    pretty = style == "pretty" or (style == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**context)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers = [_Forward(logging.WARNING)]
        library.propagate = False


class _Forward(logging.Handler):
    """Turns what a library logs into a line of ours, so that a service's log stays JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "library",
            logger=record.name,
            reason=record.getMessage(),
            exc_info=record.exc_info,
        )
