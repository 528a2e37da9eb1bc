"""Progress for people: bars on a terminal, nothing otherwise (the log says it in lines)."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

OnStep = Callable[[int, int, float], None]


@contextmanager
def step_bar() -> Iterator[OnStep | None]:
    """A bar of one round's training steps and their loss; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("training", total=None, loss="")

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.update(bar, completed=step, total=steps, loss=f"loss {loss:.4f}")

        yield on_step
