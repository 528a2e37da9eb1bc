"""`concilium peer run --dry-run`: one round trained at the hospital, of which nothing leaves it."""

import asyncio
import os
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from node.commands.files import read_file
from node.commands.report import Format, number, show
from node.home import config
from node.home.document import load
from node.home.keyfile import read_secret
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.terms import Terms

if TYPE_CHECKING:
    from node.peer.rehearsal import Rehearsal, Script

LINES_MAX = 20  # of losses, for people; a program gets them all


def rehearse(
    home: Path,
    task: str | None,
    terms: Path | None,
    spec: Path | None,
    grid_bits: int,
    output: Format,
) -> None:
    """Train one round of a task, or of terms from a file, and print how it went."""
    from node.peer import rehearsal
    from node.peer.site import load_data

    settings = config.load(config.PeerConfig, home, os.environ)
    training = settings.training
    if terms is None:
        id = task or next(iter(training.listed), None)
        if id is None or spec is not None:
            raise Refused(
                "usage.task", "expected --task, or --terms and --spec, found neither or a part"
            )
        script = asyncio.run(rehearsal.script_of(settings, id))
    else:
        id = str(terms)
        script = _from_files(task, terms, spec, grid_bits)
    secret = read_secret(training.secret)
    data = load_data(training.data, script.terms.preprocessing, secret)
    found = rehearsal.rehearse(script, data)
    show(
        output,
        {"task": id, "sent": False, "registered": script.dataset is not None, **asdict(found)},
        _describe(id, found, script),
    )


def _from_files(task: str | None, terms: Path, spec: Path | None, grid_bits: int) -> "Script":
    from fl.model import initial
    from fl.spec import check_spec
    from node.peer.rehearsal import Script

    if spec is None or task is not None:
        raise Refused("usage.spec", "expected --spec beside --terms, and no --task")
    layers = load(ModelSpec, read_file(spec))
    check_spec(layers)
    asked = load(Terms, read_file(terms))
    inputs, columns = prod(layers.input), len(asked.preprocessing.columns)
    if inputs != columns:
        raise Refused("usage.spec", f"expected a model of {columns} inputs, found {inputs}")
    return Script(asked, layers, grid_bits, initial(layers, grid_bits, seed=1), None)


def _describe(id: str, found: "Rehearsal", script: "Script") -> Group:
    steps = Table("step", "loss", title=f"One round of {id}, trained here and sent nowhere")
    every = -(-len(found.losses) // LINES_MAX)
    for step, loss in enumerate(found.losses, start=1):
        if step % every == 0 or step in (1, len(found.losses)):
            steps.add_row(str(step), number(loss))
    columns = ("rows", "AUC", "log-loss", "Brier", "intercept", "slope")
    figures = Table("model", *columns, title="On this site's test rows")
    for name, model in (("base", found.base), ("own", found.own)):
        if model is not None:
            values = asdict(model)
            rows = str(values.pop("rows"))
            figures.add_row(name, rows, *(number(value) for value in values.values()))
    registered = "are the registered ones" if script.dataset else "are not registered yet"
    figures.caption = (
        f"{found.train_rows} rows trained on, {found.scoring_rows} kept for scoring others; the "
        f"rows {registered}. The update's norm is {found.norm:.4f}."
    )
    return Group(steps, figures)
