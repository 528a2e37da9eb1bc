"""`concilium prune`: make room on the disk of a stopped validator."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from node.commands.report import Format, show
from node.home import config
from vm.refusal import Refused


def prune(home: Path, *, retain: int | None = None, output: Format = "text") -> None:
    """Delete old blocks, receipts and states of a stopped validator; headers stay.

    It may be interrupted at any time and goes on where it was. A running validator prunes by itself
    if [store] retain_blocks says so.

    Parameters
    ----------
    home
        The validator's folder with concilium.toml.
    retain
        Number of newest blocks to keep; as [store] retain_blocks says if not given.
    """
    from node.validator.prune import Pruner
    from node.validator.store import Store

    settings = config.load(config.ValidatorConfig, home, os.environ)
    folder = settings.store.folder / "chain"
    if not folder.is_dir():
        raise Refused("prune.nothing", f"expected a chain in {folder}, found none")
    store = Store(folder)
    try:
        pruner = Pruner(store)
        target = pruner.target(settings.store.retain_blocks if retain is None else retain)
        _follow(pruner.steps(target), shown=output == "text" and sys.stderr.isatty())
        store.sync()
        store.compact()  # a running node leaves that to LevelDB, which takes its time
    finally:
        store.close()
    data = {"below": target.below, "snapshots": list(target.snapshots)}
    show(output, data, f"Blocks from height {target.below} on are kept; headers all are.")


def _follow(steps: Iterator[float], *, shown: bool) -> None:
    """Work the steps off, with a bar on a terminal."""
    with Progress(console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task("Pruning", total=1.0)
        for share in steps:
            progress.update(task, completed=share)
