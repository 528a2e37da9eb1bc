"""`concilium peer`: the training peer beside a hospital's data."""

import asyncio
import os
from dataclasses import asdict
from pathlib import Path

from cyclopts import App
from rich.table import Table

from node.commands import consent
from node.commands.network import start_logs, until_signal
from node.commands.rehearsal import rehearse
from node.commands.report import Format, LogFormat, number, show
from node.home import config
from node.home.document import dump
from vm.refusal import Refused

app = App(name="peer", help="Run a training peer, and decide what it takes part in.")
app.command(consent.approve)
app.command(consent.withdraw)
app.command(consent.decline)


@app.command
def run(
    home: Path,
    *,
    dry_run: bool = False,
    task: str | None = None,
    terms: Path | None = None,
    spec: Path | None = None,
    grid_bits: int = 24,
    output: LogFormat = None,
) -> None:
    """Train and verify in this site's tasks, until SIGTERM or Ctrl-C.

    Parameters
    ----------
    home
        The training peer's folder with concilium.toml.
    dry_run
        Train one round here, print its losses and figures, send nothing, and end.
    task
        Id of the task of a dry run; without it, the first one of [training] tasks.
    terms
        JSON file with the terms of a dry run, for a task that is not on the chain.
    spec
        JSON file with the model's layers, beside --terms.
    grid_bits
        The model's grid beside --terms: 2^-grid_bits, 20 to 24.
    """
    if dry_run:
        rehearse(home, task, terms, spec, grid_bits, output or "text")
        return
    if task is not None or terms is not None or spec is not None:
        raise Refused(
            "usage.dry_run",
            "expected --task, --terms and --spec with --dry-run alone, found one without it: a "
            "peer works off [training] tasks",
        )
    from node.peer.assembly import run_peer
    from node.peer.progress import bars

    settings = config.load(config.PeerConfig, home, os.environ)
    with bars() as on_stage:
        start_logs(settings.log, output, settings.trainer.id)
        asyncio.run(until_signal(run_peer(settings, on_stage=on_stage)))


@app.command
def check(home: Path, *, task: str | None = None, output: Format = "text") -> None:
    """Check this site's rows against a task and the registered dataset; nothing leaves here.

    Parameters
    ----------
    home
        The training peer's folder with concilium.toml.
    task
        Id of the task; without it, the first one of [training] tasks.
    """
    settings = config.load(config.PeerConfig, home, os.environ)
    id = task or next(iter(settings.training.listed), None)
    if id is None:
        raise Refused("usage.task", "expected --task, or a task in [training] tasks, found neither")
    asyncio.run(_check(settings, id, output))


async def _check(settings: config.PeerConfig, id: str, output: Format) -> None:
    from node.client.client import Client
    from node.client.credentials import credentials_of
    from node.home.genesis import read_genesis
    from node.home.keyfile import read_secret
    from node.peer.site import LocalData, check_data
    from vm.learning import Task
    from vm.record import Dataset

    urls = [validator.http for validator in settings.training.validators]
    reader = credentials_of(settings.trainer, settings.tls)
    async with Client(read_genesis(settings.chain.genesis), urls, reader) as client:
        task = await client.record(Task, id)
        dataset = await client.record(Dataset, settings.training.dataset)
    if task is None:
        raise Refused("peer.task", f"expected task {id} on the chain, found none")
    report = check_data(settings.training.data, task.terms.preprocessing)
    training = task.terms.training
    data = {
        "task": id,
        "rows": report.rows,
        "without_outcome": report.without_outcome,
        "problems": dump(report.problems),
        "notes": dump(report.notes),
        "rounds": task.terms.rounds,
        "training": dump(training),
        "purpose": task.terms.purpose,
        "registered": dataset is not None,
    }
    table = Table("", "code", "column", "cells", "first rows", title=str(settings.training.data))
    for label, findings in (("problem", report.problems), ("note", report.notes)):
        for found in findings:
            rows = ", ".join(map(str, found.rows))
            table.add_row(label, found.code, found.column, str(found.count), rows)
    verdict = "does not fit" if report.problems else "fits"
    table.caption = (
        f"{report.rows} rows, {report.without_outcome} without an outcome: the data {verdict} "
        f"task {id}: {task.terms.rounds} rounds of {training.steps} steps, {training.batch_rows} "
        f"rows each, for {task.terms.purpose}"
    )
    show(output, data, table)
    if report.problems:
        raise Refused("peer.data", f"expected rows that fit task {id}, found the problems above")
    if dataset is not None:
        secret = read_secret(settings.training.secret)
        LocalData(report.require(), secret).require_root(dataset)


@app.command
def report(home: Path, *, task: str | None = None, output: Format = "text") -> None:
    """Show what became of each round here, on this site's test rows; nothing leaves here.

    Parameters
    ----------
    home
        The training peer's folder with concilium.toml.
    task
        Id of the task; without it, all of them.
    """
    from node.peer.report import MODELS, Report

    settings = config.load(config.PeerConfig, home, os.environ)
    found = [
        entry
        for entry in Report(settings.store.folder).entries()
        if task is None or entry.task == task
    ]
    columns = ("model", "rows", "AUC", "log-loss", "Brier", "intercept", "slope")
    table = Table("task", "round", "update", *columns, title="On this site's test rows")
    for entry in found:
        update = entry.status if entry.status == "accepted" else f"{entry.status}: {entry.code}"
        for place, name in enumerate(MODELS):
            figures = entry.figures.get(name)
            numbers = ["-"] * 6
            if figures is not None:
                values = asdict(figures)
                numbers = [str(values.pop("rows")), *(number(x) for x in values.values())]
            first = (entry.task, str(entry.round), update) if place == 0 else ("", "", "")
            table.add_row(*first, name, *numbers)
    table.caption = (
        "base: before the round; own: with this site's update alone; shared: what the round made. "
        "Perfect calibration has intercept 0 and slope 1 (Van Calster et al. 2019)."
    )
    show(output, {"rounds": [asdict(entry) for entry in found]}, table)
