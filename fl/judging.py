"""What verifiers send into a round: a commitment, a seal, the judgements, and what a rerun changes.

In this order, each once: nobody's judgement can follow from another's, and nobody can choose what
it looks at (`fl.challenge`). Each handler is a list of numbered checks, then what it writes.
"""

from dataclasses import replace

from fl.approval import require_approval
from fl.body import CommitSecret, Judged, RerunVerdict, RevealVerdicts, SealVerdicts
from fl.challenge import commitment, seal
from fl.rounds import advance, in_phase, verdicts_on
from fl.scores import reservable, scores_in
from fl.settle import SCORE_STEP_BP, named_segments
from vm.execute import Context
from vm.learning import (
    Commitment,
    Decision,
    Holdout,
    Round,
    RoundPhase,
    Task,
    Update,
    Verdict,
)
from vm.record import Dataset
from vm.refusal import Refused
from vm.shape import pack
from vm.state import State
from vm.terms import Evidence, Site, Terms, Valuation


def commit_secret(state: State, context: Context, body: CommitSecret) -> None:
    """Bind a verifier to its secret of a round, while updates still come."""
    # 1. the round takes submissions
    rnd = in_phase(state, context.block, body.task, body.round, RoundPhase.SUBMIT)
    task = state.require(Task, body.task)
    # 2. the sender verifies for a site of the task
    site = _site_of_verifier(task, context.sender.id)
    # 3. the site has approved the task
    require_approval(state, task, site)
    # 4. one commitment of each; the first stands
    if state.get(Commitment, task.id, rnd.number, site.organisation) is not None:
        raise Refused(
            "commitment.duplicate",
            f"expected one commitment of {site.verifier} in round {rnd.number}, found another",
        )
    state.put(
        Commitment(
            task=task.id,
            round=rnd.number,
            organisation=site.organisation,
            verifier=site.verifier,
            commitment=body.commitment,
            seal=None,
            scores=0,
            secret=None,
        )
    )
    advance(state, context.block, task, replace(rnd, committed=rnd.committed + 1))


def seal_verdicts(state: State, context: Context, body: SealVerdicts) -> None:
    """Bind a verifier to its judgements, before anybody's are known."""
    # 1. the round is in phase verdict
    rnd = in_phase(state, context.block, body.task, body.round, RoundPhase.VERDICT)
    task = state.require(Task, body.task)
    # 2. the sender verifies for a site of the task, and has committed to a secret
    found = _commitment(state, task, rnd, context.sender.id)
    # 3. one seal of each; the first stands
    if found.seal is not None:
        raise Refused(
            "seal.duplicate",
            f"expected one seal of {found.verifier} in round {rnd.number}, found another",
        )
    # 4. it publishes none, or at most one or two scores for each update, whatever it found of them
    others = len(_updates_of_others(state, task, rnd, found.organisation))
    if body.scores not in reservable(task.terms, others):
        raise Refused(
            "seal.scores",
            f"expected one of {list(reservable(task.terms, others))} scores of {others} updates, "
            f"found {body.scores}",
        )
    # 5. its dataset's budget has room for them
    _reserve(state, task, found.organisation, body.scores)
    state.put(replace(found, seal=body.seal, scores=body.scores))
    advance(state, context.block, task, replace(rnd, sealed=rnd.sealed + 1))


