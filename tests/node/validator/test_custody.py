"""Who may read and bring which blob, through the phases of a round, and when blobs must go."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fl.body import AttestAudit, OpenTask, ProofOfLearning, RegisterModel
from fl.spec import logistic_regression
from fl.trace import Origin, origin_digest
from fl.weights import update_size
from node.validator.custody import BROUGHT_MAX, MODEL_BYTES_MAX, Custody
from node.wire.cid import CHUNK_BYTES
from tests.harness import key_of
from tests.node.network import (
    BLOB_BYTES,
    COLUMNS,
    HOSPITALS,
    HOUR_MS,
    MODEL,
    TASK,
    Network,
    address,
    aggregate,
    commit,
    open_network,
    opening,
    register_dataset,
    run_round,
    terms,
)
from vm.conduct import AuditOutcome
from vm.learning import Commitment, Round, RoundPhase, Stored, Update
from vm.record import Member, Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.shape import Digest
from vm.terms import AVERAGE, MICRO, Evidence, Server, ServerOptimizer
from vm.transaction import Transaction

A, B, C, D = HOSPITALS
BASE = address("a")  # the model's first weights
BLOB = address("x")  # the update of hospital A
SPEC = logistic_regression(len(COLUMNS))
UPDATE_BYTES = update_size(SPEC, 20, 3)
RETENTION_MS = HOUR_MS
MOMENTUM = Server(ServerOptimizer.MOMENTUM, MICRO, momentum=900_000, beta2=0, tau=0)


class Registry:
    """A chain with an open task, and custody that follows it."""

    def __init__(
        self, network: Network, server: Server = AVERAGE, evidence: Evidence = Evidence.COMMITTED
    ) -> None:
        self.network = network
        network.block(*(register_dataset(network, hospital) for hospital in HOSPITALS))
        model = RegisterModel(MODEL, SPEC, 20, BASE, BLOB_BYTES)
        network.block(network.sign(f"{A}.steward", "model.register", model))
        asked = terms(2)
        rule = replace(asked.aggregation, server=server)
        asked = replace(asked, retention_ms=RETENTION_MS, aggregation=rule, evidence=evidence)
        network.block(*opening(network, A, OpenTask(TASK, asked)))
        self.origins: dict[str, Digest] = {}  # what the headers of blobs held here say
        self.custody = Custody(network.chain, self.origins.get)

    def bring(self, hospital: str, blob: str) -> None:
        """A validator holds the file of hospital's update, which says whose it is."""
        self.origins[blob] = origin_digest(
            Origin(TASK, 1, f"{hospital}.trainer", f"{hospital}.opt")
        )

    def block(self, *transactions: Transaction) -> None:
        """Execute a block in which everything is applied, and learn from it."""
        header = self.network.block(*transactions)
        row = self.network.chain.store.row(header.height)
        assert row is not None
        assert {receipt.code for receipt in row.receipts} <= {"applied"}, row.messages
        self.follow(header.height)

    def follow(self, height: int) -> None:
        """Have the custody take in the block at this height."""
        row = self.network.chain.store.row(height)
        assert row is not None
        self.custody.follow(row)

    def submit(self, **blobs: str) -> None:
        """Trainers of these hospitals (`A=address`) bring and name their updates, in one block.

        The base model is no update, whoever says so.
        """
        names = dict(zip("ABCD", HOSPITALS, strict=True))
        for letter, blob in blobs.items():
            if blob != BASE:
                self.bring(names[letter], blob)
        first = self.network.chain.state().get(Commitment, TASK, 1, HOSPITALS[0]) is None
        self.block(
            *(self.proof(names[letter], blob) for letter, blob in blobs.items()),
            *(commit(self.network, hospital, 1) for hospital in HOSPITALS if first),
        )

    def proof(self, hospital: str, blob: str, task: str = TASK) -> Transaction:
        """A trainer's update in round 1."""
        body = ProofOfLearning(
            task=task,
            round=1,
            dataset=f"{hospital}.opt",
            base_version=0,
            blob=blob,
            blob_bytes=BLOB_BYTES,
            norm=1_000,
            trace=bytes(32),
            segments=3,
            data=bytes(32),
            evidence=Evidence.COMMITTED,
            loop=None,
        )
        return self.network.sign(f"{hospital}.trainer", "learning.proof", body)

    def expect(self, phase: RoundPhase, number: int = 1) -> None:
        """The round must be in this phase, or the test shows nothing."""
        assert self.network.chain.state().require(Round, TASK, number).phase is phase

    def pass_time(self, ms: int = HOUR_MS) -> None:
        """An empty block, so much later."""
        self.network.late_ms += ms
        self.block()

    def member(self, id: str) -> Member:
        """A member as it stands."""
        return self.network.chain.state().require(Member, id)

    def readers(self, blob: str) -> set[str]:
        """Who may read the blob now, of all who were enrolled by genesis."""
        ids = [member.id for member in self.network.genesis.members]
        return {id for id in ids if self.custody.may_read(self.member(id), blob)}

    def due(self) -> list[str]:
        """What must be deleted at the chain's time."""
        return self.custody.due(self.network.chain.head.time_ms)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry whose task waits for submissions."""
    with open_network(tmp_path) as network:
        yield Registry(network)


EVERYBODY = {f"{h}.{role}" for h in HOSPITALS for role in Role if role is not Role.AUDITOR}
JUDGES = {f"{hospital}.{role}" for hospital in HOSPITALS for role in ("verifier", "validator")}


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


def registering(registry: Registry, weights: str, id: str = "bait") -> Transaction:
    """A steward of hospital B registers a model that is said to have these weights."""
    body = RegisterModel(id, SPEC, 20, weights, BLOB_BYTES)
    return registry.network.sign(f"{B}.steward", "model.register", body)


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


# When updates go


def run_out(registry: Registry) -> None:
    """Nobody judges and the task's retention passes."""
    registry.pass_time()  # verdicts end undecided: the round fails
    registry.expect(RoundPhase.FAILED)
    registry.pass_time(RETENTION_MS)


