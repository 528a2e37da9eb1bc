"""Times as people write them, and which of a record's fields tell one."""

from dataclasses import dataclass, fields
from typing import ClassVar

import pytest

from node.api.resource import RESOURCES
from node.api.times import (
    LAST_MS,
    Instant,
    read_time,
    record_times,
    tell_time,
    time_fields,
    write_time,
)
from tests.node.api.asking import run
from tests.node.network import MODEL, TASK, Network
from tests.node.serving import Node, get
from vm.conduct import Visit


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_007, "2023-11-14T22:13:20.007Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (LAST_MS, "9999-12-31T23:59:59.999Z"),
        (LAST_MS + 1, None),
        (2**53, None),
    ],
)
def test_milliseconds_are_written_as_rfc_3339(ms: int, text: str | None) -> None:
    """UTC to the millisecond, and back; nothing beyond the year 9999."""
    assert write_time(ms) == text
    assert text is None or read_time(text) == Instant(ms)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31t23:30:00.25-00:30", 250),
        ("1970-01-01T00:00:00.0019999z", 1),
        ("1970-01-01T00:00:60Z", 60_000),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000),
        ("1970-01-01T00:00:00", None),
        ("1970-01-01 00:00:00Z", None),
        ("1970-02-29T00:00:00Z", None),
        ("1970-01-01T24:00:00Z", None),
        ("1970-01-01T00:00:00.Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("1970-1-1T00:00:00Z", None),
        ("١970-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_only_rfc_3339_is_read(text: str, ms: int | None) -> None:
    """With its offset, any number of fraction digits and leap seconds; else None."""
    assert read_time(text) == (None if ms is None else Instant(ms))


def test_a_record_tells_times_by_milliseconds_and_by_heights() -> None:
    """Milliseconds win; a height's time is its block's, and is left out where it has none yet."""

    @dataclass(frozen=True, slots=True)
    class Kept:
        KIND: ClassVar[str] = "kept"
        VERSION: ClassVar[int] = 1

        opened_ms: int
        opened_height: int
        expires_height: int
        closed_height: int | None
        height: int

        @property
        def key(self) -> tuple[()]:
            return ()

    def time_at(height: int) -> int | None:
        return height * 1_000 if height < 10 else None

    assert record_times(Kept(5_000, 1, 99, None, 7), time_at) == {
        "opened": "1970-01-01T00:00:05.000Z",
        "time": "1970-01-01T00:00:07.000Z",
    }
    assert time_fields(Visit) == {"time": "time_ms"}


def test_every_record_with_a_height_or_a_time_tells_it() -> None:
    """No kind of record shows milliseconds or heights alone."""
    for resource in RESOURCES:
        names = [field.name for field in fields(resource.record)]  # type: ignore[arg-type]
        told = set(time_fields(resource.record).values())
        assert {name for name in names if name.endswith("_ms")} <= told
        assert bool(told) == any(name.endswith(("_ms", "height")) for name in names)


def test_answers_show_times_beside_heights(learned: Network) -> None:
    """Blocks, checkpoints, transactions, records and the node's status."""

    async def check(url: str, _: Node) -> None:
        third = "2023-11-14T22:13:23.000Z"
        block = (await get(f"{url}/v1/blocks/3")).body
        assert block["checkpoint"]["header"]["time"] == third
        assert {item["time"] for item in block["transactions"]} == {third}
        id = block["transactions"][0]["id"]
        assert (await get(f"{url}/v1/transactions/{id}")).body["time"] == third
        task = (await get(f"{url}/v1/tasks/{TASK}")).body
        assert task["times"] == {"opened": third}
        model = (await get(f"{url}/v1/models/{MODEL}/versions/0")).body
        assert model["times"] == {"created": "2023-11-14T22:13:22.000Z"}
        status = (await get(f"{url}/v1/status")).body
        assert status["certified_time"] == "2023-11-14T22:13:29.000Z"

    run(learned, check)


def test_a_time_beyond_calendars_is_told_in_milliseconds() -> None:
    """Validators whose keys were retired might sign one, and what is shown is no traceback."""
    assert tell_time(0) == "1970-01-01T00:00:00+00:00"
    assert tell_time(253_402_300_799_999) == "9999-12-31T23:59:59+00:00"
    assert tell_time(2**53) == "9007199254740992 ms after 1970"
