"""A trainer opens what it has submitted, when site and dataset permit it, and nothing else."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl.opening import check_part, part_origin, unpack_opening, unpack_part
from fl.replay import rows_drawn
from fl.trace import origin
from fl.train import Job, segment_batches
from fl.weights import digest_ints
from node.peer import opening, watch
from node.peer.opening import Exhibit
from node.peer.traces import SNAPSHOT
from node.wire.openings import PART
from tests.fl.dialogue import TASK, TERMS
from tests.harness import organisation
from tests.node.hospital import Town
from tests.node.peer.hall import Hall, judged
from tests.node.peer.looks import code_of, run, submitted
from vm.digest import WEIGHTS
from vm.learning import Round, RoundPhase, SiteApproval, Task
from vm.record import Dataset, Model
from vm.refusal import Refused

HOME = organisation(1)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """All four hospitals have submitted; no test changes what is on their disks."""
    return judged(tmp_path_factory.mktemp("town")).town


@pytest.fixture
def hall(town: Town) -> Iterator[Hall]:
    """Before anybody asked; the chain is the same again afterwards."""
    before = dict(town.chain.stored)
    yield Hall(town)
    town.chain.stored = before


def shown(hall: Hall, *pieces: str) -> dict[str, bytes]:
    """What the first hospital opens of these pieces."""
    hall.wanted_pieces.extend(pieces)
    asyncio.run(hall.answer())
    return hall.opened


def test_the_part_is_the_registered_dataset_and_the_rows_trained_on(hall: Hall) -> None:
    """The dataset's root and the update's commitment follow from it."""
    data = shown(hall, PART)[PART]

    part = unpack_part(part_origin(TASK, f"{HOME}.trainer", "opt-1"), data)
    check_part(part, hall.town.chain.get(Dataset, "opt-1").root, hall.update().data)


@pytest.mark.parametrize("index", range(4))
def test_a_segment_is_what_was_submitted(hall: Hall, index: int) -> None:
    """Its two snapshots have the committed digests, its rows the registered leaves."""
    data = shown(hall, PART, str(index))[str(index)]

    part = unpack_part(part_origin(TASK, f"{HOME}.trainer", "opt-1"), hall.opened[PART])
    spec = hall.town.chain.get(Model, "risk", 0).spec
    job = Job(spec, 24, TERMS.training, hall.stage().round.beacon, "opt-1")
    drawn = rows_drawn(segment_batches(job, index, len(part.train)))
    where = origin(hall.update())
    found = unpack_opening(spec, TERMS.training, where, index, len(drawn), 2, data)
    trace = hall.town.traces(1).find(TASK, 1)
    assert trace is not None
    assert digest_ints(WEIGHTS, found.after_weights) == trace.segments()[index].weights
    assert len(found.weights) == (3 if index else 0)
    assert len(found.salts) == len(drawn)


@pytest.mark.parametrize("lost", [(1,), (1, 2, 3, 4), (4,)])
def test_snapshots_that_are_not_kept_are_made_again(
    hall: Hall, tmp_path: Path, lost: tuple[int, ...]
) -> None:
    """Bit by bit the same, from the one before or from the base."""
    pieces = [PART, "0", "1", "2", "3"]
    other = judged(tmp_path)
    for count in lost:
        next(tmp_path.glob(f"{HOME}/**/{SNAPSHOT}{count}")).unlink()

    assert shown(other, *pieces) == shown(hall, *pieces)


def test_a_segment_is_opened_again_after_a_crash(hall: Hall) -> None:
    """What the trainer needs is on its disk: the same bytes once more."""
    before = dict(shown(hall, PART, "2"))

    hall.opened.clear()

    assert shown(hall) == before


def test_a_trainer_asks_after_each_piece_what_comes_next(hall: Hall) -> None:
    """Who asks while a large piece is on its way does not wait for all that was asked before."""
    bring = hall.open

    async def asked_meanwhile(task: str, number: int, piece: str, content: bytes) -> None:
        await bring(task, number, piece, content)
        if piece == PART:
            hall.wanted_pieces.insert(0, "3")

    hall.open = asked_meanwhile  # type: ignore[method-assign]

    assert list(shown(hall, PART, "0", "1")) == [PART, "3", "0", "1"]


def refusing(refused: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece cannot be made."""
    pack = Exhibit.pack

    def packed(exhibit: Exhibit, piece: str) -> bytes:
        if piece == refused:
            raise Refused(code, "expected the committed snapshot, found another")
        return pack(exhibit, piece)

    monkeypatch.setattr(Exhibit, "pack", packed)


