"""Every numbered check of the handlers that take updates, verdicts and aggregates, failing."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from node.program import program
from tests.fl.dialogue import (
    MODEL,
    TASK,
    address,
    aggregate,
    approvals,
    commits,
    dataset,
    decline,
    model,
    opened,
    opening,
    proof,
    settled,
    submitted,
)
from tests.harness import Chain, key_of, organisation
from vm.learning import (
    Decline,
    OwnLoop,
    Round,
    RoundPhase,
    TrainingPart,
    Update,
)
from vm.quorum import Validator, ValidatorSet
from vm.record import ModelHead, Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.terms import Evidence


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"task": "other"}, "state.missing"),
        ({"round": 2}, "state.missing"),
        ({"dataset": "opt-2"}, "update.dataset"),
        ({"base_version": 1}, "update.base"),
        ({"segments": 3}, "update.segments"),
        ({"segments": 5}, "update.segments"),
        ({"evidence": Evidence.SCORED}, "update.segments"),
        ({"evidence": Evidence.SCORED, "segments": 1}, "update.evidence"),
        ({"blob_bytes": 11}, "blob.bytes"),  # 3 parameters take 12
        ({"blob_bytes": 12 + 256 * 1024 + 1}, "blob.bytes"),
        ({"norm": 3_719_550_787}, "update.norm"),  # 2^31 times the root of 3 is 3,719,550,786.6
    ],
)
def test_proof_is_refused(changes: dict[str, Any], code: str) -> None:
    """An update that is not the one that the task asks for fails with its reason."""
    chain = opened()

    found = chain.refused(proof(1, **changes))

    assert found == code
    assert chain.state.get(Update, TASK, 1, "hospital-1") is None
    assert chain.get(Round, TASK, 1).updates == 0


def test_a_scored_update_has_one_segment() -> None:
    """It has no trace; in a task that takes the class it stands beside one with a trace."""
    chain = opened(evidence=Evidence.SCORED)
    assert chain.refused(proof(1, evidence=Evidence.SCORED)) == "update.segments"

    chain.applied([proof(1, evidence=Evidence.SCORED, segments=1), proof(2)])

    assert chain.get(Round, TASK, 1).updates == 2


def test_proof_within_its_bounds_is_taken() -> None:
    """The largest norm and blob that this model's update can have are still fine."""
    chain = opened()

    chain.applied([proof(1, norm=3_719_550_786, blob_bytes=12 + 256 * 1024)])
    chain.applied([proof(2, evidence=Evidence.REPLAYED, blob_bytes=12)])

    assert chain.get(Round, TASK, 1).updates == 2


def test_proof_by_a_trainer_without_a_site_is_refused() -> None:
    """A second trainer of a hospital in the task is not the one that the task names."""
    chain = opened()
    body = EnrolMember("hospital-1.intern", Role.TRAINER, key_of("hospital-1.intern").public, None)
    chain.applied([("hospital-1.admin", "member.enrol", body)])

    _, kind, item = proof(1)

    assert chain.refused(("hospital-1.intern", kind, item)) == "update.trainer"


def test_second_proof_of_an_organisation_is_refused() -> None:
    """The first update stands: a trainer may not swap it once others are known."""
    chain = opened()
    chain.applied([proof(1)])

    again = chain.refused(proof(1, blob=address("better")))

    assert again == "update.duplicate"
    assert chain.get(Update, TASK, 1, "hospital-1").blob == address("update of hospital-1 in 1")


def test_training_rows_stay_the_same_in_every_round_of_a_task() -> None:
    """Who could choose other rows for each beacon would choose the batches."""
    chain = settled(submitted(opened()))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    others = hashlib.sha256(b"other rows").digest()

    assert chain.refused(proof(1, 2, base_version=1, data=others)) == "update.data"

    chain.applied([proof(1, 2, base_version=1), proof(2, 2, base_version=1)])
    assert (
        chain.get(TrainingPart, TASK, "hospital-1").data
        == chain.get(Update, TASK, 2, "hospital-1").data
    )


