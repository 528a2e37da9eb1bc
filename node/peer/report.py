"""The hospital's own record of its rounds: a line of JSON for each, in its store and nowhere else.

Figures on test rows tell of patients if they are asked for often enough, so no command sends them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fl.metric import Figures

FILE = "report.jsonl"
OLDER = "report.1.jsonl"
FILE_BYTES_MAX = 8 * 1024 * 1024  # about ten thousand rounds; then the older file makes way
LINE_BYTES_MAX = 4096
MODELS = ("base", "own", "shared")


@dataclass(frozen=True, slots=True)
class Entry:
    """One round as this site saw it.

    `figures` are on the site's test rows: of the model that the round started from (`base`), of
    that model with this site's update alone (`own`), and of what the round made (`shared`); None
    where there is none. `time_ms` is the chain's, when the round was opened.
    """

    task: str
    round: int
    phase: str
    version: int | None
    status: str
    code: str
    reason: str
    time_ms: int
    figures: dict[str, Figures | None]


class Report:
    """Appends entries, and reads them back."""

    def __init__(self, store: Path) -> None:
        self._path = store / FILE
        self._older = store / OLDER

    def append(self, entry: Entry) -> None:
        """Add a round; when the file is full, it takes the place of the older one."""
        line = json.dumps(asdict(entry), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        assert len(line) <= LINE_BYTES_MAX, f"{len(line)} bytes for a round"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size + len(line) > FILE_BYTES_MAX:
            self._path.replace(self._older)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def entries(self) -> Iterator[Entry]:
        """All rounds that are still there, oldest first; a torn line is left out."""
        for path in (self._older, self._path):
            try:
                lines = path.read_bytes().splitlines()
            except FileNotFoundError:
                continue
            for line in lines:
                entry = _read(line)
                if entry is not None:
                    yield entry

    def newest(self, task: str) -> int | None:
        """The newest round of the task that is here."""
        return max((entry.round for entry in self.entries() if entry.task == task), default=None)


def _read(line: bytes) -> Entry | None:
    try:
        value: dict[str, Any] = json.loads(line)
        figures = {
            name: None if found is None else Figures(**found)
            for name, found in value.pop("figures").items()
        }
        return Entry(**value, figures=figures)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