def test_a_piece_that_cannot_be_made_holds_up_no_other(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that can be shown is, then the site's own people are told of what cannot."""
    refusing("0", "training.regenerated", monkeypatch)
    hall.wanted_pieces.extend(["0", PART, "1"])

    assert code_of(hall.opener().work(TASK)) == "training.regenerated"
    assert list(hall.opened) == [PART, "1"]


def test_a_piece_that_a_validator_does_not_take_holds_up_no_other(hall: Hall) -> None:
    """Announced as another one before a restart, it is refused; verifiers still get the others."""
    bring = hall.open

    async def other(task: str, number: int, piece: str, content: bytes) -> None:
        if piece == PART:
            raise Refused("opening.offered", "expected the address announced before, found another")
        await bring(task, number, piece, content)

    hall.open = other  # type: ignore[method-assign]
    hall.wanted_pieces.extend([PART, "0", "1"])

    assert code_of(hall.opener().work(TASK)) == "opening.offered"
    assert list(hall.opened) == ["0", "1"]


def test_nothing_is_opened_without_the_sites_permission(hall: Hall) -> None:
    """The dataset's record permits it, the configuration no longer does."""
    hall.opening = False
    hall.wanted_pieces.append(PART)

    assert code_of(hall.opener().work(TASK)) == "peer.opening"
    assert hall.opened == {}


def test_nothing_is_opened_against_the_datasets_record(hall: Hall) -> None:
    """The site's own configuration alone does not decide either."""
    put(hall, replace(hall.town.chain.get(Dataset, "opt-1"), opening=False))
    hall.wanted_pieces.append(PART)

    assert code_of(hall.opener().work(TASK)) == "peer.opening"
    assert hall.opened == {}


def test_nothing_is_opened_of_a_task_that_was_not_approved(hall: Hall) -> None:
    """Terms that nobody at the site has seen open nothing."""
    task = hall.town.chain.get(Task, TASK)
    put(hall, replace(task, terms=replace(task.terms, purpose="something else")))
    hall.wanted_pieces.append(PART)

    assert code_of(hall.opener().work(TASK)) == "peer.not_approved"
    assert hall.opened == {}


@pytest.mark.parametrize("phase", [RoundPhase.AGGREGATE, RoundPhase.CLOSED, RoundPhase.FAILED])
def test_nothing_is_opened_once_the_round_is_judged(hall: Hall, phase: RoundPhase) -> None:
    """The trainer reads the phase from the chain: a validator's word does not open anything."""
    put(hall, replace(hall.town.chain.get(Round, TASK, 1), phase=phase))
    hall.wanted_pieces.append(PART)

    run(hall.opener().work(TASK))

    assert hall.opened == {}


def test_a_round_that_ends_while_the_trainer_answers(hall: Hall) -> None:
    """What is still wanted then stays closed."""
    bring = hall.open

    async def ended(task: str, number: int, piece: str, content: bytes) -> None:
        await bring(task, number, piece, content)
        put(hall, replace(hall.town.chain.get(Round, TASK, 1), phase=RoundPhase.AGGREGATE))
        hall.wanted_pieces.append("2")

    hall.open = ended  # type: ignore[method-assign]
    hall.wanted_pieces.append(PART)
    run(hall.opener().work(TASK))

    assert set(hall.opened) == {PART}


def test_no_further_piece_is_opened_once_the_site_has_withdrawn(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whomever of the hospital, while verifiers still ask: its rows stay from then on."""
    bring, pack, made = hall.open, Exhibit.pack, list[str]()

    def packed(exhibit: Exhibit, piece: str) -> bytes:
        made.append(piece)
        return pack(exhibit, piece)

    async def withdrawn(task: str, number: int, piece: str, content: bytes) -> None:
        await bring(task, number, piece, content)
        standing = hall.town.chain.get(SiteApproval, TASK, HOME)
        put(hall, replace(standing, stands=False))

    hall.open = withdrawn  # type: ignore[method-assign]
    monkeypatch.setattr(Exhibit, "pack", packed)
    hall.wanted_pieces.extend([PART, "2", "3"])

    assert code_of(hall.opener().work(TASK)) == "peer.withdrawn"
    assert set(hall.opened) == {PART}
    assert made == [PART, "2"]  # nor is any more made to be opened


def test_a_withdrawal_ends_the_bringing_of_a_piece(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece may have gigabytes; what has not left by then stays."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    standing, cut = hall.town.chain.get(SiteApproval, TASK, HOME), False

    async def endless(task: str, number: int, piece: str, content: bytes) -> None:
        nonlocal cut
        put(hall, replace(standing, stands=False))
        try:
            await asyncio.Event().wait()
        finally:
            cut = True

    hall.open = endless  # type: ignore[method-assign]
    hall.wanted_pieces.append(PART)

    assert code_of(asyncio.wait_for(hall.opener().work(TASK), 30)) == "peer.withdrawn"
    assert cut


def test_a_validator_at_another_block_is_asked_again(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain says that the round is being judged; the validator has not executed that yet."""
    monkeypatch.setattr(opening, "ASK_S", 0.0)
    hall.wanted_pieces.append(PART)
    wanted, late = hall.wanted, iter([True, True])

    async def behind(task: str, number: int) -> tuple[str, ...]:
        if next(late, False):
            raise Refused("opening.phase", "expected the round under judgement, found not")
        return await wanted(task, number)

    hall.wanted = behind  # type: ignore[method-assign]

    assert set(shown(hall)) == {PART}


def test_nothing_is_opened_of_an_update_of_another_class(tmp_path: Path) -> None:
    """A committed update is for auditors at the site."""
    hall = Hall(submitted(tmp_path), wanted_pieces=[PART])

    run(hall.opener().work(TASK))

    assert hall.opened == {}


@pytest.mark.parametrize("how", ["gone", "another"])
def test_a_trace_that_is_not_the_submitted_one(tmp_path: Path, how: str) -> None:
    """The trainer says so to its own people; verifiers abstain."""
    hall = judged(tmp_path)
    folder = next(tmp_path.glob(f"{HOME}/traces/{TASK}/1"))
    if how == "gone":
        (folder / "head").unlink()
    else:
        (folder / "segments").write_bytes(b"")
    hall.wanted_pieces.append(PART)

    assert code_of(hall.opener().work(TASK)) == "peer.trace_missing"
    assert hall.opened == {}


def test_a_hospital_that_is_no_site_has_nothing_to_open(hall: Hall) -> None:
    """Its trainer may attend to the task by mistake."""
    task = hall.town.chain.get(Task, TASK)
    put(hall, replace(task, terms=replace(task.terms, sites=task.terms.sites[1:])))
    hall.wanted_pieces.append(PART)

    run(hall.opener().work(TASK))

    assert hall.opened == {}


def put(hall: Hall, record: Any) -> None:
    """The chain says this from now on."""
    state = hall.town.chain.state
    state.put(record)
    hall.town.chain.stored |= state.writes


def test_rows_that_were_changed_since_are_opened_in_vain(tmp_path: Path) -> None:
    """Their leaves are not the registered ones, which whoever is shown them finds out."""
    hall = judged(tmp_path)
    path = hall.town.path(1)
    path.write_text(path.read_text().replace(",yes\n", ",no\n", 1))

    part = unpack_part(part_origin(TASK, f"{HOME}.trainer", "opt-1"), shown(hall, PART)[PART])

    with pytest.raises(Refused) as refused:
        check_part(part, hall.town.chain.get(Dataset, "opt-1").root, hall.update().data)
    assert refused.value.code == "opening.dataset"