def reveal_verdicts(state: State, context: Context, body: RevealVerdicts) -> None:
    """Take a verifier's secret and judgements, if they are the ones that bind it."""
    # 1. the round is in phase reveal
    rnd = in_phase(state, context.block, body.task, body.round, RoundPhase.REVEAL)
    task = state.require(Task, body.task)
    # 2. the sender verifies for a site of the task, and has committed to a secret
    found = _commitment(state, task, rnd, context.sender.id)
    # 3. one reveal of each
    if found.secret is not None:
        raise Refused(
            "verdict.duplicate",
            f"expected one reveal of {found.verifier} in round {rnd.number}, found another",
        )
    # 4. the secret is the one that it committed to
    key = (task.id, rnd.number, found.verifier)
    if commitment(*key, body.secret) != found.commitment:
        raise Refused("verdict.secret", "expected the secret that was committed to, found another")
    # 5. the judgements are the ones that it sealed
    if seal(*key, body.secret, [pack(item) for item in body.judgements]) != found.seal:
        raise Refused("verdict.seal", "expected the judgements that were sealed, found others")
    # 6. they are one on each update of the others, none on its own, in order of sites
    updates = _updates_of_others(state, task, rnd, found.organisation)
    expected = [(update.organisation, update.transaction) for update in updates]
    if [(item.organisation, item.update) for item in body.judgements] != expected:
        raise Refused(
            "verdict.updates",
            f"expected judgements of the {len(expected)} updates of others in order of sites, "
            f"found {len(body.judgements)} that are not these",
        )
    # 7. each is sound in itself
    for update, item in zip(updates, body.judgements, strict=True):
        _check_judgement(task.terms, update, item)
        _check_near(state, task, rnd, item)
    # 8. they publish no more scores than the seal has reserved
    if scores_in(body.judgements) > found.scores:
        raise Refused(
            "verdict.scores",
            f"expected at most the {found.scores} scores that were reserved, "
            f"found {scores_in(body.judgements)}",
        )
    state.put(replace(found, secret=body.secret))
    for item in body.judgements:
        state.put(_verdict(context, rnd, found, item))
    rnd = replace(rnd, revealed=rnd.revealed + 1, verdicts=rnd.verdicts + len(body.judgements))
    advance(state, context.block, task, rnd)


def rerun_verdict(state: State, context: Context, body: RerunVerdict) -> None:
    """Take what a verifier says after it has re-run the segments that others had failed.

    It knows the others' verdicts by now, so it may say again what it said or fail what was named;
    who could pass what it had abstained from would vote with the majority and look at nothing.
    """
    # 1. the round is in phase rerun
    rnd = in_phase(state, context.block, body.task, body.round, RoundPhase.RERUN)
    task = state.require(Task, body.task)
    # 2. the sender verifies for a site of the task
    site = _site_of_verifier(task, context.sender.id)
    # 3. it names the update that stands, whose segments others can run
    update = state.require(Update, task.id, rnd.number, body.organisation)
    if body.update != update.transaction or update.evidence is not Evidence.REPLAYED:
        raise Refused(
            "rerun.update", f"expected the replayed update of {body.organisation}, found another"
        )
    # 4. it has judged the update, saw no fail, and has not re-run it yet
    earlier = state.require(Verdict, *update.key, site.organisation)
    if earlier.decision is Decision.FAIL or earlier.rerun:
        raise Refused(
            "rerun.verdict",
            f"expected a verdict of {site.verifier} that is no fail and was not re-run, "
            "found one that is or was",
        )
    # 5. others have failed segments of it; what it says now is the same, or fails one of these
    named = named_segments(verdicts_on(state, task, update))
    same = body.decision is earlier.decision and body.segment is None and named != ()
    if not same and not (body.decision is Decision.FAIL and body.segment in named):
        raise Refused(
            "rerun.decision",
            f"expected {earlier.decision.value} again or a fail of one of the segments "
            f"{list(named)}, found {body.decision.value} of {body.segment}",
        )
    state.put(
        replace(
            earlier,
            decision=body.decision,
            code=body.code,
            reason=body.reason,
            segment=body.segment,
            score_bp=earlier.score_bp if same else None,
            contribution_bp=earlier.contribution_bp if same else None,
            rerun=True,
            transaction=context.transaction,
            height=context.block.height,
            blind=context.blind(Verdict, *earlier.key, before=earlier.blind),
        )
    )
    advance(state, context.block, task, replace(rnd, reruns=rnd.reruns - 1))


