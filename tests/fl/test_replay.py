"""Replay passes honest training and names the segment of every attack that it is asked about."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fl.fixed import Int32s
from fl.model import build
from fl.opening import Opening, check_part, open_rows
from fl.preprocess import Table
from fl.replay import (
    MOVE_FACTOR,
    Replayed,
    check_batches,
    open_segment,
    replay,
    rows_drawn,
    suspicious,
)
from fl.trace import Broken
from fl.train import Snapshot, advance, batches_digest, run_segment, segment_batches
from fl.weights import digest_ints
from tests.fl.learning import RECIPES, TRAINING
from tests.fl.proving import EXACT, SECRET, Hospital, forged, hospital, table_of
from vm.digest import WEIGHTS
from vm.refusal import Refused
from vm.terms import MICRO, Replay, Training
from vm.tree import root

SITE = hospital()
HONEST = SITE.trained()
SEGMENTS = range(4)


def caught(trained: list[Snapshot], index: int, site: Hospital = SITE) -> str:
    """The code with which replay of this segment fails."""
    with pytest.raises(Broken) as failed:
        replay(site.claim(trained), site.opening(trained, index))
    assert failed.value.segment == index
    return failed.value.code


def drawn(index: int) -> tuple[int, ...]:
    """Places in the training part of the rows that a segment sees."""
    return rows_drawn(segment_batches(SITE.job, index, len(SITE.train)))


def step_off(values: Int32s, *places: int, by: int = 1) -> Int32s:
    """The values with some of them moved by so many grid steps."""
    found = values.copy()
    found[list(places)] += by
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_honest_segments_pass(recipe: str) -> None:
    """Each segment, as the trainer opens it from its snapshots, replays without a difference."""
    site = hospital(RECIPES[recipe])
    trained = site.trained()

    for index in SEGMENTS:
        ends = trained[index], trained[index + 1]
        opened = open_segment(site.job, *ends, site.table, SECRET, site.train)
        assert replay(site.claim(trained), opened) == Replayed(index, 0, 0)


def test_fedprox_is_replayed_with_the_rounds_base() -> None:
    """The pull of a later segment is to the base, not to the snapshot before it."""
    site = hospital(replace(TRAINING, proximal=MICRO))
    trained = site.trained()

    assert replay(site.claim(trained), site.opening(trained, 2)) == Replayed(2, 0, 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(TRAINING, rate=2 * TRAINING.rate),
        replace(TRAINING, momentum=0),
        replace(TRAINING, decay=0),
        replace(TRAINING, proximal=MICRO),
    ],
)
def test_other_hyper_parameters_are_caught(other: Training) -> None:
    """The attack: train by a recipe of one's own. Whichever segment is asked for shows it."""
    trained = SITE.trained(job=replace(SITE.job, training=other))

    assert {caught(trained, index) for index in SEGMENTS} == {"replay.result"}


def test_skipped_steps_are_caught() -> None:
    """The attack: one step of three, and a commitment to the batches of all."""
    shown = []
    for snapshot, index in zip(HONEST, SEGMENTS, strict=False):
        order = segment_batches(SITE.job, index, len(SITE.train))
        weights, state, _ = advance(
            SITE.job,
            build(SITE.job.spec),
            SITE.base,
            index,
            snapshot.weights,
            snapshot.state,
            SITE.rows(),
            order[:1],
        )
        shown.append((weights, state))
    trained = forged(HONEST, {index + 1: shown[index] for index in SEGMENTS})

    assert {caught(trained, index) for index in SEGMENTS} == {"replay.result"}


def test_other_data_are_caught() -> None:
    """The attack: train on flipped labels, and open the registered rows."""
    flipped = Table(SITE.table.rows, tuple((label + 1) % 3 for label in SITE.table.labels))
    trained = SITE.trained(rows=SITE.rows(flipped))

    assert {caught(trained, index) for index in SEGMENTS} == {"replay.result"}


def test_opened_rows_of_another_table_are_caught() -> None:
    """The attack: train on other rows and open those: their leaves are not the dataset's."""
    other = table_of(seed=5)
    trained = SITE.trained(rows=SITE.rows(other))
    numbers = [SITE.train[place] for place in drawn(1)]
    salts, cells = open_rows(other, SECRET, numbers)
    opened = replace(SITE.opening(trained, 1), salts=salts, cells=cells)

    with pytest.raises(Refused, match=r"opening\.rows"):
        replay(SITE.claim(trained), opened)


