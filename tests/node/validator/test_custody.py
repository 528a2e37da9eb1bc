"""Who may read and bring which blob, through the phases of a round."""

from dataclasses import replace
from pathlib import Path

import pytest

from fl.body import OpenTask
from fl.weights import update_size
from node.validator.custody import BROUGHT_MAX, MODEL_BYTES_MAX, Custody
from node.wire.cid import CHUNK_BYTES
from tests.node.network import (
    BLOB_BYTES,
    address,
    commit,
    open_network,
    opening,
    terms,
)
from tests.node.validator.claims import (
    BASE,
    BLOB,
    EVERYBODY,
    JUDGES,
    SPEC,
    UPDATE_BYTES,
    A,
    B,
    C,
    Registry,
    registering,
    run_out,
)
from vm.learning import Round, RoundPhase
from vm.record import Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.terms import Evidence


def test_a_models_weights_are_for_every_enrolled_member(registry: Registry) -> None:
    """Everybody trains from them, and auditors compare them."""
    assert registry.readers(BASE) == EVERYBODY


def test_an_address_that_nobody_named_is_for_nobody(registry: Registry) -> None:
    """An uploaded blob cannot be read before its transaction is executed."""
    assert registry.custody.may_write(registry.member(f"{A}.trainer"), BLOB, UPDATE_BYTES)

    assert registry.readers(BLOB) == set()


def test_nobody_reads_an_update_while_others_may_still_submit(registry: Registry) -> None:
    """A hospital's validator cannot fetch a rival's update for its own trainer to copy."""
    registry.submit(A=BLOB)

    registry.expect(RoundPhase.SUBMIT)
    assert registry.readers(BLOB) == set()


def test_after_the_deadline_verifiers_and_validators_read_updates(registry: Registry) -> None:
    """Neither a rival's trainer nor a steward nor an admin ever does."""
    registry.submit(A=BLOB, B=address("y"))
    registry.pass_time()

    registry.expect(RoundPhase.VERDICT)
    assert registry.readers(BLOB) == JUDGES


def test_a_verifier_outside_the_task_reads_no_update(registry: Registry) -> None:
    """The role alone is not enough: the task names its verifiers."""
    key = (1).to_bytes(32, "big")
    body = EnrolMember(f"{B}.second-verifier", Role.VERIFIER, key, None)
    registry.block(registry.network.sign(f"{B}.admin", "member.enrol", body))
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))

    registry.expect(RoundPhase.VERDICT)
    outsider = registry.member(f"{B}.second-verifier")
    assert registry.custody.may_read(registry.member(f"{B}.verifier"), BLOB)
    assert not registry.custody.may_read(outsider, BLOB)
    assert registry.custody.may_read(outsider, BASE)


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.REVOKED])
def test_who_is_not_in_good_standing_reads_and_brings_nothing(
    registry: Registry, standing: Standing
) -> None:
    """A block that suspends a member closes blobs to it, models included."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    for role in ("verifier", "trainer"):
        body = SetStanding(f"{B}.{role}", standing)
        registry.block(registry.network.sign(f"{B}.admin", "member.standing", body))

    verifier, trainer = registry.member(f"{B}.verifier"), registry.member(f"{B}.trainer")
    assert not registry.custody.may_read(verifier, BLOB)
    assert not registry.custody.may_read(trainer, BASE)
    assert not registry.custody.may_write(trainer, address("v"), UPDATE_BYTES)


# A hostile member names blobs that are not its own


def test_an_update_registered_as_a_model_stays_closed(registry: Registry) -> None:
    """A rival's steward cannot open an update to everybody by calling it a model."""
    registry.submit(A=BLOB)

    registry.block(registering(registry, BLOB))

    assert registry.readers(BLOB) == set()
    registry.submit(B=address("y"), C=address("z"), D=address("w"))
    assert registry.readers(BLOB) == JUDGES


def test_an_update_registered_as_a_model_in_its_own_block_stays_closed(
    registry: Registry,
) -> None:
    """Also where a primary puts the bait first."""
    registry.bring(A, BLOB)
    registry.block(registering(registry, BLOB), registry.proof(A, BLOB))

    assert registry.readers(BLOB) == set()


def test_a_model_submitted_as_an_update_stays_open_and_is_kept(registry: Registry) -> None:
    """A trainer cannot take the base model from the others, nor have it deleted."""
    registry.submit(A=BLOB, B=BASE, C=address("z"), D=address("w"))

    assert registry.readers(BASE) == EVERYBODY
    run_out(registry)
    assert sorted(registry.due()) == sorted([BLOB, address("z"), address("w")])
    assert registry.readers(BASE) == EVERYBODY


