"""What a hospital's software says of a use: read, checked, and never guessed at."""

import io
import json
from typing import Literal

import pytest

from node.usage.entry import (
    LINE_BYTES_MAX,
    NOTE_BYTES_MAX,
    Entry,
    check_time,
    make_entry,
    parse_time,
    read_entries,
)
from vm.refusal import Refused
from vm.usage import AGE_MS_MAX, AHEAD_MS_MAX, COUNT_MAX, Action, Purpose, note_digest

NOW_MS = 1_700_000_000_000
WHOLE = """time,model,version,purpose,action,count,note
2023-11-14T22:13:19Z,risk,3,care,inference,12,"ward 3, list 7"
2023-11-14T23:13:18.500+01:00,risk,3,research,export,,
,risk,3,quality,,,
"""


def read(text: str, form: Literal["csv", "ndjson"] = "csv") -> list[Entry]:
    """The entries of a list at `NOW_MS`."""
    return list(read_entries(io.StringIO(text), form, NOW_MS))


def code_of(text: str, form: Literal["csv", "ndjson"] = "csv") -> str:
    """The code with which a list is refused."""
    with pytest.raises(Refused) as caught:
        read(text, form)
    return caught.value.code


def one(**changes: object) -> Entry:
    """An entry with `changes`."""
    fields = {"model": "risk", "version": 3, "purpose": "care", "action": "inference", "count": 1}
    return make_entry(**(fields | {"note": None, "time_ms": NOW_MS} | changes))  # type: ignore[arg-type]


def test_a_list_is_read_as_it_stands() -> None:
    """Times with any offset, defaults for what is left out, notes as digests."""
    noted, second, third = read(WHOLE)

    assert noted.use.time_ms == NOW_MS - 1_000
    assert (noted.use.model, noted.use.version, noted.use.count) == ("risk", 3, 12)
    assert noted.note == "ward 3, list 7"
    assert noted.note_salt is not None
    assert noted.use.note == note_digest(noted.note_salt, noted.note)
    assert second.use.time_ms == NOW_MS - 1_500
    assert (second.use.action, second.use.count, second.use.note) == (Action.EXPORT, 1, None)
    assert (third.use.time_ms, third.use.purpose) == (NOW_MS, Purpose.QUALITY)
    assert third.use.action is Action.INFERENCE


def test_both_forms_say_the_same() -> None:
    """A line of NDJSON has the names of the CSV's header."""
    row = {"model": "risk", "version": 3, "purpose": "care", "count": 2, "note": "x"}

    (found,) = read(f"\n{json.dumps(row)}\n", "ndjson")

    assert (found.use.version, found.use.count, found.note) == (3, 2, "x")


def test_salts_are_never_equal() -> None:
    """Two equal uses are two different leaves, and the note's salt is not the leaf's."""
    entries = [one(note="x") for _ in range(50)]

    salts = {entry.use.salt for entry in entries} | {entry.note_salt for entry in entries}

    assert len(salts) == 100


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (",risk,3,cure,,,", "use.purpose"),
        (",risk,3,care,copy,,", "use.action"),
        (",risk,three,care,,,", "use.fields"),
        (",risk,-1,care,,,", "use.fields"),
        (",Risk!,3,care,,,", "use.fields"),
        (",risk,3,care,,0,", "use.fields"),
        (f",risk,3,care,,{COUNT_MAX + 1},", "use.fields"),
        (",risk,3,,,,", "use.fields"),
        (",risk,3,care,,,,more", "use.fields"),
        ("yesterday,risk,3,care,,,", "use.time"),
        ("2023-11-14T22:13:19,risk,3,care,,,", "use.time"),  # of which zone?
        ("9999-12-31T23:59:59-23:59,risk,3,care,,,", "use.time"),
        ("2023-01-01T00:00:00Z,risk,3,care,,,", "use.old"),
        ("2024-01-01T00:00:00Z,risk,3,care,,,", "use.future"),
        (",risk,3,care,,," + "x" * (NOTE_BYTES_MAX + 1), "use.note"),
        (",risk,3,care,,," + "x" * LINE_BYTES_MAX, "use.line"),
        (',risk,3,care,,,"x"y', "use.csv"),
    ],
)
def test_a_line_that_the_chain_would_refuse_is_refused_here(line: str, code: str) -> None:
    """Whatever can be known before the network is asked."""
    assert code_of(WHOLE + line) == code


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("not json", "use.json"),
        ("[1]", "use.json"),
        ('{"model": "risk", "version": true, "purpose": "care"}', "use.fields"),
        ('{"model": "risk", "version": 3, "purpose": "care", "patient": 7}', "use.fields"),
        ('{"model": "risk", "version": 3, "purpose": "care", "version": 4}', "use.json"),
        ('{"model": "risk", "version": 3, "purpose": "care", "note": "\\ud800"}', "use.note"),
        ('{"model": "\\ud800", "version": 3, "purpose": "care"}', "use.fields"),
    ],
)
def test_a_line_of_json_is_no_less_strict(line: str, code: str) -> None:
    """An unknown name is refused: it may be what nobody wanted to tell."""
    assert code_of(line, "ndjson") == code


def test_a_column_twice_is_refused() -> None:
    """Nobody knows which of the two was meant."""
    assert code_of("model,model,version,purpose\nrisk,other,3,care\n") == "use.csv"


def test_the_line_is_named() -> None:
    """In a list of thousands."""
    with pytest.raises(Refused, match="line 5: "):
        read(WHOLE + ",risk,3,cure,,,")


def test_time_has_bounds_on_both_sides() -> None:
    """A use of the future is a wrong clock, one of last year nobody can vouch for."""
    check_time(NOW_MS - AGE_MS_MAX, NOW_MS)
    check_time(NOW_MS + AHEAD_MS_MAX, NOW_MS)
    for time_ms in (NOW_MS - AGE_MS_MAX - 1, NOW_MS + AHEAD_MS_MAX + 1, 2**53):
        with pytest.raises(Refused):
            check_time(time_ms, NOW_MS)


def test_times_before_1970_are_refused_like_others() -> None:
    """Not a crash of ours."""
    with pytest.raises(Refused):
        check_time(parse_time("0001-01-01T00:00:00+00:00"), NOW_MS)
