"""Training gives the same integers everywhere, learns, and commits to what it did."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fl.fixed import from_grid, norm
from fl.model import build, load, losses
from fl.optimizer import State, load_state, store_state
from fl.sampling import batches
from fl.train import Snapshot, first, regenerate, snapshots, train
from fl.weights import digest_ints
from tests.fl.learning import ADAM, RECIPES, SPECS, TRAINING, base_of, job_of, rows_of
from vm.digest import BATCHES, OPTIMIZER, WEIGHTS, digest
from vm.encoding import encode
from vm.refusal import Refused
from vm.terms import MICRO

CASES = [(name, recipe) for name in SPECS for recipe in RECIPES]
each = pytest.mark.parametrize(("name", "recipe"), CASES)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One thread unless a test says more; afterwards torch's number is as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@each
def test_training_resumes_from_every_snapshot(name: str, recipe: str) -> None:
    """Whoever goes on from a snapshot ends in the same update: nothing else carries over."""
    spec = SPECS[name]
    job, rows, base = job_of(spec, RECIPES[recipe]), rows_of(spec), base_of(spec)
    kept: list[Snapshot] = []

    whole = train(job, base, rows, keep=lambda _, snapshot: kept.append(snapshot))

    assert [len(snapshot.segments) for snapshot in kept] == [1, 2, 3, 4]
    for snapshot in kept:
        stored = replace(snapshot, weights=snapshot.weights.copy(), state=snapshot.state.copy())
        resumed = train(job, base, rows, start=stored)
        assert resumed.delta.tolist() == whole.delta.tolist()
        assert resumed.segments == whole.segments
        assert resumed.losses == whole.losses


@each
def test_a_snapshot_that_was_not_kept_is_made_again(name: str, recipe: str) -> None:
    """Of every second snapshot the ones between follow, bit by bit."""
    spec = SPECS[name]
    job, rows, base = job_of(spec, RECIPES[recipe]), rows_of(spec), base_of(spec)
    whole = [first(job, base), *snapshots(job, base, first(job, base), rows)]

    for kept, missing in ((0, 1), (2, 3), (2, 2)):
        found = regenerate(job, base, whole[kept], rows, whole[-1].segments, missing)
        assert found.weights.tolist() == whole[missing].weights.tolist()
        assert found.state.tolist() == whole[missing].state.tolist()
        assert found.segments == whole[missing].segments


def test_what_comes_out_otherwise_is_not_opened() -> None:
    """On changed rows the snapshot is another than the trace commits to: that is said."""
    spec = SPECS["mlp"]
    job, base = job_of(spec), base_of(spec)
    kept = list(snapshots(job, base, first(job, base), rows_of(spec)))

    with pytest.raises(Refused, match=r"training\.regenerated"):
        regenerate(job, base, kept[0], rows_of(spec, seed=1), kept[-1].segments, 3)


def test_the_trace_commits_to_what_was_trained() -> None:
    """Digests are of the integers at each snapshot, and of the leaves of the rows in each step."""
    spec = SPECS["logistic"]
    job, rows, base = job_of(spec), rows_of(spec), base_of(spec)

    states = list(snapshots(job, base, first(job, base), rows))

    for index, state in enumerate(states):
        order = batches(job.beacon, job.dataset, 60, 16, 3 * index, 3 * index + 3)
        steps = tuple(b"".join(rows.leaves[number] for number in batch) for batch in order)
        before = base if index == 0 else states[index - 1].weights
        segment = states[-1].segments[index]
        assert segment.weights == digest_ints(WEIGHTS, state.weights)
        assert segment.optimizer == digest_ints(OPTIMIZER, state.state)
        assert segment.batches == digest(BATCHES, encode(steps))
        assert segment.move == norm(state.weights.astype(np.int64) - before)


def test_the_update_is_last_minus_base() -> None:
    """Base plus update is the last snapshot, and the norm is the update's."""
    spec = SPECS["mlp"]
    base = base_of(spec)

    result = train(job_of(spec), base, rows_of(spec))

    assert digest_ints(WEIGHTS, base + result.delta) == result.segments[-1].weights
    assert result.norm == norm(result.delta)


@each
def test_steps_are_torch_s_own(name: str, recipe: str) -> None:
    """Up to rounding at the end, torch.optim on the same batches ends in the same weights."""
    spec = SPECS[name]
    training = replace(RECIPES[recipe], snapshot_steps=TRAINING.steps)
    job, rows, base = job_of(spec, training), rows_of(spec), base_of(spec)
    module = build(spec)
    load(module, base, 24)
    optimizers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.5, weight_decay=0.001),
        "adam": partial(torch.optim.Adam, lr=0.005, eps=1e-6, weight_decay=0.001),
    }
    optimizer = optimizers[recipe](module.parameters())
    for batch in batches(job.beacon, job.dataset, 60, 16, 0, TRAINING.steps):
        taken = rows.take(batch)
        optimizer.zero_grad()
        torch.autograd.backward(losses(spec.output, module(taken.inputs), taken.labels).mean())
        optimizer.step()
    expected = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()

    found = from_grid(base + train(job, base, rows).delta, 24)

    np.testing.assert_allclose(found, expected, atol=2.0**-24)


def test_fedprox_pulls_to_the_base() -> None:
    """One step adds mu (w - base) to the gradient, which is 0 at first: two steps tell."""
    spec = SPECS["logistic"]
    rows, base = rows_of(spec), base_of(spec)
    plain = replace(TRAINING, momentum=0, decay=0, steps=2, snapshot_steps=1)
    pulled = replace(plain, proximal=2 * MICRO)
    jobs = [job_of(spec, training) for training in (plain, pulled)]

    (one, two), (same, near) = (list(snapshots(job, base, first(job, base), rows)) for job in jobs)

    assert same.weights.tolist() == one.weights.tolist()
    expected = two.weights - 0.05 * 2 * (one.weights - base)
    np.testing.assert_allclose(near.weights, expected, atol=1)


def test_a_strong_pull_keeps_the_update_small() -> None:
    """FedProx ends nearer to the base than training without it."""
    spec = SPECS["mlp"]
    rows, base = rows_of(spec), base_of(spec)

    free, held = (
        train(job_of(spec, replace(TRAINING, steps=60, proximal=pull)), base, rows).norm
        for pull in (0, 5 * MICRO)
    )

    assert held < free / 2


def test_adam_keeps_the_root_of_its_second_moment() -> None:
    """A moment of 2^-40 is 0 on the grid; its root, 2^-20, is 16 steps of it."""
    like = [torch.zeros(1, dtype=torch.float64)]
    state = State([torch.zeros(1, dtype=torch.float64)], [torch.full((1,), 2.0**-40).double()])

    flat = store_state(state, 24)

    assert flat.tolist() == [0, 16]
    assert load_state(ADAM, flat, like, 24).second[0].tolist() == [2.0**-40]


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
