"""What is said of a trace after its round: an auditor's attestation, and a steward's decision.

Class committed is answered to an auditor of another organisation at the hospital's own machine; the
attestation trusts that machine. A failed one marks the model that the update reached.
"""

from dataclasses import replace

from fl.body import AdmitAuditor, AttestAudit, DecideModel
from fl.reputation import count_audit
from vm.conduct import Audit, AuditOutcome, MarkDecision, ModelMark, Visit
from vm.execute import Context
from vm.learning import (
    Round,
    RoundPhase,
    Task,
    Update,
    UpdateStatus,
)
from vm.record import Member, Model, Role, Standing
from vm.refusal import Refused
from vm.state import State
from vm.terms import Evidence

EXPIRED = "audit.expired"  # the code of an audit after the trace's retention


def admit_auditor(state: State, context: Context, body: AdmitAuditor) -> None:
    """Record that a hospital has let an auditor at the trace of its update.

    Visits add up and are never taken back, whatever an auditor has found by then.
    """
    trainer = context.sender
    # 1. the sender's organisation sent the update, into a round that has ended
    update = state.require(Update, body.task, body.round, trainer.organisation)
    _ended(state, body.task, body.round)
    # 2. the auditor is one of another organisation, and was not let in before
    auditor = state.require(Member, body.auditor)
    if (auditor.role, auditor.standing) != (Role.AUDITOR, Standing.ENROLLED):
        raise Refused(
            "visit.auditor",
            f"expected an enrolled auditor, found {auditor.id} {auditor.standing.value} as "
            f"{auditor.role.value}",
        )
    _check_foreign(auditor, update)
    if state.get(Visit, *update.key, auditor.id) is not None:
        raise Refused(
            "visit.duplicate",
            f"expected one visit of {auditor.id} to {update.organisation}'s update, found another",
        )
    state.put(
        Visit(
            task=body.task,
            round=body.round,
            organisation=update.organisation,
            auditor_organisation=auditor.organisation,
            auditor=auditor.id,
            trainer=trainer.id,
            transaction=context.transaction,
            height=context.block.height,
            time_ms=context.block.time_ms,
            blind=context.blind(Visit, *update.key, auditor.id),
        )
    )


def attest_audit(state: State, context: Context, body: AttestAudit) -> None:
    """Record what an audit of an update's trace came to."""
    # 1. the round has ended, and the organisation sent an update into it
    rnd = _ended(state, body.task, body.round)
    update = state.require(Update, body.task, body.round, body.organisation)
    # 2. the auditor is of another organisation
    auditor = context.sender
    _check_foreign(auditor, update)
    # 3. one attestation of an auditor's organisation on an update; the first stands, but one that
    # found nothing to look at gives way to one that replayed
    replayed = body.outcome is not AuditOutcome.UNAVAILABLE
    before = state.get(Audit, *update.key, auditor.organisation)
    gives_way = before is not None and before.outcome is AuditOutcome.UNAVAILABLE and replayed
    if before is not None and not gives_way:
        raise Refused(
            "audit.duplicate",
            f"expected one audit of {update.organisation}'s update by {auditor.organisation}, "
            f"found one that it {before.outcome.value}",
        )
    # 4. the update has a trace
    if update.evidence is Evidence.SCORED:
        raise Refused("audit.evidence", "expected an update with a trace, found a scored one")
    # 5. segments were replayed, no more than there are, unless the trace was not to be had
    if replayed != (body.segments > 0) or body.segments > update.segments:
        raise Refused(
            "audit.segments",
            f"expected 1 to {update.segments} segments replayed, or none of an unavailable trace, "
            f"found {body.segments} of one that {body.outcome.value}",
        )
    # 6. who says that it replayed was let in by the hospital, before either knew the outcome
    visit = state.get(Visit, *update.key, auditor.id)
    if replayed and visit is None:
        raise Refused(
            "audit.visit",
            f"expected a visit of {auditor.id} that {update.trainer} has signed, found none: "
            "who was not let in attests that the trace is unavailable",
        )
    # 7. the auditor came while the trace had to be kept; later that is why there is none
    task = state.require(Task, body.task)
    until_ms = rnd.deadline_ms + task.terms.trace_retention_ms
    came_ms = context.block.time_ms if visit is None else visit.time_ms
    if (came_ms > until_ms) != (body.code == EXPIRED) or (came_ms > until_ms and replayed):
        raise Refused(
            "audit.expired",
            f"expected an auditor who came until {until_ms} ms, when the trace may go, or else one "
            f"who finds it unavailable with code {EXPIRED}, found {body.outcome.value} with code "
            f"{body.code} of one who came at {came_ms} ms",
        )
    state.put(
        Audit(
            task=body.task,
            round=body.round,
            organisation=update.organisation,
            auditor_organisation=auditor.organisation,
            auditor=auditor.id,
            outcome=body.outcome,
            code=body.code,
            reason=body.reason,
            segments=body.segments,
            transaction=context.transaction,
            height=context.block.height,
            blind=context.blind(Audit, *update.key, auditor.organisation),
        )
    )
    if gives_way:
        update = replace(update, audits_unavailable=update.audits_unavailable - 1)
    state.put(_audited(update, body.outcome))
    count_audit(state, update.organisation, body.outcome)
    if body.outcome is AuditOutcome.FAILED and update.status is UpdateStatus.ACCEPTED:
        _mark(state, context, task, rnd, update)