def test_rows_outside_the_dataset_root_are_caught() -> None:
    """The attack: leaves of a table that was never registered, or a part that was not committed."""
    registered, committed = root(SITE.part.leaves), SITE.part.data
    other = replace(SITE, table=table_of(seed=5)).part
    fewer = replace(SITE.part, train=SITE.train[1:])

    check_part(SITE.part, registered, committed)
    with pytest.raises(Refused, match=r"opening\.dataset"):
        check_part(other, registered, other.data)
    with pytest.raises(Refused, match=r"opening\.data:"):
        check_part(fewer, registered, committed)


def test_a_reused_segment_is_caught() -> None:
    """The attack: train one segment, and claim its change again in those that follow."""
    change = HONEST[1].weights - SITE.base
    reused = {
        place: ((SITE.base + place * change).astype(np.int32), HONEST[1].state)
        for place in range(1, 5)
    }
    trained = forged(HONEST, reused)

    assert replay(SITE.claim(trained), SITE.opening(trained, 0)) == Replayed(0, 0, 0)
    assert {caught(trained, index) for index in SEGMENTS[1:]} == {"replay.result"}


def test_the_opening_of_another_segment_is_caught() -> None:
    """The attack: open an honest segment in place of the one that is asked for."""
    opened = replace(SITE.opening(HONEST, 1), segment=2)

    with pytest.raises(Refused, match=r"opening\.before"):
        replay(SITE.claim(HONEST), opened)


def test_an_interpolated_trace_is_caught() -> None:
    """The attack: a straight line from the base to a stolen model, without training."""
    stolen = SITE.base + np.random.default_rng(3).integers(-(2**20), 2**20, len(SITE.base))
    line = {
        place: ((SITE.base + place * (stolen - SITE.base) // 4).astype(np.int32), HONEST[1].state)
        for place in range(1, 5)
    }
    trained = forged(HONEST, line)

    assert {caught(trained, index) for index in SEGMENTS} == {"replay.result"}


def test_a_fabricated_snapshot_is_caught() -> None:
    """The attack: an honest last segment from weights near a stolen model, nothing before it.

    The last segment passes; the one that should lead to the fabricated snapshot does not.
    """
    stolen = np.random.default_rng(3).integers(-(2**22), 2**22, len(SITE.base)).astype(np.int32)
    start = replace(HONEST[3], weights=stolen, state=np.zeros_like(HONEST[3].state))
    end = run_segment(SITE.job, build(SITE.job.spec), SITE.base, 3, start, SITE.rows())
    trained = forged(HONEST, {3: (start.weights, start.state), 4: (end.weights, end.state)})

    assert replay(SITE.claim(trained), SITE.opening(trained, 3)) == Replayed(3, 0, 0)
    assert caught(trained, 2) == "replay.result"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda one: replace(one, weights=step_off(one.weights, 0)), "opening.before"),
        (lambda one: replace(one, state=step_off(one.state, 0)), "opening.before"),
        (lambda one: replace(one, after_weights=step_off(one.after_weights, 0)), "opening.after"),
        (lambda one: replace(one, after_state=step_off(one.after_state, 0)), "opening.after"),
    ],
)
def test_an_opened_snapshot_is_the_committed_one(
    change: Callable[[Opening], Opening], code: str
) -> None:
    """The attack: fit the opened snapshot to what replay will find."""
    opened = change(SITE.opening(HONEST, 2))

    with pytest.raises(Refused) as failed:
        replay(SITE.claim(HONEST), opened)

    assert failed.value.code == code
    assert not isinstance(failed.value, Broken), "who served it may have changed it"


def test_the_first_segment_starts_from_the_chains_base() -> None:
    """The attack: open segment 0 with a base of one's own; it is not looked at."""
    other = HONEST[1].weights
    opened = replace(SITE.opening(HONEST, 0), weights=other, state=HONEST[1].state)

    assert replay(SITE.claim(HONEST), opened) == Replayed(0, 0, 0)


