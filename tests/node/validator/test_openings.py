"""Who may ask for openings, bring them and read them."""

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fl.opening import Opening, Part, pack_opening, pack_part
from fl.preprocess import ROWS_MAX
from fl.spec import logistic_regression
from node.validator.openings import POLLS_MAX, piece_bytes_max
from node.wire.cid import CHUNK_BYTES
from node.wire.openings import PART
from tests.fl.dialogue import (
    TASK,
    TERMS,
    address,
    commit,
    commits,
    opened,
    opening,
    proof,
    submitted,
)
from tests.harness import organisation
from tests.node.validator.office import HOME, OFFER, ORIGIN, REPLAYED, SEGMENTS, Office, code_of
from vm.learning import Round, RoundPhase
from vm.record import Band, Dataset
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX

# Asking


def test_a_piece_is_there_once_the_trainer_has_brought_it(office: Office) -> None:
    """First it is only wanted, then announced, then whole."""
    assert office.want(2, "2") is None
    assert office.wanted() == ("2",)

    office.announce("2")
    assert office.want(2, "2") == OFFER
    assert office.wanted() == ("2",)  # until its bytes are here: an upload may have been cut off

    office.held.add(OFFER.address)
    assert office.wanted() == ()


def test_a_piece_that_two_verifiers_want_is_brought_once(office: Office) -> None:
    """Each verifier's first piece comes before anybody's second."""
    for number, piece in ((3, PART), (2, PART), (2, "0"), (3, "0"), (2, "3")):
        office.want(number, piece)

    assert office.wanted() == (PART, "0", "3")


def test_who_asks_for_everything_holds_up_nobody(office: Office) -> None:
    """Also if that was before the others asked, and again once some of it has come."""
    for piece in (PART, "0", "1", "2"):
        office.want(3, piece)
    office.want(2, "3")
    office.want(4, "2")

    assert office.wanted() == (PART, "2", "3", "0", "1")

    office.announce(PART)
    office.held.add(OFFER.address)
    office.want(4, "1")
    assert office.wanted() == ("2", "3", "0", "1")


def test_nobody_asks_before_submissions_end() -> None:
    """A trainer who knew what is checked could still choose what to submit."""
    chain = opened(**REPLAYED)
    chain.applied([proof(1, **REPLAYED)])
    office = Office(chain)

    assert office.phase() is RoundPhase.SUBMIT
    assert code_of(lambda: office.want(2, "2")) == "opening.phase"
    assert code_of(office.wanted) == "opening.phase"


def test_nobody_asks_after_the_judgement(office: Office) -> None:
    """Nor does a trainer bring anything: whoever waits is told."""
    office.want(2, "2")

    office.end_round()

    assert code_of(lambda: office.want(2, "2")) == "opening.phase"
    assert code_of(lambda: office.announce("2")) == "opening.phase"


@pytest.mark.parametrize(("task", "number"), [("another", 1), (TASK, 2)])
def test_nobody_asks_for_a_round_that_is_not_there(office: Office, task: str, number: int) -> None:
    """A name from the path is looked up and never remembered."""
    assert code_of(lambda: office.want(2, "2", task=task, round_number=number)) == "opening.phase"


def test_an_update_that_is_not_of_class_replayed_stays_closed() -> None:
    """Its hospital never agreed to open anything."""
    office = Office(submitted(opened()))

    assert code_of(lambda: office.want(2, "2")) == "opening.closed"


def test_a_site_without_an_update_has_nothing_to_open() -> None:
    """The round goes on without it."""
    chain = opened(**REPLAYED)
    chain.applied([*(proof(number, **REPLAYED) for number in (2, 3, 4)), *commits()])
    chain.block(time_ms=chain.get(Round, TASK, 1).deadline_ms)
    office = Office(chain)

    assert office.phase() is RoundPhase.VERDICT
    assert code_of(lambda: office.want(2, "2")) == "opening.closed"


def test_another_hospitals_update_is_not_met_here(office: Office) -> None:
    """What it opens passes through its own validator only."""
    verifier = office.member(2, "verifier")

    for name in (organisation(3), organisation(2)):
        ask = partial(office.openings.want, verifier, TASK, 1, name, "2")
        assert code_of(ask) == "opening.organisation"