def _ended(state: State, task: str, number: int) -> Round:
    rnd = state.require(Round, task, number)
    if rnd.phase not in (RoundPhase.CLOSED, RoundPhase.FAILED):
        raise Refused("audit.round", f"expected a round that ended, found {rnd.phase.value}")
    return rnd


def _check_foreign(auditor: Member, update: Update) -> None:
    if auditor.organisation == update.organisation:
        raise Refused(
            "audit.own", f"expected an auditor of another organisation than {update.organisation}"
        )


def _audited(update: Update, outcome: AuditOutcome) -> Update:
    match outcome:
        case AuditOutcome.PASSED:
            return replace(update, audits_passed=update.audits_passed + 1)
        case AuditOutcome.FAILED:
            return replace(update, audits_failed=update.audits_failed + 1)
        case AuditOutcome.UNAVAILABLE:
            return replace(update, audits_unavailable=update.audits_unavailable + 1)


def _mark(state: State, context: Context, task: Task, rnd: Round, update: Update) -> None:
    """Mark every version that the update reached: the one that its round made, and all later."""
    if rnd.model_version is None:
        return  # the round failed, and the update went nowhere
    before = state.get(ModelMark, task.terms.model)
    first = rnd.model_version if before is None else min(before.version, rnd.model_version)
    if before is not None and before.decision is MarkDecision.WITHDRAWN:
        state.put(replace(before, version=first))  # given up already, for good
        return
    state.put(
        ModelMark(
            model=task.terms.model,
            version=first,
            task=task.id,
            round=rnd.number,
            organisation=update.organisation,
            auditor_organisation=context.sender.organisation,
            decision=MarkDecision.OPEN,
            steward=None,
            reason="",
        )
    )


def decide_model(state: State, context: Context, body: DecideModel) -> None:
    """Record what becomes of a marked model."""
    # 1. the model is marked, and nobody has decided since
    mark = state.require(ModelMark, body.model)
    if mark.decision is not MarkDecision.OPEN:
        raise Refused("mark.decided", f"expected an open mark, found it {mark.decision.value}")
    # 2. the sender is a steward of the model's organisation
    owner = state.require(Model, body.model, 0).organisation
    if context.sender.organisation != owner:
        raise Refused(
            "mark.owner",
            f"expected a steward of {owner}, whose model it is, "
            f"found one of {context.sender.organisation}",
        )
    # 3. something is decided
    if body.decision is MarkDecision.OPEN:
        raise Refused("mark.decision", "expected the model kept or withdrawn, found it left open")
    state.put(replace(mark, decision=body.decision, steward=context.sender.id, reason=body.reason))