def test_a_tampered_optimizer_state_is_caught() -> None:
    """The attack: commit to ten times the momentum, which drives the next segment.

    The segment that ends in it fails, and the next one is honest from there.
    """
    pushed = replace(HONEST[2], state=HONEST[2].state * 10)
    later = run_segment(SITE.job, build(SITE.job.spec), SITE.base, 2, pushed, SITE.rows())
    trained = forged(HONEST, {2: (pushed.weights, pushed.state), 3: (later.weights, later.state)})

    assert caught(trained, 1) == "replay.result"
    assert replay(SITE.claim(trained), SITE.opening(trained, 2)) == Replayed(2, 0, 0)


def test_batches_of_ones_own_choice_are_caught() -> None:
    """The attack: an order that the beacon did not draw, committed to as it was trained."""
    other = replace(SITE.job, beacon=bytes(32))
    trained = SITE.trained(job=other)

    assert {caught(trained, index) for index in SEGMENTS} == {"replay.batches"}


def test_batches_of_ones_own_choice_show_in_the_part() -> None:
    """In all segments at once, before any row is opened; an honest trace's are the beacon's."""
    trained = SITE.trained(replace(SITE.job, beacon=bytes(32)))
    mixed = (*HONEST[-1].segments[:2], *trained[-1].segments[2:])

    check_batches(SITE.claim(HONEST))
    with pytest.raises(Broken) as broken:
        check_batches(replace(SITE.claim(HONEST), segments=mixed))

    assert (broken.value.code, broken.value.segment) == ("replay.batches", 2)


def test_a_commitment_to_the_beacons_batches_does_not_hide_others() -> None:
    """The attack: train in another order, and commit to the one that the beacon draws."""
    trained = SITE.trained(job=replace(SITE.job, beacon=bytes(32)))
    rows = SITE.rows()
    segments = tuple(
        replace(
            segment,
            batches=batches_digest(segment_batches(SITE.job, index, len(rows)), rows.leaves),
        )
        for index, segment in enumerate(trained[-1].segments)
    )
    trained[-1] = replace(trained[-1], segments=segments)

    assert {caught(trained, index) for index in SEGMENTS} == {"replay.result"}


@pytest.mark.parametrize("off", [-1, 1])
def test_a_move_that_lies_is_caught(off: int) -> None:
    """The attack: an honest segment that is said to move by another distance."""
    segments = list(HONEST[-1].segments)
    segments[1] = replace(segments[1], move=segments[1].move + off)
    trained = [*HONEST[:-1], replace(HONEST[-1], segments=tuple(segments))]

    assert caught(trained, 1) == "replay.move"


def cut(opened: Opening) -> Opening:
    """Without the last row."""
    return replace(opened, salts=opened.salts[:-1], cells=opened.cells[:-1])


def swap(opened: Opening) -> Opening:
    """The rows from the last to the first."""
    return replace(opened, salts=opened.salts[::-1], cells=opened.cells[::-1])


@pytest.mark.parametrize("change", [cut, swap])
def test_opened_rows_are_those_that_are_drawn(change: Callable[[Opening], Opening]) -> None:
    """One row fewer, or the rows in another order, is another opening."""
    with pytest.raises(Refused, match=r"opening\.rows"):
        replay(SITE.claim(HONEST), change(SITE.opening(HONEST, 1)))


@pytest.mark.parametrize(("column", "value"), [(0, 9 * MICRO + 1), (7, -9 * MICRO - 1), (8, 3)])
def test_cells_beyond_the_columns_bounds_are_caught(column: int, value: int) -> None:
    """The attack: register a row that no preprocessing makes, such as a huge number or a class 3.

    It is caught before a label without a logit reaches torch.
    """
    rows = [
        [*inputs, label] for inputs, label in zip(SITE.table.rows, SITE.table.labels, strict=True)
    ]
    rows[SITE.train[drawn(0)[0]]][column] = value
    table = Table(tuple(tuple(row[:-1]) for row in rows), tuple(row[-1] for row in rows))
    site = replace(SITE, table=table)

    with pytest.raises(Broken, match=r"replay\.cells"):
        replay(site.claim(HONEST), site.opening(HONEST, 0))