def test_updates_go_when_retention_is_over_and_not_before(registry: Registry) -> None:
    """They stay through the round and the task's retention; models stay for ever."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    registry.pass_time()

    registry.expect(RoundPhase.FAILED)
    assert registry.due() == []
    assert registry.readers(BLOB) == JUDGES
    registry.pass_time(RETENTION_MS)

    assert sorted(registry.due()) == sorted([BLOB, *map(address, "yzw")])
    assert registry.readers(BLOB) == set()
    assert registry.due() == []
    assert registry.readers(BASE) == EVERYBODY


def test_an_audit_of_an_update_that_is_gone_opens_nothing_again(registry: Registry) -> None:
    """Its record is written once more; who brings the file back brings it for nobody."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    run_out(registry)
    assert BLOB in registry.due()
    auditor = EnrolMember(f"{B}.auditor", Role.AUDITOR, key_of(f"{B}.auditor").public, None)
    registry.block(registry.network.sign(f"{B}.admin", "member.enrol", auditor))
    gone = AttestAudit(TASK, 1, A, AuditOutcome.UNAVAILABLE, "audit.expired", "", 0)

    registry.block(registry.network.sign(f"{B}.auditor", "learning.audit", gone))
    registry.bring(A, BLOB)

    assert registry.network.chain.state().require(Update, TASK, 1, A).audits_unavailable == 1
    assert registry.readers(BLOB) == set()


def test_an_update_whose_round_goes_on_stays_however_late_it_is(registry: Registry) -> None:
    """Retention counts from the round's end."""
    registry.submit(A=BLOB)

    assert registry.custody.due(registry.network.chain.head.time_ms + 100 * HOUR_MS) == []


