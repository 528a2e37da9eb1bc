"""The life of a round: updates, judgements sealed, revealed and re-run, aggregates, then the end.

The handlers in `fl.submit` and `fl.judging` bring what members send; `due` runs at the start of
each block and ends the phases whose deadline has come. Every round ends in a stated outcome:

    phase      ends at its deadline, or once           then
    SUBMIT     all that are waited for have sent or    VERDICT; FAILED round.too_few_updates
               declined, and committed
    VERDICT    all that committed have sealed          REVEAL
    REVEAL     all that sealed have revealed           RERUN if a named segment waits, else settle
    RERUN      all that saw no fail have re-run        settle
    (settle)                                           AGGREGATE; FAILED round.too_few_accepted
    AGGREGATE  a quorum is equal, or none can be       CLOSED; FAILED round.results_differ,
                                                       .no_quorum

Waited for are sites that had approved the task as the round opened, and in round 1 those that have
not said no; while nothing could come of the round, all. The absence of those is counted that had
approved as the round opened, in round 1 within the first half of its submissions; nobody else's.

A closed round makes a model version; the next round opens in the same block, until the task's
number of closed rounds is reached. A failed round is followed by another on the same base;
FAILURES_MAX in a row fail the task and free the model. A round that would open on a model that a
failed audit has marked is FAILED at once, round.model_marked, and the task with it. After a steward
has closed a task no further round opens.
"""

from collections import Counter
from dataclasses import replace

