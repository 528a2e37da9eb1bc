"""Many runs: which there are, several at a time, each kept as soon as it is done.

A file of runs holds one JSON line for each. Who starts again with the same file goes on where it
was; lines that other code has made do not count, for they would mix two laboratories in one table.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tests.lab import data, setting
from tests.lab.federation import Found
from tests.lab.setting import Setting

HERE = Path(__file__).resolve().parent
CODE = (  # what a run's outcome hangs on, beside the packages of constraints.txt
    *(HERE / f"{name}.py" for name in ("data", "federation", "foreign", "poison", "setting")),
    *sorted((HERE.parent.parent / "fl").rglob("*.py")),
    *sorted((HERE.parent.parent / "vm").rglob("*.py")),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One federation: a seed of a setting on some data."""

    data: str
    rounds: int
    setting: Setting
    seed: int


Map = Callable[[Callable[[Run], tuple[Run, Found]], Sequence[Run]], Iterator[tuple[Run, Found]]]


def settings(
    rules: Sequence[str],
    attacks: Sequence[str],
    iid: Sequence[bool],
    sites: int,
    dishonest: Sequence[int],
    filtering: Sequence[bool],
) -> list[Setting]:
    """Every combination, and before the attacks on a rule what it comes to without."""
    found: dict[Setting, None] = {}
    for rule, rows, filtered in product(rules, iid, filtering):
        found[Setting(rule, "none", rows, sites, 0, filtered)] = None
        for attack, count in product(attacks, dishonest):
            if attack != "none" and count:
                found[Setting(rule, attack, rows, sites, count, filtered)] = None
    return list(found)


def runs(source: str, rounds: int, chosen: Sequence[Setting], seeds: int) -> list[Run]:
    """All of a seed before the next seed: who stops early has fewer seeds, not fewer settings."""
    return [Run(source, rounds, one, seed) for seed in range(seeds) for one in chosen]


def complete(
    due: Sequence[Run], done: dict[Run, Found], jobs: int, keep: Callable[[Run, Found], None]
) -> None:
    """Add to `done` every due run that it lacks, `jobs` at a time; each goes to `keep` at once."""
    missing = [one for one in due if one not in done]
    with _mapping(jobs) as mapping:
        for one, found in mapping(perform, missing):
            done[one] = found
            keep(one, found)


def perform(one: Run) -> tuple[Run, Found]:
    """The run and what came of it."""
    return one, setting.run(_source(one.data), one.setting, one.seed, one.rounds)


@cache
def _source(name: str) -> data.Source:
    return data.source(name)


@contextmanager
def _mapping(jobs: int) -> Iterator[Map]:
    """`map`, or the same over so many processes."""
    if jobs == 1:
        yield map
        return
    with get_context("spawn").Pool(jobs, partial(torch.set_num_threads, 1)) as pool:
        yield pool.imap_unordered


@cache
def code() -> str:
    """A digest of everything that a run's outcome hangs on."""
    found = hashlib.sha256()
    for path in CODE:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def written(one: Run, found: Found) -> str:
    """A run as a line of a file."""
    return json.dumps({"code": code(), **asdict(one), "found": asdict(found)}) + "\n"


def read(path: Path) -> dict[Run, Found]:
    """The runs of a file, without those of other code and a last line that was cut short."""
    if not path.exists():
        return {}
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return dict(_read(one) for one in map(json.loads, lines) if one["code"] == code())


def _read(line: Mapping[str, Any]) -> tuple[Run, Found]:
    one = Run(line["data"], line["rounds"], Setting(**line["setting"]), line["seed"])
    return one, Found(**line["found"])