@pytest.mark.parametrize("role", ["trainer", "validator", "steward", "admin"])
def test_only_verifiers_ask(office: Office, role: str) -> None:
    """A rival's trainer would learn the rows that its verifier may see for judging only."""
    member = office.member(2, role)

    assert code_of(lambda: office.openings.want(member, TASK, 1, HOME, "2")) == "opening.verifier"


def test_a_verifier_does_not_ask_its_own_hospital(office: Office) -> None:
    """Nobody judges the update of their own organisation."""
    assert code_of(lambda: office.want(1, "2")) == "opening.verifier"


def test_a_verifier_of_another_task_does_not_ask() -> None:
    """The task names its verifiers; the role alone is not enough."""
    sites = opening()[2].terms.sites[:3]  # type: ignore[attr-defined]
    chain = opened(**REPLAYED, sites=sites)
    for number in (1, 2, 3):
        chain.applied([proof(number, **REPLAYED), commit(number)])
    office = Office(chain)

    assert office.want(3, "2") is None
    assert code_of(lambda: office.want(4, "2")) == "opening.verifier"


def test_a_verifier_that_has_not_committed_does_not_ask() -> None:
    """It may not judge, and could still choose its challenge by what it sees."""
    chain = submitted(opened(**REPLAYED), **REPLAYED)
    office = Office(chain)
    name = organisation(4)
    chain.stored.pop(
        next(key for key in chain.stored if b"commitment" in key and name.encode() in key)
    )

    assert code_of(lambda: office.want(4, "2")) == "opening.commitment"


@pytest.mark.parametrize("piece", ["4", "1024", "-1", "01", "2.0", "", "whole", "٣"])
def test_a_piece_that_the_update_does_not_have(office: Office, piece: str) -> None:
    """So one verifier wants at most the part and each segment once."""
    for other in (PART, *map(str, range(SEGMENTS))):
        office.want(2, other)

    assert code_of(lambda: office.want(2, piece)) == "opening.piece"
    assert len(office.wanted()) == SEGMENTS + 1


# Waiting


def test_a_trainer_that_waits_is_told_at_once(office: Office) -> None:
    """And whoever asks again tells it nothing new."""

    async def scenario() -> tuple[str, ...]:
        trainer = office.member(1, "trainer")
        waiting = asyncio.create_task(office.openings.wanted(trainer, TASK, 1, 3_600))
        await asyncio.sleep(0)
        office.want(2, "1")
        return await waiting

    assert asyncio.run(scenario()) == ("1",)


def test_a_trainer_that_waits_is_told_when_the_round_is_judged(office: Office) -> None:
    """It need not wait for what nobody may ask any more."""

    async def scenario() -> str:
        trainer = office.member(1, "trainer")
        waiting = asyncio.create_task(office.openings.wanted(trainer, TASK, 1, 3_600))
        await asyncio.sleep(0)
        office.end_round()
        with pytest.raises(Refused) as refused:
            await waiting
        return refused.value.code

    assert asyncio.run(scenario()) == "opening.phase"


@pytest.mark.parametrize(("number", "role"), [(2, "trainer"), (1, "verifier"), (2, "verifier")])
def test_only_the_updates_own_trainer_waits_and_brings(
    office: Office, number: int, role: str
) -> None:
    """What was asked for tells which segments are checked."""
    member = office.member(number, role)
    office.want(2, "2")

    async def wait() -> object:
        return await office.openings.wanted(member, TASK, 1, 0)

    assert code_of(lambda: asyncio.run(wait())) == "opening.trainer"
    assert (
        code_of(lambda: office.openings.announce(member, TASK, 1, "2", OFFER)) == "opening.trainer"
    )