def test_an_update_named_again_in_another_task_stays_with_the_first(registry: Registry) -> None:
    """Hospitals cannot share out another's update among themselves by a task of their own."""
    registry.submit(A=BLOB, B=address("y"))
    registry.block(registering(registry, address("b"), "other"))
    sites = terms(1).sites[1:3]  # B and C
    body = OpenTask("theft", replace(terms(1), model="other", sites=sites))
    registry.block(*opening(registry.network, B, body))

    registry.block(registry.proof(B, BLOB, "theft"))

    assert registry.readers(BLOB) == set()
    commits = [commit(registry.network, name, 1, "theft") for name in (B, C)]
    registry.block(registry.proof(C, address("z"), "theft"), *commits)
    found = registry.network.chain.state().require(Round, "theft", 1)
    assert found.phase is RoundPhase.VERDICT
    assert registry.readers(BLOB) == set()
    registry.submit(C=address("v"), D=address("w"))
    assert registry.readers(BLOB) == JUDGES


def test_a_restart_judges_claims_alike(registry: Registry) -> None:
    """Custody that reads the chain from the store comes to the same as one that followed it."""
    registry.submit(A=BLOB, C=BASE)
    registry.block(registering(registry, BLOB, "a-model-listed-first"))
    registry.block(registering(registry, address("z")))
    registry.submit(B=address("z"), D=address("w"))
    blobs = (BASE, BLOB, *map(address, "zw"))
    followed = [registry.readers(blob) for blob in blobs]

    registry.custody = Custody(registry.network.chain, registry.origins.get)

    assert [registry.readers(blob) for blob in blobs] == followed
    assert followed == [EVERYBODY, JUDGES, JUDGES, JUDGES]


def test_an_update_registered_as_a_model_a_block_before_it_is_named_stays_closed(
    registry: Registry,
) -> None:
    """An address is known from the upload on, or to a primary that holds the proof back."""
    registry.bring(A, BLOB)
    registry.block(registering(registry, BLOB))
    assert registry.readers(BLOB) == set()

    registry.submit(A=BLOB)

    assert registry.readers(BLOB) == set()
    registry.submit(B=address("y"), C=address("z"), D=address("w"))
    assert registry.readers(BLOB) == JUDGES


@pytest.mark.parametrize("at_once", [False, True])
def test_an_update_named_earlier_by_an_attacker_stays_its_trainers(
    registry: Registry, at_once: bool
) -> None:
    """B and C open a task whose id sorts first, name A's update there first, and end its round.

    In a block before A's, or in the same one: neither opens the update while others may still
    submit, nor closes it to its own verifiers, nor deletes it with the short task's retention.
    """
    registry.block(registering(registry, address("b"), "other"))
    short = replace(
        terms(1), model="other", sites=terms(1).sites[1:3], submit_ms=10_000, retention_ms=0
    )
    registry.block(*opening(registry.network, B, OpenTask("aaa", short)))
    theft = registry.proof(B, BLOB, "aaa")
    registry.bring(A, BLOB)

    if at_once:
        registry.block(theft, registry.proof(A, BLOB))
    else:
        registry.block(theft)
        registry.submit(A=BLOB)
    commits = [commit(registry.network, name, 1, "aaa") for name in (B, C)]
    registry.block(registry.proof(C, address("v"), "aaa"), *commits)
    stolen = registry.network.chain.state().require(Round, "aaa", 1)
    assert stolen.phase is RoundPhase.VERDICT

    registry.expect(RoundPhase.SUBMIT)
    assert registry.readers(BLOB) == set()
    registry.submit(B=address("y"), C=address("z"), D=address("w"))
    assert registry.readers(BLOB) == JUDGES
    registry.pass_time(stolen.deadline_ms - registry.network.chain.head.time_ms)
    assert BLOB not in registry.due()


def test_what_is_not_held_here_gives_no_rights_here(registry: Registry) -> None:
    """Rights follow from the file's own header; they come with the file."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    del registry.origins[BLOB]
    assert registry.readers(BLOB) == set()

    registry.bring(A, BLOB)

    assert registry.readers(BLOB) == JUDGES


# What may be brought


def test_a_trainer_brings_what_fits_its_task_to_the_byte(registry: Registry) -> None:
    """Another size is no update of the task's model, and is refused before it is stored."""
    trainer = registry.member(f"{A}.trainer")

    for wrong in (0, 1, UPDATE_BYTES - 1, UPDATE_BYTES + 1, 4 * 1024**3):
        assert not registry.custody.may_write(trainer, BLOB, wrong)
    assert registry.custody.may_write(trainer, BLOB, UPDATE_BYTES)


def test_a_scored_update_has_one_segment_where_the_task_takes_it(tmp_path: Path) -> None:
    """Its file is shorter than that of an update with a trace; the task takes both."""
    scored = update_size(SPEC, 20, 1)
    for evidence, sizes in (
        (Evidence.SCORED, {scored, UPDATE_BYTES}),
        (Evidence.COMMITTED, {UPDATE_BYTES}),
    ):
        with open_network(tmp_path / evidence.value) as network:
            registry = Registry(network, evidence=evidence)
            trainer = registry.member(f"{A}.trainer")

            taken = {
                s for s in (scored, UPDATE_BYTES) if registry.custody.may_write(trainer, BLOB, s)
            }

            assert taken == sizes