from fl.challenge import round_seed
from fl.reputation import count_credits, count_outcomes, count_silence, count_verdicts
from fl.settle import (
    absent,
    accepted_digest,
    aggregation_weight,
    declined,
    eligible_verifiers,
    lower_median,
    passing_score,
    pay,
    reruns_due,
    settle,
    unapproved,
    unjudged,
)
from vm import digest
from vm.conduct import MarkDecision, ModelMark
from vm.encoding import encode
from vm.execute import BlockContext
from vm.learning import (
    FAILURES_MAX,
    Commitment,
    Decline,
    OpenTasks,
    Outcome,
    Round,
    RoundPhase,
    SiteApproval,
    Stored,
    Task,
    TaskPhase,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.record import Contribution, Model, ModelHead
from vm.refusal import Refused
from vm.state import State
from vm.terms import Site


def due(state: State, block: BlockContext) -> None:
    """End every phase whose deadline this block's time has reached."""
    for task, rnd in _open_rounds(state):
        if block.time_ms >= rnd.deadline_ms:
            _end_phase(state, block, task, rnd)


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


def is_barred(state: State, model: str) -> bool:
    """Whether a failed audit has marked the model and no steward has decided to keep it."""
    mark = state.get(ModelMark, model)
    return mark is not None and mark.decision is not MarkDecision.KEPT


def start_round(state: State, block: BlockContext, task: Task) -> None:
    """Open the next round of `task`, whose record is written with it.

    The beacon comes from the header before this block: what a primary can still choose is the block
    in which a round opens, not the beacon itself.
    """
    number = task.round + 1
    task = replace(task, round=number)
    rnd = Round(
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
        parts=() if number == 1 else _approving(state, task),
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
    if is_barred(state, task.terms.model):
        reason = "a failed audit has marked the model, and no steward has decided to keep it"
        state.put(_failed(rnd, "round.model_marked", reason))
        _end_task(state, replace(task, phase=TaskPhase.FAILED), rnd.base_version)
        return
    state.put(task)
    state.put(rnd)


def join_round(state: State, block: BlockContext, task: Task, organisation: str) -> None:
    """Whoever approves within the first half of round 1's submissions is part of that round.

    Later it may have too little time to train: it is waited for, as who says nothing is, and its
    absence does not count.
    """
    rnd = state.require(Round, task.id, task.round)
    early = 2 * (block.time_ms - rnd.opened_ms) <= task.terms.submit_ms
    if rnd.number == 1 and rnd.phase is RoundPhase.SUBMIT and early:
        joined = {*rnd.parts, organisation}
        names = (site.organisation for site in task.terms.sites)
        state.put(replace(rnd, parts=tuple(name for name in names if name in joined)))


def in_phase(
    state: State, block: BlockContext, task: str, number: int, *phases: RoundPhase
) -> Round:
    """The round, in one of `phases`; raises `Refused("round.phase" | "state.missing")`."""
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


def advance(state: State, block: BlockContext, task: Task, rnd: Round) -> None:
    """End the round's phase if everybody has done their part in it, else write the round."""
    if _is_done(state, task, rnd):
        _end_phase(state, block, task, rnd)
    else:
        state.put(rnd)


def _is_done(state: State, task: Task, rnd: Round) -> bool:
    """Whether nobody's word is waited for any more in the round's phase."""
    match rnd.phase:
        case RoundPhase.SUBMIT:
            return _have_all_spoken(state, task, rnd)
        case RoundPhase.VERDICT:
            return rnd.sealed == rnd.committed
        case RoundPhase.REVEAL:
            return rnd.revealed == rnd.sealed
        case RoundPhase.RERUN:
            return rnd.reruns == 0
        case RoundPhase.AGGREGATE | RoundPhase.CLOSED | RoundPhase.FAILED:
            return False


def _have_all_spoken(state: State, task: Task, rnd: Round) -> bool:
    """Whether every site that is waited for has sent or declined, and bound its verifier.

    While too few have, nothing could come of the round, and everybody is waited for, who has
    approved the task or not: else rounds would fail in a row before anybody could come.
    """
    sites = task.terms.sites
    spoken, enough = rnd.updates + rnd.declined, task.terms.aggregation.updates_min
    if rnd.updates < enough:
        return spoken == len(sites)
    if 2 * (rnd.committed - 1) <= eligible_verifiers(task.terms):  # no majority on one's own update
        return spoken == rnd.committed == len(sites)
    return all(_has_spoken(state, rnd, site) or not _is_awaited(state, rnd, site) for site in sites)


def _has_spoken(state: State, rnd: Round, site: Site) -> bool:
    key = (rnd.task, rnd.number, site.organisation)
    sent = state.get(Update, *key) is not None or state.get(Decline, *key) is not None
    return sent and state.get(Commitment, *key) is not None


def _is_awaited(state: State, rnd: Round, site: Site) -> bool:
    """In round 1 all that have not said no; later on those that had approved as it opened."""
    approval = state.get(SiteApproval, rnd.task, site.organisation)
    if approval is None:
        declined = state.get(Decline, rnd.task, rnd.number, site.organisation) is not None
        return rnd.number == 1 and not declined
    return approval.stands and (rnd.number == 1 or site.organisation in rnd.parts)


def _approving(state: State, task: Task) -> tuple[str, ...]:
    """The organisations whose approval stands, in order of sites."""
    found = (state.get(SiteApproval, task.id, site.organisation) for site in task.terms.sites)
    return tuple(one.organisation for one in found if one is not None and one.stands)


def _end_phase(state: State, block: BlockContext, task: Task, rnd: Round) -> None:
    match rnd.phase:
        case RoundPhase.SUBMIT:
            _end_submissions(state, block, task, rnd)
        case RoundPhase.VERDICT:
            _enter(state, block, task, rnd, RoundPhase.REVEAL)
        case RoundPhase.REVEAL:
            reruns = sum(reruns_due(*case) for case in _cases(state, task, rnd))
            _enter(state, block, task, replace(rnd, reruns=reruns), RoundPhase.RERUN)
        case RoundPhase.RERUN:
            _settle(state, block, task, rnd)
        case RoundPhase.AGGREGATE:
            reason = f"{len(rnd.attestations)} aggregates came and no quorum was equal"
            _fail(state, block, task, rnd, "round.no_quorum", reason)
        case RoundPhase.CLOSED | RoundPhase.FAILED:
            raise AssertionError(f"the newest round of open task {task.id} has ended")


def _enter(state: State, block: BlockContext, task: Task, rnd: Round, phase: RoundPhase) -> None:
    """Go on to `phase`, or through it if nobody has a part in it."""
    rnd = replace(rnd, phase=phase)
    if _is_done(state, task, rnd):
        _end_phase(state, block, task, rnd)
        return
    terms = task.terms
    lasts_ms = {
        RoundPhase.VERDICT: terms.verdict_ms,
        RoundPhase.REVEAL: terms.reveal_ms,
        RoundPhase.RERUN: terms.reveal_ms,
        RoundPhase.AGGREGATE: terms.aggregate_ms,
    }[phase]
    state.put(replace(rnd, deadline_ms=block.time_ms + lasts_ms))


def _end_submissions(state: State, block: BlockContext, task: Task, rnd: Round) -> None:
    """Go on to verdicts with enough updates; fail the round with fewer."""
    if rnd.updates >= task.terms.aggregation.updates_min:
        seed = round_seed(block.parent, task.id, rnd.number)
        _enter(state, block, task, replace(rnd, seed=seed), RoundPhase.VERDICT)
        return
    outcomes: list[Outcome] = []
    for site in task.terms.sites:
        update = state.get(Update, task.id, rnd.number, site.organisation)
        if update is None:
            outcomes.append(_missing(state, rnd, site))
        else:
            state.put(replace(update, status=UpdateStatus.UNDECIDED))
            outcomes.append(unjudged(update))
    count_outcomes(state, outcomes)
    rnd = replace(rnd, outcomes=tuple(outcomes))
    reason = f"expected {task.terms.aggregation.updates_min} updates, found {rnd.updates}"
    _fail(state, block, task, rnd, "round.too_few_updates", reason)


def _settle(state: State, block: BlockContext, task: Task, rnd: Round) -> None:
    """Settle every update; go on to aggregates with enough accepted, fail the round with fewer."""
    terms = task.terms
    outcomes = {site.organisation: _missing(state, rnd, site) for site in terms.sites}
    settled: list[tuple[Update, list[Verdict]]] = []
    scores: list[int] = []
    for update, verdicts in _cases(state, task, rnd):
        outcome = settle(update, verdicts, eligible_verifiers(terms))
        settled.append((replace(update, status=outcome.status), verdicts))
        state.put(settled[-1][0])
        outcomes[update.organisation] = outcome
        score_bp = passing_score(verdicts)
        if outcome.status is UpdateStatus.ACCEPTED and score_bp is not None:
            scores.append(score_bp)
    rnd = replace(rnd, outcomes=tuple(outcomes.values()), score_bp=lower_median(scores))
    count_outcomes(state, rnd.outcomes)
    _count_verifiers(state, task, rnd, settled)
    accepted = accepted_updates(state, task, rnd)
    if len(accepted) < terms.aggregation.updates_min:
        reason = f"expected {terms.aggregation.updates_min} accepted, found {len(accepted)}"
        _fail(state, block, task, rnd, "round.too_few_accepted", reason)
        return
    rnd = replace(rnd, accepted=accepted_digest(task.id, rnd.number, accepted))
    _enter(state, block, task, rnd, RoundPhase.AGGREGATE)


def _missing(state: State, rnd: Round, site: Site) -> Outcome:
    """The outcome of a site without an update: it said so, was no part of it, or said nothing."""
    decline = state.get(Decline, rnd.task, rnd.number, site.organisation)
    if decline is not None:
        return declined(site, decline)
    return absent(site) if site.organisation in rnd.parts else unapproved(site)


def _cases(state: State, task: Task, rnd: Round) -> list[tuple[Update, list[Verdict]]]:
    """The round's updates with the verdicts on them, both in order of sites."""
    sites = task.terms.sites
    found = (state.get(Update, task.id, rnd.number, site.organisation) for site in sites)
    return [(update, verdicts_on(state, task, update)) for update in found if update is not None]


def verdicts_on(state: State, task: Task, update: Update) -> list[Verdict]:
    """The verdicts on `update` that came, in order of sites."""
    sites = task.terms.sites
    found = (state.get(Verdict, *update.key, judge.organisation) for judge in sites)
    return [verdict for verdict in found if verdict is not None]


def _count_verifiers(
    state: State, task: Task, rnd: Round, settled: list[tuple[Update, list[Verdict]]]
) -> None:
    for site in task.terms.sites:
        name = site.organisation
        if all(update.organisation == name for update, _ in settled):
            continue  # nothing to judge
        commitment = state.get(Commitment, task.id, rnd.number, name)
        sent = any(update.organisation == name for update, _ in settled)
        if commitment is None and name not in rnd.parts and not sent:
            continue  # nobody waited for it, and it did nothing
        if commitment is None or commitment.secret is None:
            count_silence(state, name, commitment)
        else:
            count_verdicts(state, name, settled)


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
    counts = Counter((item.result, item.result_bytes, item.state) for item in rnd.attestations)
    ((result, most),) = counts.most_common(1)
    to_come = len(block.validators.voters) - len(rnd.attestations)
    if most >= block.validators.quorum:
        _close(state, block, task, rnd, *result)
    elif most + to_come < block.validators.quorum:
        reason = f"{len(counts)} different aggregates leave no quorum of equal ones"
        _fail(state, block, task, rnd, "round.results_differ", reason)


def _close(
    state: State,
    block: BlockContext,
    task: Task,
    rnd: Round,
    result: str,
    result_bytes: int,
    server: Stored | None,
) -> None:
    """Write the new model version, pay, then open the next round or complete the task."""
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
    task = replace(task, closed=task.closed + 1, failures=0, server=server)
    outcomes = pay(task.terms, task.closed, rnd.outcomes)
    count_credits(state, outcomes)
    state.put(
        replace(
            rnd,
            phase=RoundPhase.CLOSED,
            outcomes=outcomes,
            model_version=version,
            code="closed",
            reason="",
        )
    )
    if task.closed == task.terms.rounds:
        _end_task(state, replace(task, phase=TaskPhase.COMPLETED), version)
    elif task.closing is not None:
        _end_task(state, replace(task, phase=TaskPhase.CLOSED), version)
    else:
        state.put(ModelHead(base.id, version, task.id))
        start_round(state, block, task)


def _fail(
    state: State, block: BlockContext, task: Task, rnd: Round, code: str, reason: str
) -> None:
    """End the round without a model version, then try another or give the task up."""
    state.put(_failed(rnd, code, reason))
    task = replace(task, failures=task.failures + 1)
    if task.failures == FAILURES_MAX:
        _end_task(state, replace(task, phase=TaskPhase.FAILED), rnd.base_version)
    elif task.closing is not None:
        _end_task(state, replace(task, phase=TaskPhase.CLOSED), rnd.base_version)
    else:
        start_round(state, block, task)


def _failed(rnd: Round, code: str, reason: str) -> Round:
    return replace(rnd, phase=RoundPhase.FAILED, code=code, reason=reason)


def _end_task(state: State, task: Task, version: int) -> None:
    """Free the model for other tasks."""
    state.put(task)
    state.put(ModelHead(task.terms.model, version, None))
    remaining = tuple(id for id in open_tasks(state).tasks if id != task.id)
    state.put(OpenTasks(remaining))
