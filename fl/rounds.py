"""The life of a round: submissions, verdicts, aggregates, then closed or failed.

The handlers in `fl.submit` bring what members send; `due` runs at the start of each block and ends
the phases whose deadline has come. Every round ends in a stated outcome:

    SUBMIT ---all sites or deadline---> VERDICT ---all verdicts or deadline---> AGGREGATE
      | round.too_few_updates             | round.too_few_accepted                | quorum: CLOSED
      +-------------> FAILED <------------+----- round.results_differ, .no_quorum +

A closed round makes a model version; the next round opens in the same block, until the task's
number of closed rounds is reached. A failed round is followed by another on the same base;
FAILURES_MAX in a row fail the task and free the model.
"""

from collections import Counter
from dataclasses import replace

from fl.settle import (
    absent,
    accepted_digest,
    aggregation_weight,
    eligible_verifiers,
    lower_median,
    passing_score,
    settle,
    unjudged,
)
from vm import digest
from vm.encoding import encode
from vm.execute import BlockContext
from vm.learning import (
    FAILURES_MAX,
    OpenTasks,
    Outcome,
    Round,
    RoundPhase,
    Task,
    TaskPhase,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.record import Contribution, Model, ModelHead
from vm.state import State
from vm.terms import Site, Terms


def due(state: State, block: BlockContext) -> None:
    """End every phase whose deadline this block's time has reached."""
    for task, rnd in _open_rounds(state):
        if block.time_ms < rnd.deadline_ms:
            continue
        match rnd.phase:
            case RoundPhase.SUBMIT:
                end_submissions(state, block, task, rnd)
            case RoundPhase.VERDICT:
                end_verdicts(state, block, task, rnd)
            case RoundPhase.AGGREGATE:
                reason = f"{len(rnd.attestations)} aggregates came and no quorum was equal"
                _fail(state, block, task, rnd, "round.no_quorum", reason)
            case RoundPhase.REVEAL | RoundPhase.RERUN | RoundPhase.CLOSED | RoundPhase.FAILED:
                raise AssertionError(f"the newest round of open task {task.id} has ended")


def next_deadline(state: State) -> int | None:
    """When the earliest phase ends, in milliseconds UTC; an idle chain must make a block then."""
    return min((rnd.deadline_ms for _, rnd in _open_rounds(state)), default=None)


def _open_rounds(state: State) -> list[tuple[Task, Round]]:
    found = []
    for id in open_tasks(state).tasks:
        task = state.require(Task, id)
        found.append((task, state.require(Round, id, task.round)))
    return found


def open_tasks(state: State) -> OpenTasks:
    """The ids of open tasks, in the order in which they opened."""
    return state.get(OpenTasks) or OpenTasks(())


def start_round(state: State, block: BlockContext, task: Task) -> None:
    """Open the next round of `task`, whose record is written with it.

    The beacon comes from the header before this block: what a primary can still choose is the block
    in which a round opens, not the beacon itself.
    """
    number = task.round + 1
    state.put(replace(task, round=number))
    state.put(
        Round(
            task=task.id,
            number=number,
            phase=RoundPhase.SUBMIT,
            base_version=task.base_version + task.closed,
            beacon=digest.digest(digest.BEACON, encode((block.parent, task.id, number))),
            opened_height=block.height,
            opened_ms=block.time_ms,
            deadline_ms=block.time_ms + task.terms.submit_ms,
            seed=None,
            updates=0,
            declined=0,
            committed=0,
            sealed=0,
            revealed=0,
            verdicts=0,
            reruns=0,
            accepted=None,
            outcomes=(),
            attestations=(),
            score_bp=None,
            model_version=None,
            code="open",
            reason="",
        )
    )


def end_submissions(state: State, block: BlockContext, task: Task, rnd: Round) -> None:
    """Go on to verdicts with enough updates; fail the round with fewer."""
    if rnd.updates >= task.terms.aggregation.updates_min:
        deadline_ms = block.time_ms + task.terms.verdict_ms
        state.put(replace(rnd, phase=RoundPhase.VERDICT, deadline_ms=deadline_ms))
        return
    outcomes: list[Outcome] = []
    for site in task.terms.sites:
        update = state.get(Update, task.id, rnd.number, site.organisation)
        if update is not None:
            state.put(replace(update, status=UpdateStatus.UNDECIDED))
        outcomes.append(absent(site) if update is None else unjudged(update))
    rnd = replace(rnd, outcomes=tuple(outcomes))
    reason = f"expected {task.terms.aggregation.updates_min} updates, found {rnd.updates}"
    _fail(state, block, task, rnd, "round.too_few_updates", reason)


def end_verdicts(state: State, block: BlockContext, task: Task, rnd: Round) -> None:
    """Settle every update; go on to aggregates with enough accepted, fail the round with fewer."""
    terms = task.terms
    outcomes: list[Outcome] = []
    scores: list[int] = []
    for site in terms.sites:
        update = state.get(Update, task.id, rnd.number, site.organisation)
        if update is None:
            outcomes.append(absent(site))
            continue
        verdicts = _verdicts(state, terms, update)
        outcome = settle(update, verdicts, eligible_verifiers(terms))
        state.put(replace(update, status=outcome.status))
        outcomes.append(outcome)
        score_bp = passing_score(verdicts)
        if outcome.status is UpdateStatus.ACCEPTED and score_bp is not None:
            scores.append(score_bp)
    rnd = replace(rnd, outcomes=tuple(outcomes), score_bp=lower_median(scores))
    accepted = accepted_updates(state, task, rnd)
    if len(accepted) < terms.aggregation.updates_min:
        reason = f"expected {terms.aggregation.updates_min} accepted, found {len(accepted)}"
        _fail(state, block, task, rnd, "round.too_few_accepted", reason)
        return
    state.put(
        replace(
            rnd,
            phase=RoundPhase.AGGREGATE,
            deadline_ms=block.time_ms + terms.aggregate_ms,
            accepted=accepted_digest(task.id, rnd.number, accepted),
        )
    )


def _verdicts(state: State, terms: Terms, update: Update) -> list[Verdict]:
    """The verdicts on `update` that came, in order of sites."""
    found = (state.get(Verdict, *update.key, judge.organisation) for judge in terms.sites)
    return [verdict for verdict in found if verdict is not None]


def accepted_updates(state: State, task: Task, rnd: Round) -> tuple[tuple[Update, int], ...]:
    """What a validator aggregates: the accepted updates with their weights, by organisation."""
    sites: dict[str, Site] = {site.organisation: site for site in task.terms.sites}
    names = sorted(
        outcome.organisation for outcome in rnd.outcomes if outcome.status is UpdateStatus.ACCEPTED
    )
    return tuple(
        (
            state.require(Update, task.id, rnd.number, name),
            aggregation_weight(task.terms, sites[name]),
        )
        for name in names
    )


def count_aggregates(state: State, block: BlockContext, task: Task, rnd: Round) -> None:
    """Close the round on a quorum of equal aggregates; fail it when none can come any more."""
    counts = Counter((item.result, item.result_bytes) for item in rnd.attestations)
    (result, result_bytes), most = max(counts.items(), key=lambda item: (item[1], item[0]))
    to_come = len(block.validators.voters) - len(rnd.attestations)
    if most >= block.validators.quorum:
        _close(state, block, task, rnd, result, result_bytes)
    elif most + to_come < block.validators.quorum:
        reason = f"{len(counts)} different aggregates leave no quorum of equal ones"
        _fail(state, block, task, rnd, "round.results_differ", reason)


def _close(
    state: State, block: BlockContext, task: Task, rnd: Round, result: str, result_bytes: int
) -> None:
    """Write the new model version, then open the next round or complete the task."""
    base = state.require(Model, task.terms.model, rnd.base_version)
    version = base.version + 1
    contributions = tuple(
        Contribution(update.organisation, update.trainer, update.dataset, weight)
        for update, weight in accepted_updates(state, task, rnd)
    )
    state.put(
        replace(
            base,
            version=version,
            organisation=task.organisation,
            weights=result,
            weights_bytes=result_bytes,
            task=task.id,
            round=rnd.number,
            contributions=contributions,
            created_height=block.height,
            created_ms=block.time_ms,
        )
    )
    state.put(
        replace(rnd, phase=RoundPhase.CLOSED, model_version=version, code="closed", reason="")
    )
    task = replace(task, closed=task.closed + 1, failures=0)
    if task.closed < task.terms.rounds:
        state.put(ModelHead(base.id, version, task.id))
        start_round(state, block, task)
    else:
        _end_task(state, replace(task, phase=TaskPhase.COMPLETED), version)


def _fail(
    state: State, block: BlockContext, task: Task, rnd: Round, code: str, reason: str
) -> None:
    """End the round without a model version, then try another or give the task up."""
    state.put(replace(rnd, phase=RoundPhase.FAILED, code=code, reason=reason))
    task = replace(task, failures=task.failures + 1)
    if task.failures < FAILURES_MAX:
        start_round(state, block, task)
    else:
        _end_task(state, replace(task, phase=TaskPhase.FAILED), rnd.base_version)


def _end_task(state: State, task: Task, version: int) -> None:
    """Free the model for other tasks."""
    state.put(task)
    state.put(ModelHead(task.terms.model, version, None))
    remaining = tuple(id for id in open_tasks(state).tasks if id != task.id)
    state.put(OpenTasks(remaining))