def test_an_aggregate_is_open_to_all_whoever_named_it_before(registry: Registry) -> None:
    """A quorum of validators computed it: no trainer who guessed its address can close it."""
    result = address("b")  # what `run_round` has the validators attest
    registry.block(registering(registry, address("c"), "other"))
    body = OpenTask("guess", replace(terms(1), model="other", sites=terms(1).sites[1:3]))
    registry.block(*opening(registry.network, B, body))
    registry.block(registry.proof(B, result, "guess"))
    height = registry.network.chain.head.height

    run_round(registry.network, 1)

    for later in range(height + 1, registry.network.chain.head.height + 1):
        registry.follow(later)
    assert registry.readers(result) == EVERYBODY


def close(registry: Registry, number: int, states: str) -> None:
    """A round closes: validators in order attest these states of the server's optimizer."""
    height = registry.network.chain.head.height
    run_round(registry.network, number, aggregators=())
    registry.network.block(
        *(
            aggregate(registry.network, hospital, number, Stored(address(letter), BLOB_BYTES))
            for hospital, letter in zip(HOSPITALS, states, strict=False)
        )
    )
    for later in range(height + 1, registry.network.chain.head.height + 1):
        registry.follow(later)
    registry.expect(RoundPhase.CLOSED, number)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_servers_state_goes_when_another_has_taken_its_place(
    tmp_path: Path, restarted: bool
) -> None:
    """The next round begins with it, however long the retention of its own is over."""
    with open_network(tmp_path) as network:
        registry = Registry(network, MOMENTUM)
        close(registry, 1, "mmm")
        later_ms = network.chain.head.time_ms + 3 * HOUR_MS
        if restarted:
            registry.custody = Custody(network.chain, registry.origins.get)

        assert address("m") not in registry.custody.due(later_ms)
        assert registry.readers(address("m")) == EVERYBODY
        close(registry, 2, "nnn")
        gone = registry.custody.due(later_ms + HOUR_MS)

        assert {address("m"), address("n")} <= set(gone)  # the task is over
        assert registry.readers(address("m")) == registry.readers(address("n")) == set()


def test_a_state_that_no_quorum_names_is_for_nobody(tmp_path: Path) -> None:
    """A validator that names a rival's file as the state neither opens nor deletes it."""
    with open_network(tmp_path) as network:
        registry = Registry(network, MOMENTUM)

        close(registry, 1, "mxmm")

        assert registry.readers(address("x")) == set()
        assert registry.readers(address("m")) == EVERYBODY


def test_looking_for_what_is_due_costs_nothing_until_something_is(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on the event loop every few seconds, whatever number of updates is held."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    registry.pass_time()
    registry.expect(RoundPhase.FAILED)

    def never() -> None:
        raise AssertionError("the state was read")

    monkeypatch.setattr(registry.network.chain, "state", never)

    assert registry.due() == []


def test_a_restart_forgets_what_went_and_remembers_what_must_still_go(registry: Registry) -> None:
    """Of updates whose retention is over, only those still on the disk are under custody."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    run_out(registry)
    for blob in "yzw":
        del registry.origins[address(blob)]

    registry.custody = Custody(registry.network.chain, registry.origins.get)

    assert len(registry.custody._updates) == 1
    assert registry.due() == [BLOB]
    assert not registry.custody._updates
    assert not registry.custody._of_round
    assert not registry.custody._ended


@pytest.mark.parametrize("restarted", [False, True])
def test_past_the_bound_the_oldest_update_goes(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """Not the alphabetically first, as a restart reads them from the store."""
    monkeypatch.setattr("node.validator.custody.UPDATES_MAX", 3)
    registry.submit(D=BLOB)
    registry.submit(C=address("y"))
    registry.submit(B=address("z"))

    if restarted:
        monkeypatch.setattr("node.validator.custody.UPDATES_MAX", 2)
        registry.custody = Custody(registry.network.chain, registry.origins.get)
    else:
        registry.submit(A=address("w"))

    assert registry.due() == [BLOB]
    assert len(registry.custody._updates) == (2 if restarted else 3)