def test_proof_after_the_submissions_is_refused() -> None:
    """Who comes after the phase has ended is late, whatever the reason."""
    chain = submitted(opened())

    assert chain.refused(proof(1)) == "round.phase"


def test_replayed_evidence_needs_the_hospitals_permission() -> None:
    """A trainer cannot claim openings that its own dataset record forbids."""
    chain = Chain(program())
    chain.applied([dataset(1, opening=False), *(dataset(n) for n in (2, 3, 4)), model()])
    chain.applied([opening(), *approvals()])

    refused = chain.refused(proof(1, evidence=Evidence.REPLAYED))

    assert refused == "update.opening"


LOOP = OwnLoop(bytes(32), bytes(32))


@pytest.mark.parametrize(
    ("own_loops", "evidence", "code"),
    [
        (True, Evidence.COMMITTED, "applied"),
        (False, Evidence.COMMITTED, "update.loop"),
        (False, Evidence.SCORED, "applied"),  # it has no trace that anybody could be held to
        (True, Evidence.REPLAYED, "update.loop"),
    ],
)
def test_a_site_s_own_loop_says_so_where_the_task_takes_it(
    own_loops: bool, evidence: Evidence, code: str
) -> None:
    """Nobody can replay it, so a steward who wants audits that mean something rules it out."""
    chain = opened(own_loops=own_loops, evidence=Evidence.SCORED)
    segments = 1 if evidence is Evidence.SCORED else 4

    codes = chain.block([proof(1, evidence=evidence, segments=segments, loop=LOOP)])

    assert codes == [code]


@pytest.mark.parametrize("role", ["verifier", "steward", "validator"])
def test_only_trainers_send_updates(role: str) -> None:
    """The access table keeps other members of the same hospital out."""
    chain = opened()
    _, kind, body = proof(1)

    assert chain.refused((f"hospital-1.{role}", kind, body)) == "access.role"


def test_revoked_trainer_is_refused() -> None:
    """A trainer whose own organisation has revoked it submits nothing more."""
    chain = opened()
    chain.applied(
        [
            (
                "hospital-1.admin",
                "member.standing",
                SetStanding("hospital-1.trainer", Standing.REVOKED),
            )
        ]
    )

    assert chain.refused(proof(1)) == "access.standing"


def five_with_four_sites() -> Chain:
    """A network of five hospitals of which the first four train."""
    chain = Chain(program(), 5)
    chain.applied([*(dataset(n) for n in (1, 2, 3, 4)), model(), opening(), *approvals()])
    return chain


def test_a_decline_ends_the_waiting_for_a_site() -> None:
    """Its organisation says why, and the round goes on with the others at once."""
    chain = opened()
    chain.applied([*(proof(n) for n in (1, 2, 3)), *commits()])
    assert chain.get(Round, TASK, 1).phase is RoundPhase.SUBMIT

    chain.applied([decline(4)])

    assert chain.get(Round, TASK, 1).phase is RoundPhase.VERDICT
    assert chain.get(Decline, TASK, 1, "hospital-4").code == "site.maintenance"


def test_too_many_declines_fail_the_round_without_waiting_for_verifiers() -> None:
    """Two updates of three that are needed: nobody will judge them."""
    chain = opened()

    chain.applied([proof(1), proof(2), decline(3), decline(4)])

    failed = chain.get(Round, TASK, 1)
    assert (failed.phase, failed.code) == (RoundPhase.FAILED, "round.too_few_updates")
    assert [item.status.value for item in failed.outcomes] == [
        *("undecided", "undecided", "declined", "declined")
    ]
    assert failed.outcomes[2].reason == "the scanner is being moved"


def test_a_site_speaks_once_in_a_round() -> None:
    """An update after a decline, a decline after an update, and either twice are refused."""
    chain = opened()
    chain.applied([decline(1), proof(2)])

    codes = [chain.refused(item) for item in (proof(1), decline(1), decline(2), proof(2))]

    assert codes == ["update.declined", "update.declined", "update.duplicate", "update.duplicate"]