@pytest.mark.parametrize(
    ("places", "by", "allowed", "passes"),
    [
        ((0,), 1, Replay(1, 1, 0), True),
        ((0,), -1, Replay(1, 1, 0), True),
        ((0, 5), 1, Replay(1, 1, 0), False),
        ((0,), 2, Replay(1, 1, 0), False),
        ((0,), 1, EXACT, False),
        ((0, 5, 9), 3, Replay(1, 0, 3), True),
        ((0,), 4, Replay(1, 0, 3), False),
    ],
)
def test_the_allowance_is_bounded_in_number_and_size(
    places: tuple[int, ...], by: int, allowed: Replay, *, passes: bool
) -> None:
    """Some coordinates by one step, or in tolerance mode all by a few; not one more."""
    off = step_off(HONEST[4].weights, *places, by=by)
    trained = forged(HONEST, {4: (off, HONEST[4].state)})
    claim, opened = SITE.claim(trained, allowed), SITE.opening(trained, 3)

    if passes:
        assert replay(claim, opened) == Replayed(3, len(places), abs(by))
    else:
        with pytest.raises(Broken, match=r"replay\.result"):
            replay(claim, opened)


def test_the_state_counts_into_the_allowance() -> None:
    """One coordinate of the weights and one of the state are two."""
    trained = forged(HONEST, {4: (step_off(HONEST[4].weights, 0), step_off(HONEST[4].state, 0))})
    opened = SITE.opening(trained, 3)

    assert replay(SITE.claim(trained, Replay(1, 2, 0)), opened) == Replayed(3, 2, 1)
    with pytest.raises(Broken, match=r"replay\.result"):
        replay(SITE.claim(trained, Replay(1, 1, 0)), opened)


def test_training_that_leaves_the_grid_is_caught() -> None:
    """Committed weights from which the steps diverge: replay fails, it does not crash."""
    claim = SITE.claim(HONEST)
    wild = replace(claim, job=replace(claim.job, training=replace(TRAINING, rate=10**12)))

    with pytest.raises(Broken, match=r"replay\.result"):
        replay(wild, SITE.opening(HONEST, 1))


def test_snapshots_further_apart_than_any_update_are_caught() -> None:
    """Attack: a move that no number says would be a piece not opened, and blame nobody."""
    low, high = (np.full_like(HONEST[1].weights, end) for end in (-(2**31), 2**31 - 1))
    claim = SITE.claim(HONEST)
    segments = list(claim.segments)
    segments[1] = replace(segments[1], weights=digest_ints(WEIGHTS, low))
    segments[2] = replace(segments[2], weights=digest_ints(WEIGHTS, high))
    opened = replace(SITE.opening(HONEST, 2), weights=low, after_weights=high)

    with pytest.raises(Broken, match=r"replay\.move") as failed:
        replay(replace(claim, segments=tuple(segments)), opened)
    assert failed.value.segment == 2


USUAL = [(100, 80), (110, 90), (120, 70)]


def test_an_ordinary_update_is_not_suspicious() -> None:
    """Moves and a score like the others', and no difference in replay."""
    assert suspicious([Replayed(0, 0, 0)], (105, 85), USUAL, 6_000, [6_000, 6_300], 500) is None


def test_nothing_to_compare_with_is_not_suspicious() -> None:
    """The only update of a round has no others."""
    assert suspicious([], (105, 85), [], 6_000, [], 500) is None


def test_a_trace_is_compared_with_traces_of_as_many_segments() -> None:
    """Attack: a scored update, whose one segment is the whole training, among replayed ones.

    A verifier that compared the two would crash, and judge no update of the round.
    """
    others = [*USUAL, (900,)]

    assert suspicious([], (105, 85), others, 6_000, [], 500) is None
    assert suspicious([], (900,), others, 6_000, [], 500) is None


@pytest.mark.parametrize(
    ("replayed", "moves", "score_bp"),
    [
        ([Replayed(0, 1, 1)], (105, 85), 6_000),
        ([], (105, 80 // MOVE_FACTOR - 1), 6_000),
        ([], (110 * MOVE_FACTOR + 1, 85), 6_000),
        ([], (105, 85), 6_501),
    ],
)
def test_what_is_odd_leads_to_full_replay(
    replayed: list[Replayed], moves: tuple[int, int], score_bp: int
) -> None:
    """A step off by one, a segment that hardly moves or jumps, or a score beyond the margin."""
    assert suspicious(replayed, moves, USUAL, score_bp, [6_000, 6_300], 500) is not None