def _site_of_verifier(task: Task, sender: str) -> Site:
    site = next((site for site in task.terms.sites if site.verifier == sender), None)
    if site is None:
        raise Refused("verdict.verifier", f"expected a verifier of task {task.id}, found {sender}")
    return site


def _commitment(state: State, task: Task, rnd: Round, sender: str) -> Commitment:
    site = _site_of_verifier(task, sender)
    found = state.get(Commitment, task.id, rnd.number, site.organisation)
    if found is None:
        raise Refused(
            "commitment.missing",
            f"expected a secret that {sender} committed to while updates came, found none: "
            f"it has no part in the verdicts of round {rnd.number}",
        )
    return found


def _updates_of_others(state: State, task: Task, rnd: Round, organisation: str) -> list[Update]:
    """The updates that an organisation's verifier judges, in order of sites."""
    found = (
        state.get(Update, task.id, rnd.number, site.organisation)
        for site in task.terms.sites
        if site.organisation != organisation
    )
    return [update for update in found if update is not None]


def _check_judgement(terms: Terms, update: Update, item: Judged) -> None:
    decision = item.decision.value
    # a segment is named only where one failed, and it is one of the update's
    if item.segment is not None and (
        item.decision is not Decision.FAIL or item.segment >= update.segments
    ):
        raise Refused(
            "verdict.segment",
            f"expected a segment below {update.segments} in a fail only, "
            f"found {item.segment} in a {decision}",
        )
    # a score comes with a pass only, and is coarse
    if item.score_bp is not None and (
        item.decision is not Decision.PASS or item.score_bp % SCORE_STEP_BP
    ):
        raise Refused(
            "verdict.score",
            f"expected a multiple of {SCORE_STEP_BP} in a pass only, "
            f"found {item.score_bp} in a {decision}",
        )
    # so does a contribution, where the task asks for one
    if item.contribution_bp is not None and (
        item.decision is not Decision.PASS
        or item.contribution_bp % SCORE_STEP_BP
        or terms.contribution is Valuation.NONE
    ):
        raise Refused(
            "verdict.contribution",
            f"expected a multiple of {SCORE_STEP_BP} in a pass only, where the task asks for "
            f"contributions, found {item.contribution_bp} in a {decision}",
        )


def _check_near(state: State, task: Task, rnd: Round, item: Judged) -> None:
    """What an update repeats is another one of the round."""
    if item.near is not None and (
        item.near == item.organisation or state.get(Update, task.id, rnd.number, item.near) is None
    ):
        raise Refused(
            "verdict.near",
            f"expected another organisation with an update in round {rnd.number}, "
            f"found {item.near}",
        )


def _reserve(state: State, task: Task, organisation: str, scores: int) -> None:
    """Count scores on the rows of `organisation`'s dataset, before anybody has seen them.

    Here and not when they are revealed: who is refused here may seal again without them. What is
    reserved and not published stays counted.
    """
    (dataset,) = (site.dataset for site in task.terms.sites if site.organisation == organisation)
    holdout = state.get(Holdout, dataset) or Holdout(dataset, 0)
    most = state.require(Dataset, dataset).scores_max
    if holdout.scores + scores > most:
        raise Refused(
            "seal.budget",
            f"expected at most {most - holdout.scores} more scores on {dataset}, whose budget is "
            f"{most}, found {scores}",
        )
    if scores:
        state.put(replace(holdout, scores=holdout.scores + scores))


def _verdict(context: Context, rnd: Round, by: Commitment, item: Judged) -> Verdict:
    return Verdict(
        task=rnd.task,
        round=rnd.number,
        organisation=item.organisation,
        verifier=by.verifier,
        verifier_organisation=by.organisation,
        decision=item.decision,
        code=item.code,
        reason=item.reason,
        segment=item.segment,
        score_bp=item.score_bp,
        contribution_bp=item.contribution_bp,
        near=item.near,
        rerun=False,
        transaction=context.transaction,
        height=context.block.height,
        blind=item.blind,
    )