def test_a_trainer_declines_for_its_own_site_while_updates_come() -> None:
    """Neither a stranger nor one who is late ends anybody's waiting."""
    chain = five_with_four_sites()
    assert chain.refused(decline(5)) == "update.trainer"
    submitted(chain)

    assert chain.refused(decline(1)) == "round.phase"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"accepted": bytes(32)}, "aggregate.accepted"),
        ({"result_bytes": 11}, "blob.bytes"),
        ({"result_bytes": 12 + 256 * 1024 + 1}, "blob.bytes"),
        ({"round": 2}, "state.missing"),
    ],
)
def test_aggregate_is_refused(changes: dict[str, Any], code: str) -> None:
    """An aggregate of other updates, or of a size that weights cannot have, fails."""
    chain = settled(submitted(opened()))

    found = chain.refused(aggregate(chain, 1, **changes))

    assert found == code
    assert chain.get(Round, TASK, 1).attestations == ()


def test_validator_may_not_change_its_mind() -> None:
    """The first aggregate stands, also after the round has closed."""
    chain = settled(submitted(opened()))
    chain.applied([aggregate(chain, 1)])
    assert chain.refused(aggregate(chain, 1)) == "aggregate.duplicate"
    chain.applied([aggregate(chain, 2), aggregate(chain, 3)])

    late = chain.refused(aggregate(chain, 2, result=address("other")))

    assert late == "aggregate.duplicate"


def test_aggregate_before_verdicts_is_refused() -> None:
    """No validator may state an aggregate of updates that are still being judged."""
    chain = submitted(opened())
    later = settled(submitted(opened()))

    refused = chain.refused(aggregate(later, 1))

    assert refused == "round.phase"


def test_aggregate_of_a_failed_round_is_refused() -> None:
    """A round that has failed stays failed."""
    chain = settled(submitted(opened()))
    item = aggregate(chain, 1)
    chain.applied(time_ms=chain.get(Round, TASK, 1).deadline_ms)

    assert chain.refused(item) == "round.phase"


def rule(chain: Chain, seats: tuple[Validator, ...]) -> None:
    """Let these seats rule the chain from its next block on."""
    state = chain.state
    state.put(replace(chain.epoch, validators=ValidatorSet(seats)))
    chain.stored |= state.writes


def test_unseated_validator_is_refused_and_its_aggregates_no_longer_count() -> None:
    """The set of the block's height decides who attests: an earlier seat counts for nothing."""
    chain = settled(submitted(five_with_four_sites()))
    chain.applied([aggregate(chain, n) for n in (1, 2)])
    rule(chain, chain.validators.validators[1:])

    assert chain.refused(aggregate(chain, 1)) == "aggregate.validator"
    chain.applied([aggregate(chain, 3)])
    assert chain.get(ModelHead, MODEL).version == 0
    chain.applied([aggregate(chain, 4)])

    assert chain.get(ModelHead, MODEL).version == 1
    attested = [item.validator for item in chain.get(Round, TASK, 1).attestations]
    assert attested == [f"{organisation(n)}.validator" for n in (2, 3, 4)]


def test_suspended_validator_s_aggregate_no_longer_counts_and_none_is_waited_for() -> None:
    """It counts in n, so four of five must be equal; the one that differs leaves only three."""
    chain = settled(submitted(five_with_four_sites()))
    chain.applied([aggregate(chain, n) for n in (1, 2)])
    first, *rest = chain.validators.validators
    rule(chain, (replace(first, suspended=True), *rest))

    chain.applied([aggregate(chain, 3)])
    chain.applied([aggregate(chain, 4, result=address("other"))])

    assert chain.get(Round, TASK, 1).phase is RoundPhase.FAILED


def test_repeated_transaction_counts_once() -> None:
    """A replayed update is skipped without a receipt: the same bytes do not count twice."""
    chain = opened()
    signed = chain.sign(proof(1))

    assert chain.execute([signed]) == ["applied"]
    assert chain.execute([signed]) == []
    assert chain.get(Round, TASK, 1).updates == 1
