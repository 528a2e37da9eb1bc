"""What stewards try out before they open a task."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Group
from rich.table import Table

from node.commands.files import read_file
from node.commands.report import Format, show
from node.home.document import dump, load
from vm.digest import BEACON, digest
from vm.record import ModelSpec
from vm.terms import Terms

if TYPE_CHECKING:
    from fl.replay import Replayed

ROWS = 500  # made up, or one batch if that is more
SEGMENTS = 4  # tried of a round, which may have a thousand
DRAWN = 2  # segments that each verifier replays, unless the task says more

app = App(name="learning", help="Try out what a training task would ask for.")


@app.command
def calibrate(
    terms: Path,
    *,
    spec: Path,
    grid_bits: Annotated[int, Parameter(validator=Number(gte=20, lte=24))] = 24,
    segments: Annotated[int, Parameter(validator=Number(gte=1))] = SEGMENTS,
    output: Format = "text",
) -> None:
    """Find out how exactly a task's training replays, and propose its `replay`.

    Trains a few segments on made-up rows and runs each again with other numbers of threads, with
    and without oneDNN, and in processes that leave out instruction sets, as other hospitals'
    machines may. Run it where the task will train: the digest of the last snapshot should be the
    same on all machines.

    Parameters
    ----------
    terms
        JSON file with all that the task fixes, as for `concilium task open`.
    spec
        JSON file with the model's layers.
    grid_bits
        The grid of weights and updates is 2^-grid_bits, 20 to 24.
    segments
        How many segments are tried.
    """
    from fl.calibrate import SETTINGS, Case, made_up, made_up_base, propose, trace
    from fl.trace import segment_count
    from fl.train import Job
    from node.peer.calibration import try_setting

    fixed, layers = load(Terms, read_file(terms)), load(ModelSpec, read_file(spec))
    training = fixed.training
    rows = made_up(layers, fixed.preprocessing, max(ROWS, training.batch_rows))
    job = Job(layers, grid_bits, training, digest(BEACON, b"calibrate"), "made-up")
    case = Case(job, made_up_base(layers, grid_bits), rows)
    snapshots = trace(case, min(segments, segment_count(training)))
    found = {
        name: [finding.replayed for finding in try_setting(setting, [(case, snapshots)])[0]]
        for name, setting in SETTINGS.items()
    }
    tried = [one for replayed in found.values() for one in replayed]
    replay = propose(tried, min(DRAWN, segment_count(training)))
    last = snapshots[-1].segments[-1]
    data = {
        "settings": {name: _worst(replayed) for name, replayed in found.items()},
        "weights": last.weights.hex(),
        "optimizer": last.optimizer.hex(),
        "replay": dump(replay),
    }
    show(output, data, _describe(data))


def _worst(replayed: Sequence["Replayed"]) -> dict[str, int]:
    return {
        "replays": len(replayed),
        "differing": max(one.differing for one in replayed),
        "grid_steps": max(one.worst for one in replayed),
    }


def _describe(data: dict[str, Any]) -> Group:
    table = Table("machine", "segments replayed", "coordinates off", "grid steps off")
    for name, worst in data["settings"].items():
        table.add_row(name, *(str(number) for number in worst.values()))
    return Group(
        table,
        f"Weights at the end {data['weights']}, optimizer state {data['optimizer']}: these should "
        "be the same on every machine of the task.",
        f"For the task's terms: {json.dumps({'replay': data['replay']})}",
    )
