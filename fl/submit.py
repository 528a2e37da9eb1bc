"""What trainers and validators send into a round: updates or none, and aggregates.

Each handler is a list of numbered checks, then one record, then the transition that it completes.
"""

from dataclasses import replace

from fl.approval import require_approval
from fl.body import Aggregate, DeclineRound, ProofOfLearning
from fl.rounds import advance, count_aggregates, in_phase
from fl.spec import check_blob_bytes, parameter_count
from fl.trace import segments_due
from vm.execute import Context
from vm.learning import (
    Attestation,
    Decline,
    Round,
    RoundPhase,
    Task,
    TrainingPart,
    Update,
    UpdateStatus,
)
from vm.record import PARTICIPANTS_MAX, Dataset, Model
from vm.refusal import Refused
from vm.state import State
from vm.terms import Evidence, ServerOptimizer, Site, Terms

COORDINATE_MAX = 2**31  # size of an update's coordinate in grid units
EVIDENCE_ORDER = (Evidence.SCORED, Evidence.COMMITTED, Evidence.REPLAYED)  # weakest first


def submit_proof(state: State, context: Context, body: ProofOfLearning) -> None:
    """Take a trainer's update into the round."""
    # 1. the round takes submissions
    rnd = in_phase(state, context.block, body.task, body.round, RoundPhase.SUBMIT)
    task = state.require(Task, body.task)
    terms = task.terms
    # 2. the sender trains for a site of the task, which has not spoken in this round
    site = _site_of_trainer(state, task, rnd, context.sender.id)
    # 3. the site has approved the task
    require_approval(state, task, site)
    # 4. it was trained from the round's base on the dataset that the task fixes
    if body.dataset != site.dataset:
        raise Refused("update.dataset", f"expected {site.dataset}, found {body.dataset}")
    if body.base_version != rnd.base_version:
        raise Refused("update.base", f"expected {rnd.base_version}, found {body.base_version}")
    # 5. as many segments as the task's steps make, or 1 of class scored
    segments = segments_due(terms.training, body.evidence)
    if body.segments != segments:
        raise Refused("update.segments", f"expected {segments} segments, found {body.segments}")
    # 6. evidence that the task takes and the hospital permits
    _check_evidence(body.evidence, terms, state.require(Dataset, site.dataset))
    _check_loop(body, terms)
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
            loop=body.loop,
            transaction=context.transaction,
            height=context.block.height,
            status=UpdateStatus.SUBMITTED,
            audits_passed=0,
            audits_failed=0,
            audits_unavailable=0,
        )
    )
    advance(state, context.block, task, replace(rnd, updates=rnd.updates + 1))


def decline_round(state: State, context: Context, body: DeclineRound) -> None:
    """Take a trainer's word that its site sends no update, so that nobody waits for it."""
    # 1. the round takes submissions
    rnd = in_phase(state, context.block, body.task, body.round, RoundPhase.SUBMIT)
    task = state.require(Task, body.task)
    # 2. the sender trains for a site of the task, which has not spoken in this round
    site = _site_of_trainer(state, task, rnd, context.sender.id)
    state.put(
        Decline(
            task=task.id,
            round=rnd.number,
            organisation=site.organisation,
            trainer=site.trainer,
            code=body.code,
            reason=body.reason,
            transaction=context.transaction,
            height=context.block.height,
        )
    )
    advance(state, context.block, task, replace(rnd, declined=rnd.declined + 1))


def _site_of_trainer(state: State, task: Task, rnd: Round, sender: str) -> Site:
    """The site that `sender` trains for; its first word in a round stands."""
    site = next((site for site in task.terms.sites if site.trainer == sender), None)
    if site is None:
        raise Refused("update.trainer", f"expected a trainer of task {task.id}, found {sender}")
    key = (task.id, rnd.number, site.organisation)
    if state.get(Update, *key) is not None:
        raise Refused(
            "update.duplicate",
            f"expected one update of {site.organisation} in round {rnd.number}, found another",
        )
    if state.get(Decline, *key) is not None:
        raise Refused(
            "update.declined",
            f"expected a site that takes part in round {rnd.number}, found that "
            f"{site.organisation} declined",
        )
    return site


def submit_aggregate(state: State, context: Context, body: Aggregate) -> None:
    """Take a validator's aggregate; a quorum of equal ones closes the round.

    One that comes after the quorum is kept too: it says that one more validator stores the blobs.
    """
    block = context.block
    # 1. the round takes aggregates, or a quorum has closed it
    rnd = in_phase(state, block, body.task, body.round, RoundPhase.AGGREGATE, RoundPhase.CLOSED)
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
    # 6. a state of the server's optimizer if it keeps one
    keeps = task.terms.aggregation.server.optimizer is not ServerOptimizer.AVERAGE
    if (body.state is not None) is not keeps:
        raise Refused(
            "aggregate.state",
            f"expected {'a' if keeps else 'no'} state of the server's optimizer, "
            f"found {'none' if body.state is None else 'one'}",
        )
    attestation = Attestation(
        context.sender.id, body.accepted, body.result, body.result_bytes, body.state
    )
    rnd = replace(rnd, attestations=(*attestations, attestation))
    state.put(rnd)
    if rnd.phase is RoundPhase.AGGREGATE:
        count_aggregates(state, block, task, rnd)


def _check_loop(body: ProofOfLearning, terms: Terms) -> None:
    """A trace of another recipe than the task's says so, where the task takes such ones."""
    allowed = body.evidence is Evidence.SCORED or (
        terms.own_loops and body.evidence is Evidence.COMMITTED
    )
    if body.loop is not None and not allowed:
        raise Refused(
            "update.loop",
            f"expected an update of class {body.evidence.value} trained by the task's own recipe, "
            "found one of the site's own loop",
        )


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
