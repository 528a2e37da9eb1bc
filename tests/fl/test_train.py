"""Training gives the same integers everywhere, learns, and commits to what it did."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.fixed import from_grid, norm
from fl.model import build, load, losses
from fl.sampling import batches
from fl.train import Snapshot, snapshots, start, train
from fl.weights import digest_ints
from tests.fl.learning import SPECS, TRAINING, base_of, job_of, rows_of
from vm.digest import BATCHES, OPTIMIZER, WEIGHTS, digest
from vm.encoding import encode
from vm.refusal import Refused

ROOT = Path(__file__).resolve().parents[2]
NAMES = list(SPECS)
PRINT_TRACES = (
    "import torch; from tests.fl.test_train import NAMES, trace_of; "
    "torch.set_num_threads(2); print(*(line for name in NAMES for line in trace_of(name)))"
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One thread unless a test says more; afterwards torch's number is as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trace_of(name: str) -> list[str]:
    """Digests of weights and momentum at every snapshot of one round."""
    spec = SPECS[name]
    result = train(job_of(spec), base_of(spec), rows_of(spec))
    return [segment.weights.hex() + segment.optimizer.hex() for segment in result.segments]


@pytest.mark.parametrize("name", NAMES)
def test_replay_is_bit_exact_over_threads_and_onednn(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 and 2 threads, and oneDNN on and off, give the same integers at every snapshot."""
    torch.set_num_threads(1)
    one = trace_of(name)

    torch.set_num_threads(2)
    two = trace_of(name)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    plain = trace_of(name)

    assert len(set(one)) == 4
    assert one == two == plain


def test_replay_is_bit_exact_over_instruction_sets() -> None:
    """A machine without vector instructions replays what this one trained."""
    reduced = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}

    found = subprocess.run(
        [sys.executable, "-c", PRINT_TRACES],
        cwd=ROOT,
        env=os.environ | reduced,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert found == [line for name in NAMES for line in trace_of(name)]


@pytest.mark.parametrize("name", NAMES)
def test_training_resumes_from_every_snapshot(name: str) -> None:
    """Whoever goes on from a snapshot ends in the same trace: nothing else carries over."""
    spec = SPECS[name]
    job, rows = job_of(spec), rows_of(spec)
    states = list(snapshots(job, start(base_of(spec)), rows))

    for state in states[:-1]:
        stored = Snapshot(state.weights.copy(), state.velocity.copy(), state.segments, state.losses)
        resumed = list(snapshots(job, stored, rows))[-1]

        assert resumed.segments == states[-1].segments
        assert resumed.losses == states[-1].losses


def test_the_trace_commits_to_what_was_trained() -> None:
    """Digests are of the integers at each snapshot, and of the leaves of the rows in each step."""
    spec = SPECS["logistic"]
    job, rows, base = job_of(spec), rows_of(spec), base_of(spec)

    states = list(snapshots(job, start(base), rows))

    for index, state in enumerate(states):
        order = batches(job.beacon, job.dataset, 60, 16, 3 * index, 3 * index + 3)
        steps = tuple(b"".join(rows.leaves[number] for number in batch) for batch in order)
        before = base if index == 0 else states[index - 1].weights
        segment = states[-1].segments[index]
        assert segment.weights == digest_ints(WEIGHTS, state.weights)
        assert segment.optimizer == digest_ints(OPTIMIZER, state.velocity)
        assert segment.batches == digest(BATCHES, encode(steps))
        assert segment.move == norm(state.weights - before)


def test_the_update_is_last_minus_base() -> None:
    """Base plus update is the last snapshot, and the norm is the update's."""
    spec = SPECS["mlp"]
    base = base_of(spec)

    result = train(job_of(spec), base, rows_of(spec))

    assert digest_ints(WEIGHTS, base + result.delta) == result.segments[-1].weights
    assert result.norm == norm(result.delta)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_torch_s_own_sgd(name: str) -> None:
    """Up to rounding, torch.optim.SGD on the same batches ends in the same weights."""
    spec = SPECS[name]
    job, rows, base = job_of(spec), rows_of(spec), base_of(spec)
    module = build(spec)
    load(module, base, 24)
    sgd = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.5, weight_decay=0.001)
    for batch in batches(job.beacon, job.dataset, 60, 16, 0, TRAINING.steps):
        taken = rows.take(batch)
        sgd.zero_grad()
        torch.autograd.backward(losses(spec.output, module(taken.inputs), taken.labels).mean())
        sgd.step()
    expected = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()

    found = from_grid(base + train(job, base, rows).delta, 24)

    np.testing.assert_allclose(found, expected, atol=20 * 2.0**-24)


def test_rounding_costs_no_loss() -> None:
    """Forty steps with a snapshot after each end within 1e-5 nat of forty steps with one."""
    spec = SPECS["mlp"]
    rows = rows_of(spec, 200)

    often, once = (
        train(replace(job_of(spec), training=training), base_of(spec), rows).losses[-1]
        for training in (
            replace(TRAINING, steps=40, snapshot_steps=1),
            replace(TRAINING, steps=40, snapshot_steps=40),
        )
    )

    assert often == pytest.approx(once, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_learns(name: str) -> None:
    """The loss over all rows falls."""
    spec = SPECS[name]
    rows, base = rows_of(spec), base_of(spec)
    training = replace(TRAINING, steps=120)

    result = train(replace(job_of(spec), training=training), base, rows)

    assert np.mean(result.losses[-10:]) < 0.9 * np.mean(result.losses[:10])


def test_progress_is_told_step_by_step() -> None:
    """A peer can draw a bar: step, steps, and the loss of the step's batch."""
    spec = SPECS["logistic"]
    told: list[tuple[int, int, float]] = []

    result = train(
        job_of(spec), base_of(spec), rows_of(spec), lambda *progress: told.append(progress)
    )

    assert told == [(step, 12, loss) for step, loss in enumerate(result.losses, start=1)]


def test_a_small_hospital_trains_on_all_its_rows() -> None:
    """Fewer rows than a batch make one batch."""
    spec = SPECS["logistic"]

    result = train(job_of(spec), base_of(spec), rows_of(spec, 5))

    assert result.norm > 0


def test_without_rows_there_is_no_training() -> None:
    """An empty training part is told, not divided by."""
    spec = SPECS["logistic"]

    with pytest.raises(Refused, match=r"training\.no_rows"):
        train(job_of(spec), base_of(spec), rows_of(spec, 5).take([]))


def test_weights_that_leave_the_grid_are_refused() -> None:
    """A rate at which training diverges ends in a stated refusal, not in wrapped integers."""
    spec = SPECS["logistic"]
    training = replace(TRAINING, rate=10**12)

    with pytest.raises(Refused, match=r"update\.range"):
        train(replace(job_of(spec), training=training), base_of(spec), rows_of(spec))
