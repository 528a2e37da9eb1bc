"""What members send into a round: updates by trainers, verdicts by verifiers, aggregates.

Each handler is a list of numbered checks, then one record, then the transition that it completes.
"""

from dataclasses import replace

from fl.body import Aggregate, ProofOfLearning, SubmitVerdict
from fl.rounds import count_aggregates, end_submissions, end_verdicts
from fl.settle import SCORE_STEP_BP, eligible_verifiers
from fl.spec import check_blob_bytes, parameter_count
from fl.trace import segment_count
from vm.execute import BlockContext, Context
from vm.learning import (
    Attestation,
    Decision,
    Round,
    RoundPhase,
    Task,
    TrainingPart,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.record import PARTICIPANTS_MAX, Dataset, Model
from vm.refusal import Refused
from vm.state import State
from vm.terms import Evidence, Terms

COORDINATE_MAX = 2**31  # size of an update's coordinate in grid units
EVIDENCE_ORDER = (Evidence.SCORED, Evidence.COMMITTED, Evidence.REPLAYED)  # weakest first


def submit_proof(state: State, context: Context, body: ProofOfLearning) -> None:
    """Take a trainer's update into the round."""
    # 1. the round takes submissions
    rnd = _in_phase(state, context.block, body.task, body.round, RoundPhase.SUBMIT)
    task = state.require(Task, body.task)
    terms = task.terms
    # 2. the sender trains for a site of the task
    site = next((site for site in terms.sites if site.trainer == context.sender.id), None)
    if site is None:
        raise Refused(
            "update.trainer", f"expected a trainer of task {task.id}, found {context.sender.id}"
        )
    # 3. one update per organisation; the first stands
    if state.get(Update, task.id, rnd.number, site.organisation) is not None:
        raise Refused(
            "update.duplicate",
            f"expected one update of {site.organisation} in round {rnd.number}, found another",
        )
    # 4. it was trained from the round's base on the dataset that the task fixes
    if body.dataset != site.dataset:
        raise Refused("update.dataset", f"expected {site.dataset}, found {body.dataset}")
    if body.base_version != rnd.base_version:
        raise Refused("update.base", f"expected {rnd.base_version}, found {body.base_version}")
    # 5. as many segments as the task's steps make
    segments = segment_count(terms.training)
    if body.segments != segments:
        raise Refused("update.segments", f"expected {segments} segments, found {body.segments}")
    # 6. evidence that the task takes and the hospital permits
    _check_evidence(body.evidence, terms, state.require(Dataset, site.dataset))
    # 7. the rows that the organisation has trained on in this task from its first update on
    part = state.get(TrainingPart, task.id, site.organisation)
    if part is not None and part.data != body.data:
        raise Refused(
            "update.data",
            f"expected the training rows of its first update, {part.data.hex()}, found others",
        )
    # 8. a size and a norm that an update of this model can have
    spec = state.require(Model, terms.model, rnd.base_version).spec
    check_blob_bytes(spec, body.blob_bytes)
    if body.norm**2 > parameter_count(spec) * COORDINATE_MAX**2:
        raise Refused("update.norm", f"expected a norm of int32 coordinates, found {body.norm}")
    state.put(TrainingPart(task.id, site.organisation, body.data))
    state.put(
        Update(
            task=task.id,
            round=rnd.number,
            organisation=site.organisation,
            trainer=site.trainer,
            dataset=site.dataset,
            base_version=rnd.base_version,
            blob=body.blob,
            blob_bytes=body.blob_bytes,
            norm=body.norm,
            trace=body.trace,
            segments=body.segments,
            data=body.data,
            evidence=body.evidence,
            transaction=context.transaction,
            height=context.block.height,
            status=UpdateStatus.SUBMITTED,
            audits_passed=0,
            audits_failed=0,
            audits_unavailable=0,
        )
    )
    rnd = replace(rnd, updates=rnd.updates + 1)
    state.put(rnd)
    if rnd.updates == len(terms.sites):
        end_submissions(state, context.block, task, rnd)


def submit_verdict(state: State, context: Context, body: SubmitVerdict) -> None:
    """Take a verifier's judgement of one update."""
    # 1. the round takes verdicts
    rnd = _in_phase(state, context.block, body.task, body.round, RoundPhase.VERDICT)
    task = state.require(Task, body.task)
    # 2. the sender verifies for a site of the task
    site = next((site for site in task.terms.sites if site.verifier == context.sender.id), None)
    if site is None:
        raise Refused(
            "verdict.verifier", f"expected a verifier of task {task.id}, found {context.sender.id}"
        )
    # 3. nobody judges the update of their own organisation
    if body.organisation == site.organisation:
        raise Refused(
            "verdict.own",
            f"expected another organisation's update, found {site.organisation}'s own",
        )
    # 4. it names the update that stands
    update = state.require(Update, task.id, rnd.number, body.organisation)
    if body.update != update.transaction:
        raise Refused(
            "verdict.update",
            f"expected update {update.transaction.hex()}, found {body.update.hex()}",
        )
    # 5. one verdict per update and verifier; the first stands
    if state.get(Verdict, *update.key, site.organisation) is not None:
        raise Refused(
            "verdict.duplicate",
            f"expected one verdict of {context.sender.id} on {body.organisation}, found another",
        )
    # 6. a segment is named only where one failed, and it is one of the update's
    if body.segment is not None and (
        body.decision is not Decision.FAIL or body.segment >= update.segments
    ):
        raise Refused(
            "verdict.segment",
            f"expected a segment below {update.segments} in a fail only, "
            f"found {body.segment} in a {body.decision.value}",
        )
    # 7. a score comes with a pass only, and is coarse
    if body.score_bp is not None and (
        body.decision is not Decision.PASS or body.score_bp % SCORE_STEP_BP
    ):
        raise Refused(
            "verdict.score",
            f"expected a multiple of {SCORE_STEP_BP} in a pass only, "
            f"found {body.score_bp} in a {body.decision.value}",
        )
    state.put(
        Verdict(
            task=task.id,
            round=rnd.number,
            organisation=body.organisation,
            verifier=site.verifier,
            verifier_organisation=site.organisation,
            decision=body.decision,
            code=body.code,
            reason=body.reason,
            segment=body.segment,
            score_bp=body.score_bp,
            contribution_bp=None,
            rerun=False,
            transaction=context.transaction,
            height=context.block.height,
        )
    )
    rnd = replace(rnd, verdicts=rnd.verdicts + 1)
    state.put(rnd)
    if rnd.verdicts == rnd.updates * eligible_verifiers(task.terms):
        end_verdicts(state, context.block, task, rnd)


def submit_aggregate(state: State, context: Context, body: Aggregate) -> None:
    """Take a validator's aggregate; a quorum of equal ones closes the round.

    One that comes after the quorum is kept too: it says that one more validator stores the blobs.
    """
    block = context.block
    # 1. the round takes aggregates, or a quorum has closed it
    rnd = _in_phase(state, block, body.task, body.round, RoundPhase.AGGREGATE, RoundPhase.CLOSED)
    task = state.require(Task, body.task)
    # 2. the sender holds a seat now, and it is not suspended
    if not block.validators.votes(context.sender.id):
        raise Refused(
            "aggregate.validator", f"expected a seat that may vote, found {context.sender.id}"
        )
    # 3. one per validator, who may not change its mind; those that closed a round stay in it
    attestations = rnd.attestations
    if rnd.phase is RoundPhase.AGGREGATE:
        votes = block.validators.votes
        attestations = tuple(item for item in attestations if votes(item.validator))
    if any(item.validator == context.sender.id for item in attestations):
        raise Refused(
            "aggregate.duplicate",
            f"expected one aggregate of {context.sender.id} in round {rnd.number}, found another",
        )
    if len(attestations) >= PARTICIPANTS_MAX:
        raise Refused(
            "aggregate.full",
            f"expected fewer than {PARTICIPANTS_MAX} aggregates in round {rnd.number}, "
            "found as many",
        )
    # 4. it aggregates the updates that were accepted
    assert rnd.accepted is not None, "a round takes aggregates only with an accepted set"
    if body.accepted != rnd.accepted:
        raise Refused(
            "aggregate.accepted",
            f"expected {rnd.accepted.hex()}, found {body.accepted.hex()}",
        )
    # 5. a size that weights of this model can have
    check_blob_bytes(
        state.require(Model, task.terms.model, rnd.base_version).spec, body.result_bytes
    )
    attestation = Attestation(
        context.sender.id, body.accepted, body.result, body.result_bytes, body.state
    )
    rnd = replace(rnd, attestations=(*attestations, attestation))
    state.put(rnd)
    if rnd.phase is RoundPhase.AGGREGATE:
        count_aggregates(state, block, task, rnd)


def _in_phase(
    state: State, block: BlockContext, task: str, number: int, *phases: RoundPhase
) -> Round:
    rnd = state.require(Round, task, number)
    if rnd.phase not in phases:
        raise Refused(
            "round.phase",
            f"expected round {number} of {task} in phase {phases[0].value}, "
            f"found {rnd.phase.value}",
        )
    ended = rnd.phase in (RoundPhase.CLOSED, RoundPhase.FAILED)
    assert ended or block.time_ms < rnd.deadline_ms, "`due` runs before the transactions"
    return rnd


def _check_evidence(found: Evidence, terms: Terms, dataset: Dataset) -> None:
    if EVIDENCE_ORDER.index(found) < EVIDENCE_ORDER.index(terms.evidence):
        raise Refused(
            "update.evidence", f"expected at least {terms.evidence.value}, found {found.value}"
        )
    if found is Evidence.REPLAYED and not dataset.opening:
        raise Refused(
            "update.opening",
            f"expected evidence below replayed, as {dataset.id} permits no opening, found replayed",
        )
