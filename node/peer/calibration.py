"""Processes in which calibration imitates other machines: libraries read their settings at start.

    python -m node.peer.calibration < cases > findings

Parent and child are one program at one time, so what passes between them needs no version.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import torch

from fl.calibrate import Case, Finding, try_again
from fl.model import Rows
from fl.replay import Replayed
from fl.train import Job, Snapshot
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.terms import Training

LENGTH_BYTES = 8
CHILD_S_MAX = 3_600  # a calibration that takes longer is of too large a model or too many segments

PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}  # else idle threads burn the cores that others wait for

Try = tuple[Case, Sequence[Snapshot]]


def try_setting(environment: dict[str, str], tries: Sequence[Try]) -> list[list[Finding]]:
    """The findings of each case in a process with this environment added to ours.

    Raises `Refused("calibrate.process")` if the process fails.
    """
    data = b"".join(_framed(_pack(case, snapshots)) for case, snapshots in tries)
    try:
        child = subprocess.run(
            [sys.executable, "-m", "node.peer.calibration"],
            env=os.environ | PATIENT | environment,
            input=data,
            stdout=subprocess.PIPE,
            timeout=CHILD_S_MAX,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise Refused(
            "calibrate.process",
            f"expected a process under {environment or 'no setting'} to end well, found: {error}",
        ) from error
    return [
        [
            Finding(threads, onednn, Replayed(segment, differing, worst))
            for threads, onednn, segment, differing, worst in findings
        ]
        for findings in json.loads(child.stdout)
    ]


def main() -> None:
    """Try what comes in, and say what was found."""
    data = sys.stdin.buffer
    answers = []
    while head := data.read(LENGTH_BYTES):
        case, snapshots = _unpack(data.read(int.from_bytes(head, "little")))
        answers.append([_plain(finding) for finding in try_again(case, snapshots)])
    json.dump(answers, sys.stdout)


def _plain(finding: Finding) -> tuple[int, bool, int, int, int]:
    replayed = finding.replayed
    return (
        finding.threads,
        finding.onednn,
        replayed.segment,
        replayed.differing,
        replayed.worst,
    )


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def _pack(case: Case, snapshots: Sequence[Snapshot]) -> bytes:
    job, rows = case.job, case.rows
    buffer = io.BytesIO()
    np.savez(
        buffer,
        spec=np.frombuffer(pack(job.spec), np.uint8),
        training=np.frombuffer(pack(job.training), np.uint8),
        beacon=np.frombuffer(job.beacon, np.uint8),
        dataset=np.frombuffer(job.dataset.encode(), np.uint8),
        grid_bits=np.array(job.grid_bits),
        base=case.base,
        inputs=rows.inputs.numpy(),
        labels=rows.labels.numpy(),
        weights=np.stack([one.weights for one in snapshots]),
        state=np.stack([one.state for one in snapshots]),
    )
    return buffer.getvalue()


def _unpack(data: bytes) -> Try:
    found = np.load(io.BytesIO(data), allow_pickle=False)
    job = Job(
        unpack(ModelSpec, found["spec"].tobytes()),
        int(found["grid_bits"]),
        unpack(Training, found["training"].tobytes()),
        found["beacon"].tobytes(),
        found["dataset"].tobytes().decode(),
    )
    inputs, labels = torch.from_numpy(found["inputs"]), torch.from_numpy(found["labels"])
    rows = Rows(inputs, labels, tuple(bytes(32) for _ in labels))
    pairs = zip(found["weights"], found["state"], strict=True)
    snapshots = [Snapshot(weights, state, (), ()) for weights, state in pairs]
    return Case(job, found["base"], rows), snapshots


if __name__ == "__main__":
    main()