def test_polls_at_a_time_are_bounded(office: Office) -> None:
    """A trainer that connects again and again costs a few waiting requests at most."""

    async def scenario() -> str:
        trainer = office.member(1, "trainer")
        polls = [
            asyncio.create_task(office.openings.wanted(trainer, TASK, 1, 3_600))
            for _ in range(POLLS_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await office.openings.wanted(trainer, TASK, 1, 3_600)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        assert await office.openings.wanted(trainer, TASK, 1, 0) == ()
        return refused.value.code

    assert asyncio.run(scenario()) == "opening.busy"


# Bringing


def test_only_what_is_wanted_is_announced(office: Office) -> None:
    """Nobody fills the store with what no verifier asked for."""
    assert code_of(lambda: office.announce("2")) == "opening.unwanted"
    office.want(2, "1")
    assert code_of(lambda: office.announce("2")) == "opening.unwanted"


@pytest.mark.parametrize("piece", [PART, "0", "2"])
def test_an_announcement_larger_than_such_a_piece(office: Office, piece: str) -> None:
    """So what one round stores is bounded: so many pieces of so many bytes."""
    dataset = office.chain.get(Dataset, "opt-1")
    most = piece_bytes_max(piece, logistic_regression(2), TERMS, dataset)
    office.want(2, piece)

    too_large = partial(office.announce, piece, replace(OFFER, bytes=most + 1))
    assert code_of(too_large) == "opening.too_large"
    office.announce(piece, replace(OFFER, bytes=most))


def test_the_largest_part_and_segment_fit(office: Office) -> None:
    """A dataset as large as its band says, with rows as many as batches can draw."""
    dataset = office.chain.get(Dataset, "opt-1")
    spec, rows = logistic_regression(2), dataset.rows.high
    numbers = tuple(range(rows))
    part = pack_part(ORIGIN, Part(tuple(bytes(32) for _ in numbers), numbers))
    drawn = 5 * 16  # snapshot_steps x batch_rows of the terms
    weights = np.zeros(3, np.int32)
    cells = np.zeros((drawn, 3), np.int64)
    salts = tuple(bytes(32) for _ in range(drawn))
    opening = Opening(2, weights, weights, weights, weights, salts, cells)
    segment = pack_opening(spec, TERMS.training, ORIGIN, opening)

    assert piece_bytes_max(PART, spec, TERMS, dataset) == len(part)
    assert piece_bytes_max("2", spec, TERMS, dataset) == len(segment)


@pytest.mark.parametrize("piece", [PART, "2"])
def test_a_dataset_that_claims_countless_rows_opens_no_larger_pieces(
    office: Office, piece: str
) -> None:
    """Attack: a band up to 2^53 makes verifiers fetch, and hold in memory, gigabytes of nothing."""
    dataset = office.chain.get(Dataset, "opt-1")
    terms = replace(TERMS, training=replace(TERMS.training, batch_rows=65_536, snapshot_steps=100))
    bounds = [
        piece_bytes_max(piece, logistic_regression(2), terms, replace(dataset, rows=Band(1, high)))
        for high in (ROWS_MAX, HEIGHT_MAX)
    ]

    assert bounds[0] == bounds[1]


def test_the_first_announcement_stands(office: Office) -> None:
    """A trainer that shows one thing to one verifier and another to the next is found out."""
    office.want(2, "2")
    office.announce("2")

    office.announce("2")
    for other in (replace(OFFER, address=address("other")), replace(OFFER, bytes=7)):
        assert code_of(partial(office.announce, "2", other)) == "opening.offered"


def test_only_announced_bytes_are_taken_and_only_from_the_trainer(office: Office) -> None:
    """The whole of the announced size, or a chunk of it."""
    office.want(2, "2")
    assert office.writers(OFFER.address, OFFER.bytes) == set()

    office.announce("2")

    assert office.writers(OFFER.address, OFFER.bytes) == {f"{HOME}.trainer"}
    assert office.writers(OFFER.address, CHUNK_BYTES) == {f"{HOME}.trainer"}
    assert office.writers(OFFER.address, CHUNK_BYTES + 1) == set()
    assert office.writers(address("another"), OFFER.bytes) == set()


# Reading


def test_only_those_who_asked_for_a_piece_read_it(office: Office) -> None:
    """Not the other verifiers, not validators, not even its own trainer."""
    office.want(2, "2")
    office.want(3, "1")
    office.announce("2")
    office.announce("1", replace(OFFER, address=address("segment 1")))

    assert office.readers(OFFER.address) == {f"{organisation(2)}.verifier"}
    assert office.readers(address("segment 1")) == {f"{organisation(3)}.verifier"}


def test_an_announced_address_of_another_blob_opens_nothing_else(office: Office) -> None:
    """A trainer that names its rival's update gets no rights: openings lie in their own store."""
    rival = address("update of hospital-2 in 1")
    office.want(2, "2")
    office.announce("2", replace(OFFER, address=rival))

    assert office.readers(rival) == {f"{organisation(2)}.verifier"}
    assert office.wanted() == ("2",)  # nothing of that address lies among the openings


# Going
