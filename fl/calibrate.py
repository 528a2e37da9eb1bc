"""Calibration: whether a training replays bit for bit on other machines, and how nearly if not.

Other machines are imitated on one: libraries are told by environment variables to leave out
instruction sets, so that each setting needs a process of its own, and within one process threads
and oneDNN vary. What is compared is a single segment at a time, from the same snapshot, as replay
does. Settings of one machine do not stand for every other one, so what is proposed allows for twice
of what was found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import numpy as np
import torch
from torch.backends import mkldnn

from fl.fixed import Ints
from fl.model import Rows, build, prepare
from fl.preprocess import Table
from fl.replay import Replayed, differences
from fl.sampling import Stream
from fl.spec import check_spec, parameter_count
from fl.train import Job, Snapshot, first, run_segment
from vm.digest import DIGEST_BYTES
from vm.record import ModelSpec, Output
from vm.refusal import Refused
from vm.terms import OFF_BY_ONE_MAX, TOLERANCE_MAX, Preprocessing, Replay

SETTINGS: dict[str, dict[str, str]] = {  # environment variables of torch, oneDNN and MKL
    "as it is": {},
    "oneDNN without AVX": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "torch without vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
    "MKL as on any machine": {"MKL_CBWR": "COMPATIBLE"},
    "all of these": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
    },
}
THREADS = (1, 2)
MARGIN = 2  # times what was found is allowed


@dataclass(frozen=True, slots=True)
class Case:
    """A round's training, of which the first segments are tried."""

    job: Job
    base: Ints
    rows: Rows


@dataclass(frozen=True, slots=True)
class Finding:
    """One segment, run again with so many threads, with oneDNN or without."""

    threads: int
    onednn: bool
    replayed: Replayed


def made_up(spec: ModelSpec, preprocessing: Preprocessing, count: int) -> Rows:
    """Rows that no patient has, uniform over four scales of each column, within its bounds.

    Raises `Refused("spec.*" | "task.inputs")` where the model does not fit itself or the columns.
    """
    inputs, columns = prod(spec.input), len(preprocessing.columns)
    if inputs != columns:
        raise Refused("task.inputs", f"expected {inputs} columns, found {columns}")
    stream = Stream("calibrate", count)
    (logits,) = check_spec(spec)
    classes = 2 if spec.output is Output.BINARY else logits
    cells = tuple(
        tuple(
            min(max(one.center + stream.below(4 * one.scale) - 2 * one.scale, one.low), one.high)
            for one in preprocessing.columns
        )
        for _ in range(count)
    )
    labels = tuple(stream.below(classes) for _ in range(count))
    leaves = tuple(number.to_bytes(DIGEST_BYTES, "big") for number in range(count))
    return prepare(spec, preprocessing, Table(cells, labels), leaves)


def made_up_base(spec: ModelSpec, grid_bits: int) -> Ints:
    """Weights of up to 1/8, [parameters]: the same on every machine, unlike those of `initial`."""
    high = 2 ** (grid_bits - 3)
    return np.random.default_rng(0).integers(-high, high, parameter_count(spec))


def trace(case: Case, segments: int) -> list[Snapshot]:
    """The snapshot before the first step and those after each of so many segments."""
    found = [first(case.job, case.base)]
    module = build(case.job.spec)
    for index in range(segments):
        found.append(run_segment(case.job, module, case.base, index, found[-1], case.rows))
    return found


def try_again(case: Case, snapshots: Sequence[Snapshot]) -> list[Finding]:
    """Each segment run again from the snapshot before it, in all ways of this process.

    Torch's number of threads is afterwards as it was.
    """
    module, before = build(case.job.spec), torch.get_num_threads()
    found = []
    for threads, onednn in product(THREADS, (False, True)):  # ends with oneDNN on, as torch starts
        torch.set_num_threads(threads)
        mkldnn.set_flags(onednn)  # type: ignore[no-untyped-call]
        for index, (last, after) in enumerate(pairwise(snapshots)):
            end = run_segment(case.job, module, case.base, index, last, case.rows)
            pairs = [(after.weights, end.weights), (after.state, end.state)]
            found.append(Finding(threads, onednn, differences(pairs, index)))
    torch.set_num_threads(before)
    return found


def propose(found: Iterable[Replayed], segments: int) -> Replay:
    """The least allowance that bears `MARGIN` times what was found.

    Raises `Refused("calibrate.beyond")` where none that a task may make would.
    """
    found = list(found)
    worst = max(one.worst for one in found)
    count = MARGIN * max(one.differing for one in found)
    if worst <= 1 and count <= OFF_BY_ONE_MAX:
        return Replay(segments, count, 0)
    if MARGIN * worst <= TOLERANCE_MAX:
        return Replay(segments, 0, MARGIN * worst)
    raise Refused(
        "calibrate.beyond",
        f"expected differences of at most {TOLERANCE_MAX // MARGIN} grid steps, found {worst}: "
        "this training does not replay; ask for evidence of class committed",
    )
