"""Progress for people: a bar for each round in training on a terminal, nothing otherwise.

What a bar shows the log says in lines; verdicts and reasons are lines of the log too.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from fl.train import OnStep
from node.peer.stage import Stage
from node.peer.training import OnStage


@contextmanager
def bars() -> Iterator[OnStage | None]:
    """Bars of rounds, steps and losses; None where nobody would see them.

    Logs that are set up inside appear above the bars instead of across them.
    """
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bars(progress).start


class _Bars:
    """One bar for each task, from the first step of a round to its last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._of_task: dict[str, TaskID] = {}

    def start(self, stage: Stage) -> OnStep:
        """What is to be told of each step of this round."""
        task, rounds = stage.task, stage.task.terms.rounds
        description = f"{task.id} round {stage.round.number} ({task.closed} of {rounds} closed)"
        if task.id in self._of_task:
            self._progress.remove_task(self._of_task.pop(task.id))
        bar = self._progress.add_task(description, total=None, loss="")
        self._of_task[task.id] = bar

        def on_step(step: int, steps: int, loss: float) -> None:
            self._progress.update(bar, completed=step, total=steps, loss=f"loss {loss:.4f}")
            if step == steps:
                self._progress.remove_task(self._of_task.pop(task.id))

        return on_step
