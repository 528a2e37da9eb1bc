"""Time as people write it (RFC 3339, UTC, milliseconds), beside the heights and milliseconds.

What a block's header says is the network's word; nothing here reads a clock.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, WithJsonSchema

from node.api.resource import NUMBER
from vm.shape import HEIGHT_MAX
from vm.state import Record

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = EPOCH.toordinal()
DAY_MS = 86_400_000
LAST_MS = (date.max.toordinal() - EPOCH_DAY + 1) * DAY_MS - 1  # RFC 3339 ends with the year 9999
WRITTEN = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.(\d{1,12}))?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)
MS, HEIGHT = "_ms", "_height"  # how fields of records end that hold a time, or a block's height


@dataclass(frozen=True, slots=True)
class Instant:
    """A point in time, in milliseconds since 1970 UTC."""

    ms: int


def write_time(ms: int) -> str | None:
    """Milliseconds as RFC 3339; None beyond the year 9999, where it ends."""
    if ms > LAST_MS:
        return None
    return (EPOCH + timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03}Z"


def tell_time(ms: int, timespec: str = "seconds") -> str:
    """Milliseconds for people; as they are beyond the year 9999, where calendars here end."""
    if ms > LAST_MS:
        return f"{ms} ms after 1970"
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec=timespec)


def read_time(text: str) -> Instant | None:
    """An RFC 3339 time with its offset, cut to milliseconds; None for anything else.

    A leap second is the first millisecond of the next one, as block times know none.
    """
    found = WRITTEN.fullmatch(text)
    if found is None:
        return None
    day, hour, minute, second, fraction, sign, ahead_h, ahead_min = found.groups()
    try:
        days = date.fromisoformat(day).toordinal() - EPOCH_DAY
    except ValueError:  # the 30th of February
        return None
    seconds = int(hour) * 3_600 + int(minute) * 60 + int(second)
    ahead_s = (int(ahead_h) * 3_600 + int(ahead_min) * 60) if sign else 0
    seconds += ahead_s if sign == "-" else -ahead_s
    return Instant(days * DAY_MS + seconds * 1_000 + int((fraction or "")[:3].ljust(3, "0")))


def _moment(value: Any) -> int | Instant:
    if isinstance(value, str):
        if NUMBER.fullmatch(value) and int(value) <= HEIGHT_MAX:
            return int(value)
        if (instant := read_time(value)) is not None:
            return instant
    raise ValueError(f"expected a height up to {HEIGHT_MAX}, or a time of RFC 3339 with its offset")


Moment = Annotated[
    int | Instant,
    BeforeValidator(_moment),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": HEIGHT_MAX},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]


@cache
def time_fields(record: type[Record]) -> dict[str, str]:
    """Which field tells each time of a record: {"opened": "opened_ms"}; milliseconds first.

    A field that is called `time_ms` or `height` alone tells "time".
    """
    names = [field.name for field in fields(cast(Any, record))]
    found = {_name(name, MS): name for name in names if name.endswith(MS)}
    for name in names:
        if name == "height" or name.endswith(HEIGHT):
            found.setdefault(_name(name, HEIGHT), name)
    return found


def _name(field: str, end: str) -> str:
    name = field.removesuffix(end)
    return "time" if name in ("time", "height") else name


def record_times(record: Record, time_at: Callable[[int], int | None]) -> dict[str, str]:
    """A record's times for people; `time_at` gives that of a block, None where it has none yet."""
    found: dict[str, str] = {}
    for name, field in time_fields(type(record)).items():
        value = getattr(record, field)
        ms = value if field.endswith(MS) or value is None else time_at(value)
        text = None if ms is None else write_time(ms)
        if text is not None:
            found[name] = text
    return found
