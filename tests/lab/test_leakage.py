"""The attacks on privacy find what is there to be found, and nothing where there is nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fl.model import build
from fl.settle import SCORE_STEP_BP
from fl.train import segment_batches
from fl.verify import BP
from tests.lab.data import Source, source
from tests.lab.inversion import Piece, alike, bounds, changed, exact_row, invert
from tests.lab.leakage import Attack, lines, markdown
from tests.lab.membership import found_at, gradients, matched, membership
from tests.lab.oracle import Asked, likelihoods, oracle
from tests.lab.watched import Finding, Watched, minimal, row_losses, watch


@pytest.fixture
def random() -> np.random.Generator:
    """Chance, the same for each test."""
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def data() -> Source:
    """The four clinics."""
    return source("opt")


def watched(data: Source, rows: int, steps: int) -> Watched:
    """One round of so many steps on so many rows each."""
    return watch(data, 0, 1, minimal(data, rows, steps, steps))


def piece_of(seen: Watched) -> Piece:
    """The first site's round as who reads its update sees it."""
    job, rows = seen.jobs[0][0], len(seen.sites[0].train)
    order = segment_batches(job, 0, rows)
    still = np.zeros(len(seen.bases[0]), np.int32)
    return Piece(seen.bases[0], still, seen.bases[0] + seen.deltas[0][0], order)


def test_a_row_among_few_is_found_by_its_gradient(random: np.random.Generator) -> None:
    """The attack: an update that is the sum of some rows' gradients, among rows like them."""
    rows = random.normal(size=(60, 300))
    trained = np.arange(60) < 20
    asked = np.arange(60) < 40
    update = rows[trained].sum(axis=0)

    scores = matched(rows @ rows.T, rows @ update, asked, ~asked)

    assert found_at(scores, trained[asked]) == 1


def test_the_share_found_is_counted_beyond_false_alarms(random: np.random.Generator) -> None:
    """With one false alarm in a hundred allowed, scores by chance find about as many."""
    scores = random.normal(size=20_000)

    assert found_at(scores, np.arange(20_000) < 10_000) == pytest.approx(0.01, abs=0.004)


def test_gradients_are_those_of_the_losses(data: Source) -> None:
    """A small step along one changes the row's loss by the square of its length."""
    seen = watched(data, 8, 1)
    base, rows = seen.bases[1], seen.sites[0].test.take([0])
    found = gradients(data, base, rows)[0]
    step = np.rint(found * 2**data.grid_bits / 1_000).astype(np.int64)

    rise = row_losses(data, base + step, rows) - row_losses(data, base, rows)

    assert rise[0] == pytest.approx(found @ found / 1_000, rel=0.05)


def test_a_step_on_one_row_tells_the_row(data: Source) -> None:
    """The leak for which tasks need batches: the gradient is residual times row."""
    seen = watched(data, 1, 1)
    piece = piece_of(seen)

    found = exact_row(seen.jobs[0][0], piece)

    true = seen.sites[0].train.inputs[piece.order[0][0]]
    assert torch.allclose(found, true, atol=1e-3)


def test_an_attacker_trains_as_the_trainer_does(data: Source) -> None:
    """On the true rows its steps end where the update does, to a few units of the grid."""
    seen = watched(data, 8, 4)
    job, piece, rows = seen.jobs[0][0], piece_of(seen), seen.sites[0].train
    like = list(build(job.spec).parameters())

    found = changed(job, piece, like, rows.inputs, rows.labels).detach().numpy()

    assert np.abs(found * 2**data.grid_bits - seen.deltas[0][0]).max() < 4


def test_a_row_is_searched_until_it_leads_where_it_led(data: Source) -> None:
    """The attack at its easiest: the same row twice, sought from a bad guess, within bounds."""
    seen = watched(data, 1, 2)
    job, piece, low_high = seen.jobs[0][0], piece_of(seen), bounds(data)
    rows = seen.sites[0].train.take([piece.order[0][0]])
    seen_twice = replace(piece, order=[(0,), (0,)])
    like = list(build(job.spec).parameters())
    led = changed(job, seen_twice, like, rows.inputs, rows.labels).detach().numpy()
    after = piece.before + np.rint(led * 2**data.grid_bits).astype(np.int64)
    start = torch.zeros_like(rows.inputs)

    found = invert(job, [replace(seen_twice, after=after)], rows.labels, start, low_high)

    in_place, likest = alike(found.numpy(), rows.inputs.numpy())
    assert in_place[0] == likest[0] > 0.95
    assert ((low_high[0] <= found) & (found <= low_high[1])).all()


def answers(random: np.random.Generator, present: bool, grain: float) -> Asked:
    """A verifier with 20 rows, asked 16 times about one that stands out, if it is there."""
    expected = random.normal(size=(500, 16)) * 0.1
    own = np.stack([np.full(16, -0.5), np.full(16, 3.0)])
    held = [*expected[:19], own[1] if present else expected[19]]
    mean = np.mean(held, axis=0)
    rounded = np.rint(mean / grain) * grain
    return Asked(present, 1, 20, expected, own, rounded.tolist(), mean.tolist())


def test_scores_tell_of_a_row_that_stands_out(random: np.random.Generator) -> None:
    """The attack: rounding to hundredths of a nat hides a twentieth of three nat from nobody."""
    grain = SCORE_STEP_BP / BP
    there, away = answers(random, True, grain), answers(random, False, grain)

    assert likelihoods(there, 16, grain)[1] > 0 > likelihoods(away, 16, grain)[1]
    assert likelihoods(there, 16, 0.0)[1] > likelihoods(there, 16, 0.0)[0]


def test_a_score_that_did_not_come_tells_nothing(random: np.random.Generator) -> None:
    """A fail carries no score."""
    silent = replace(answers(random, True, 0.01), rounded=[None] * 16)

    assert likelihoods(silent, 16, 0.01) == (0, 0)


@pytest.mark.parametrize("attack", [membership, oracle])
def test_every_attack_asks_the_clinics(
    data: Source, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smoke of studies on real patients, with too few rounds and queries to find much."""
    monkeypatch.setattr("tests.lab.oracle.QUERIES", (1, 3))
    monkeypatch.setattr("tests.lab.oracle.TARGETS", 1)

    found = list(attack(replace(data, rounds=2), 0))

    assert all(-1 <= one.value <= 1 and -1 <= one.chance <= 1 for one in found)
    assert len({(one.view, one.measure) for one in found}) == len(found) > 0


def test_the_table_holds_every_measure() -> None:
    """Means over seeds, with their errors, beside chance."""
    found = [Finding("a", "opt", "update", "AUC", value, 0.5) for value in (0.6, 0.8)]

    made = lines([*found, Finding("a", "opt", "update", "found", 0.1, 0.01)])

    assert [(one.measure, one.seeds, one.error is None) for one in made] == [
        ("AUC", 2, False),
        ("found", 1, True),
    ]
    assert "| 0.700 ± 0.100 | 0.500 |" in markdown(made)
