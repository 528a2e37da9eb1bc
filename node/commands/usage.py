"""`concilium usage`: a hospital's uses of models, from its own books to the chain and to auditors.

Uses are kept in the folder `usage` of the member's home. The chain gets a root, counts and times of
many at once.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from node.api.times import tell_time
from node.audit.file import write_file
from node.commands.files import check_absent, write_new
from node.commands.office import pen
from node.commands.report import Format, show
from node.home import config
from node.home.document import dump
from node.usage.entry import check_time, make_entry, parse_time, read_entries
from node.usage.journal import Batch, Journal, Subject
from node.usage.sender import OnBatch, Sender, Sent
from node.usage.show import prove_uses
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX

FOLDER = "usage"  # of a home: what its member's software appends to

Natural = Annotated[int, Parameter(validator=Number(gte=0, lte=HEIGHT_MAX))]
Listed = Literal["csv", "ndjson"]

app = App(name="usage", help="Record uses of models on the chain, and show them to auditors.")


@app.command
def add(
    home: Path,
    *,
    model: str | None = None,
    version: Natural | None = None,
    purpose: str | None = None,
    action: Literal["inference", "export"] = "inference",
    count: Natural = 1,
    note: str | None = None,
    at: str | None = None,
    read: Listed | None = None,
    output: Format = "text",
) -> None:
    """Keep one use in the journal, or with --read all that stand on standard input; sends nothing.

    Parameters
    ----------
    home
        Folder with concilium.toml of a steward, trainer or verifier.
    model
        Id of the model that was used.
    version
        Which version of it.
    purpose
        care, research, quality, education or development.
    action
        inference: rows went through it; export: its weights were given to another system.
    count
        How many rows, or how many copies.
    note
        A reference into your own records. It stays here; the chain gets a salted digest.
    at
        When it was, as RFC 3339 such as 2026-03-01T12:00:00Z; now if not given.
    read
        Read csv with a header, or ndjson: time, model, version, purpose, action, count, note.
        Either all of it is kept or, if a line is refused, nothing.
    """
    now_ms = _now_ms()
    with _journal(home) as journal:
        if read is not None:
            if (model, version, purpose) != (None, None, None):
                raise Refused("usage.subject", "expected either --read or --model, found both")
            kept = journal.add(read_entries(sys.stdin, read, now_ms))
        elif model is None or version is None or purpose is None:
            raise Refused(
                "usage.subject", "expected --model, --version and --purpose, or --read, found less"
            )
        else:
            entry = make_entry(
                model=model,
                version=version,
                purpose=purpose,
                action=action,
                count=count,
                note=note,
                time_ms=now_ms if at is None else parse_time(at),
            )
            check_time(entry.use.time_ms, now_ms)
            kept = journal.add([entry])
    show(output, {"kept": kept}, f"Kept {kept} uses; concilium usage send records them")


@app.command
def send(home: Path, *, output: Format = "text") -> None:
    """Record all uses that wait: one transaction for each version, purpose and action.

    After an interruption send again: nothing is recorded twice.

    Parameters
    ----------
    home
        Folder with concilium.toml of a steward, trainer or verifier.
    """
    with _journal(home) as journal:
        found = asyncio.run(_send(home, journal))
        late = journal.late(_now_ms())
    table = Table("batch", "model", "uses", "on the chain")
    for sent in found:
        where = f"number {sent.number}" if sent.number else f"no: {sent.code}: {sent.reason}"
        table.add_row(
            str(sent.batch or "-"), f"{sent.model} {sent.version}", str(sent.entries), where
        )
    data = {"batches": dump(found), "late": dump(late)}
    show(output, data, Group(table, *_say_late(late)))
    failed = next((sent for sent in found if sent.code is not None), None)
    if failed is not None:
        raise Refused(failed.code or "", failed.reason)


async def _send(home: Path, journal: Journal) -> list[Sent]:
    async with pen(home) as submitter:
        with _bar() as on_batch:
            return await Sender(submitter, journal).send(_now_ms(), on_batch)


@contextmanager
def _bar() -> Iterator[OnBatch]:
    """A bar on a terminal, nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("uses"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("uses", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@app.command(name="list")
def list_(home: Path, *, batch: Natural | None = None, output: Format = "text") -> None:
    """List batches and what waits; with --batch, the uses of one. Asks nobody.

    Parameters
    ----------
    home
        Folder with concilium.toml of a steward, trainer or verifier.
    batch
        List the uses of this batch, with their notes.
    """
    with _journal(home) as journal:
        if batch is not None:
            _list_uses(journal, batch, output)
            return
        batches, now_ms = journal.batches(), _now_ms()
        waiting, late = journal.waiting(now_ms), journal.late(now_ms)
    table = Table("batch", "model", "purpose", "action", "uses", "count", "until", "on the chain")
    for item in batches:
        body = item.body
        table.add_row(
            *(str(item.id), f"{body.model} {body.version}", body.purpose.value, body.action.value),
            *(str(body.entries), str(body.count), tell_time(body.last_ms), _where(item)),
        )
    lines = [f"{item.waiting} uses of {item.name} wait to be sent" for item in waiting]
    lines += _say_late(late)
    data = {
        "batches": [
            {"batch": item.id, "number": item.number, "code": item.code, **dump(item.body)}
            for item in batches
        ],
        "waiting": dump(waiting),
        "late": dump(late),
    }
    show(output, data, Group(*([table] if batches else []), *lines))


def _say_late(late: list[Subject]) -> list[str]:
    return [
        f"{item.waiting} uses of {item.name} waited for more than 89 days and are not recorded"
        for item in late
    ]


def _where(batch: Batch) -> str:
    if batch.number is not None:
        return f"number {batch.number}"
    return "not yet" if batch.code is None else f"not yet: {batch.code}"


def _list_uses(journal: Journal, id: int, output: Format) -> None:
    journal.batch(id)
    table = Table("use", "time", "count", "note")
    data: list[dict[str, Any]] = []
    for place, (use, note, salt) in enumerate(journal.uses(id)):
        table.add_row(str(place), tell_time(use.time_ms), str(use.count), note or "")
        data.append({"use": place, **dump(use), "note_text": note, "note_salt": dump(salt)})
    show(output, data, table)


@app.command(name="open")
def open_(
    home: Path, *, batch: Natural, use: Natural | None = None, out: Path, output: Format = "text"
) -> None:
    """Write a file that shows a batch's uses, or one alone: concilium audit verify FILE.

    Notes are not in it.

    Parameters
    ----------
    home
        Folder with concilium.toml of a steward, trainer or verifier.
    batch
        Which batch, as concilium usage list has it.
    use
        Show this use alone, as concilium usage list --batch has it.
    out
        File to write; it must not exist.
    """
    check_absent(out)
    with _journal(home) as journal:
        asyncio.run(_open(home, journal, batch, use, out))
    what = "all uses" if use is None else f"use {use}"
    data = {"batch": batch, "use": use, "file": str(out)}
    show(output, data, f"Wrote {what} of batch {batch} to {out}")


async def _open(home: Path, journal: Journal, batch: int, use: int | None, out: Path) -> None:
    async with pen(home) as submitter:
        client = submitter.client
        proof = await prove_uses(client, journal, submitter.member, batch, use)
        write_new(out, write_file(proof, client.proven.steps).encode())


def _journal(home: Path) -> Journal:
    """The journal of a home; raises `Refused("config.*")` where there is no home."""
    config.load(config.OfficeConfig, home, os.environ)
    return Journal(home / FOLDER)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