def test_a_steward_brings_models_up_to_their_bound(registry: Registry) -> None:
    """The largest model fits; a byte more does not."""
    steward = registry.member(f"{A}.steward")

    assert not registry.custody.may_write(steward, BLOB, MODEL_BYTES_MAX + 1)
    assert registry.custody.may_write(steward, BLOB, MODEL_BYTES_MAX)


def test_a_tasks_verifier_brings_the_very_update_that_it_passes(registry: Registry) -> None:
    """A trainer's own validator may keep it from the others; a verifier then brings it to them.

    Only what a record of the round names, of the size that it says, after submissions; and in
    pieces of a chunk once that size was right.
    """
    may_write = registry.custody.may_write
    verifier, stranger = registry.member(f"{B}.verifier"), registry.member(f"{B}.admin")
    registry.submit(A=BLOB, B=address("y"), C=address("z"))
    del registry.origins[BLOB]  # this validator was never given it
    registry.expect(RoundPhase.SUBMIT)
    assert not may_write(verifier, BLOB, BLOB_BYTES)

    registry.submit(D=address("w"))

    assert not may_write(verifier, BLOB, CHUNK_BYTES)
    assert not may_write(verifier, BLOB, BLOB_BYTES + 1)
    assert not may_write(verifier, address("v"), BLOB_BYTES)
    assert not may_write(stranger, BLOB, BLOB_BYTES)
    assert may_write(verifier, BLOB, BLOB_BYTES)
    assert may_write(verifier, BLOB, CHUNK_BYTES)
    assert not may_write(verifier, BLOB, CHUNK_BYTES + 1)


@pytest.mark.parametrize("role", ["verifier", "validator", "admin"])
def test_others_bring_nothing(registry: Registry, role: str) -> None:
    """Who makes neither models nor updates cannot fill a validator's disk."""
    member = registry.member(f"{A}.{role}")

    assert not registry.custody.may_write(member, BLOB, UPDATE_BYTES)
    assert not registry.custody.may_write(member, BASE, BLOB_BYTES)


def test_a_trainer_of_no_open_task_brings_nothing(registry: Registry) -> None:
    """Enrolling trainers gives an admin no space."""
    key = (1).to_bytes(32, "big")
    body = EnrolMember(f"{B}.second-trainer", Role.TRAINER, key, None)
    registry.block(registry.network.sign(f"{B}.admin", "member.enrol", body))

    outsider = registry.member(f"{B}.second-trainer")
    assert not registry.custody.may_write(outsider, BLOB, UPDATE_BYTES)


def test_chunks_are_taken_of_a_blob_whose_size_was_right(registry: Registry) -> None:
    """An update of more than one chunk is brought in pieces, before and after it is named."""
    trainer, rival = registry.member(f"{A}.trainer"), registry.member(f"{B}.trainer")

    assert not registry.custody.may_write(trainer, BLOB, CHUNK_BYTES)
    assert registry.custody.may_write(trainer, BLOB, UPDATE_BYTES)
    assert registry.custody.may_write(trainer, BLOB, CHUNK_BYTES)
    assert registry.custody.may_write(trainer, BLOB, 1)
    assert not registry.custody.may_write(rival, BLOB, CHUNK_BYTES)

    registry.submit(A=BLOB)
    assert registry.custody.may_write(trainer, BLOB, CHUNK_BYTES)
    assert not registry.custody.may_write(trainer, BLOB, CHUNK_BYTES + 1)


def test_blobs_that_nobody_names_are_bounded_for_each_member(registry: Registry) -> None:
    """A trainer who never submits holds a few blobs; the oldest make room, others' do not."""
    trainer, rival = registry.member(f"{A}.trainer"), registry.member(f"{B}.trainer")
    blobs = [address(letter) for letter in "bcdefghijk"]
    assert len(blobs) == BROUGHT_MAX + 2
    assert registry.custody.may_write(rival, address("z"), UPDATE_BYTES)

    for blob in blobs[:BROUGHT_MAX]:
        assert registry.custody.may_write(trainer, blob, UPDATE_BYTES)
    assert registry.due() == []
    for blob in blobs[BROUGHT_MAX:]:
        assert registry.custody.may_write(trainer, blob, UPDATE_BYTES)

    assert registry.due() == blobs[:2]
    assert registry.due() == []


def test_a_dropped_blob_that_is_named_or_brought_again_stays(registry: Registry) -> None:
    """What was about to be deleted is kept when it is wanted after all."""
    trainer = registry.member(f"{A}.trainer")
    blobs = [address(letter) for letter in "bcdefghijk"]
    for blob in blobs:
        assert registry.custody.may_write(trainer, blob, UPDATE_BYTES)

    registry.submit(A=blobs[0])
    assert registry.custody.may_write(trainer, blobs[1], UPDATE_BYTES)

    assert registry.due() == [blobs[2]]
