"""One use as a hospital's software says it: checked before it is kept, and given its salts."""

import csv
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TextIO

from node.api.times import tell_time
from node.home.document import parse
from vm.refusal import Refused
from vm.shape import pack
from vm.usage import (
    AGE_MS_MAX,
    AHEAD_MS_MAX,
    COUNT_MAX,
    SALT_BYTES,
    Action,
    Purpose,
    Use,
    note_digest,
)

NOTE_BYTES_MAX = 1_024  # it stays here: a reference into the hospital's own records
LINE_BYTES_MAX = 4_096  # of a list: seven short fields and a note
FIELDS = ("time", "model", "version", "purpose", "action", "count", "note")
PURPOSES = {purpose.value: purpose for purpose in Purpose}
ACTIONS = {action.value: action for action in Action}
REQUIRED = frozenset({"model", "version", "purpose"})
YEARS = (1970, 2999)  # of a use: the last year of all has hours that are in the next at Greenwich
INTEGER = re.compile(r"[0-9]{1,16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """A use and its packed leaf, and what its member noted; `note_salt` is shown with the note."""

    use: Use
    leaf: bytes
    note: str | None
    note_salt: bytes | None


def make_entry(
    *,
    model: str,
    version: int,
    purpose: str,
    action: str,
    count: int,
    note: str | None,
    time_ms: int,
) -> Entry:
    """An entry with fresh salts; raises `Refused("use.*")` if the chain could never record it."""
    if purpose not in PURPOSES:
        raise Refused("use.purpose", f"expected {' or '.join(PURPOSES)}, found {purpose[:40]!r}")
    if action not in ACTIONS:
        raise Refused("use.action", f"expected {' or '.join(ACTIONS)}, found {action[:40]!r}")
    if note is not None and not _is_note(note):
        raise Refused(
            "use.note", f"expected a note of at most {NOTE_BYTES_MAX} bytes in UTF-8, found another"
        )
    note_salt = None if note is None else secrets.token_bytes(SALT_BYTES)
    use = Use(
        salt=secrets.token_bytes(SALT_BYTES),
        time_ms=time_ms,
        model=model,
        version=version,
        purpose=PURPOSES[purpose],
        action=ACTIONS[action],
        count=count,
        note=None if note is None or note_salt is None else note_digest(note_salt, note),
    )
    try:
        leaf = pack(use)
    except AssertionError:
        raise Refused(
            "use.fields",
            f"expected a model's id, a version from 0 and a count of 1 to {COUNT_MAX}, found "
            f"{model[:80]!r}, {version} and {count}",
        ) from None
    return Entry(use, leaf, note, note_salt)


def _is_note(text: str) -> bool:
    try:
        return len(text.encode()) <= NOTE_BYTES_MAX
    except UnicodeEncodeError:  # half a surrogate pair, as in JSON or on a command line
        return False


def check_time(time_ms: int, now_ms: int) -> None:
    """Refuse a use that the chain would not take now; raises `Refused("use.old|use.future")`."""
    told = tell_time(time_ms, "milliseconds")
    if time_ms < now_ms - AGE_MS_MAX:
        raise Refused("use.old", f"expected a use of the last 90 days, found {told}")
    if time_ms > now_ms + AHEAD_MS_MAX:
        raise Refused("use.future", f"expected a use in the past, found {told}")


def read_entries(lines: TextIO, form: Literal["csv", "ndjson"], now_ms: int) -> Iterator[Entry]:
    """The uses of a list; raises `Refused` that names the line. Times are `now_ms` if not given.

    CSV has a header with names of `FIELDS`; each line of NDJSON is an object with these names.
    """
    rows = _csv_rows(lines) if form == "csv" else _json_rows(lines)
    for number, row in rows:
        try:
            yield _read(row, now_ms)
        except Refused as refused:
            raise Refused(refused.code, f"line {number}: {refused.message}") from None


def _csv_rows(lines: TextIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        reader = csv.DictReader(_bounded(lines), restkey="too many", strict=True)
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise Refused("use.csv", "expected each column once, found one twice")
        for row in reader:
            yield reader.line_num, {name: text for name, text in row.items() if text}
    except csv.Error as error:
        raise Refused("use.csv", f"expected CSV, found: {error}") from None


def _json_rows(lines: TextIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_bounded(lines), start=1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except Refused:
            row = None
        if not isinstance(row, dict):
            raise Refused("use.json", f"line {number}: expected a JSON object with each name once")
        yield number, row


def _bounded(lines: TextIO) -> Iterator[str]:
    while line := lines.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            raise Refused("use.line", f"expected lines of at most {LINE_BYTES_MAX} characters")
        yield line


def _read(row: Mapping[str, Any], now_ms: int) -> Entry:
    if not REQUIRED <= row.keys() <= set(FIELDS):
        raise Refused(
            "use.fields",
            f"expected {', '.join(FIELDS)} (at least {', '.join(sorted(REQUIRED))}), found "
            f"{', '.join(map(str, row))[:120]}",
        )
    note = row.get("note")
    entry = make_entry(
        model=str(row["model"]),
        version=_integer("version", row["version"]),
        purpose=str(row["purpose"]),
        action=str(row.get("action", Action.INFERENCE.value)),
        count=_integer("count", row.get("count", 1)),
        note=None if note is None else str(note),
        time_ms=now_ms if row.get("time") is None else parse_time(str(row["time"])),
    )
    check_time(entry.use.time_ms, now_ms)
    return entry


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not INTEGER.fullmatch(str(value)):
        raise Refused("use.fields", f"expected {name} as an integer, found {str(value)[:40]!r}")
    return int(value)


def parse_time(text: str) -> int:
    """RFC 3339 with its offset, in milliseconds since 1970; raises `Refused("use.time")`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or not YEARS[0] <= found.year <= YEARS[1]:
        raise Refused(
            "use.time", f"expected a time such as 2026-03-01T12:00:00Z, found {text[:40]!r}"
        )
    return round(found.timestamp() * 1_000)
