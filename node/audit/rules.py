"""The rules that the story of a model version must keep: complete, consistent, and recomputed."""

from collections.abc import Callable

from fl.approval import terms_digest
from fl.body import Judged
from fl.challenge import commitment, seal
from fl.settle import (
    absent,
    accepted_digest,
    aggregation_weight,
    declined,
    eligible_verifiers,
    lower_median,
    passing_score,
    pay,
    settle,
    unapproved,
    unjudged,
)
from node.audit.lineage import Lineage, Part, RoundLineage
from node.audit.signers import check_signers
from vm.epoch import ruling
from vm.learning import (
    Commitment,
    Outcome,
    Round,
    RoundPhase,
    Task,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.record import Contribution, Member, Model, Role
from vm.refusal import Refused
from vm.shape import pack


def check_lineage(lineage: Lineage) -> tuple[str, ...]:
    """Check that the story is complete and consistent; return what was checked, in words.

    Raises `Refused` with the rule that is broken: `lineage.version`, `.task`, `.dataset`,
    `.member`, `.approval`, `.round`, `.update`, `.verdict`, `.outcome`, `.commitment`, `.accepted`,
    `.contribution`, `.aggregate` or `.key`.
    """
    checks: tuple[Callable[[Lineage], str], ...] = (
        _check_versions,
        _check_tasks,
        _check_approvals,
        _check_rounds,
        _check_verdicts,
        _check_commitments,
        _check_contributions,
        _check_aggregates,
        check_signers,
    )
    return tuple(check(lineage) for check in checks)


def _check_versions(lineage: Lineage) -> str:
    """One line down to a version that no task made; the model's shape never changes."""
    *made, base = lineage.versions
    if (base.task, base.round, base.contributions) != (None, None, ()):
        raise Refused("lineage.version", "expected version 0 registered, found it made by a round")
    for model in made:
        if model.task is None or model.round is None:
            raise Refused(
                "lineage.version", f"expected version {model.version} made by a round, found none"
            )
        if (model.spec, model.grid_bits) != (base.spec, base.grid_bits):
            raise Refused(
                "lineage.version", f"expected version {model.version} of version 0's spec and grid"
            )
    return f"{len(lineage.versions)} versions of {base.id} in one line from version 0"


def _check_tasks(lineage: Lineage) -> str:
    """Each task extends this model; its people and datasets were enrolled before it opened."""
    for item in lineage.tasks:
        task = item.task
        if task.terms.model != lineage.model.id:
            raise Refused(
                "lineage.task",
                f"expected {task.id} to train {lineage.model.id}, found {task.terms.model}",
            )
        _check_member(item.steward, task.organisation, Role.STEWARD, task)
        for participant in item.participants:
            organisation = participant.site.organisation
            _check_member(participant.trainer, organisation, Role.TRAINER, task)
            _check_member(participant.verifier, organisation, Role.VERIFIER, task)
            dataset = participant.dataset
            if dataset.organisation != organisation:
                raise Refused(
                    "lineage.dataset",
                    f"expected {dataset.id} of {organisation}, found {dataset.organisation}",
                )
            if dataset.registered_height > task.opened_height:
                raise Refused(
                    "lineage.dataset",
                    f"expected {dataset.id} registered by height {task.opened_height}, at which "
                    f"{task.id} opened, found {dataset.registered_height}",
                )
    count = sum(len(item.participants) for item in lineage.tasks)
    return f"{count} datasets registered before the {len(lineage.tasks)} tasks that used them"


def _check_member(member: Member, organisation: str, role: Role, task: Task) -> None:
    found = (member.organisation, member.role)
    if found != (organisation, role) or member.enrolled_height > task.opened_height:
        raise Refused(
            "lineage.member",
            f"expected {member.id} enrolled as {role.value} of {organisation} by height "
            f"{task.opened_height}, found {member.role.value} of {member.organisation} "
            f"at {member.enrolled_height}",
        )


def _check_approvals(lineage: Lineage) -> str:
    """Who sent an update or committed had approved the terms, by their digest."""
    count = 0
    for item in lineage.tasks:
        terms = terms_digest(item.task.terms)
        approvals = {found.site.organisation: found.approval for found in item.participants}
        count += sum(approval is not None for approval in approvals.values())
        for found in item.rounds:
            for part in found.sites:
                approval = approvals[part.site.organisation]
                if (part.update is None and part.commitment is None) or (
                    approval is not None
                    and (approval.terms, approval.trainer) == (terms, part.site.trainer)
                    and (part.update is None or approval.approved_height <= part.update.height)
                ):
                    continue
                raise Refused(
                    "lineage.approval",
                    f"expected {part.site.organisation} to have approved the terms of "
                    f"{item.task.id} before it took part in round {found.round.number}, "
                    "found that it had not",
                )
    return f"{count} approvals of the terms of the tasks, each before that site's first update"


def _check_rounds(lineage: Lineage) -> str:
    """Closed rounds and versions match one to one; failed rounds made none."""
    makers = {
        (model.task, model.round): model.version for model in lineage.versions if model.version
    }
    for item in lineage.tasks:
        base_version = item.task.base_version
        for found in item.rounds:
            rnd = found.round
            closed = rnd.phase is RoundPhase.CLOSED
            if not closed and rnd.phase is not RoundPhase.FAILED:
                raise Refused(
                    "lineage.round",
                    f"expected round {rnd.number} of {rnd.task} ended, found {rnd.phase.value}",
                )
            made = makers.pop((rnd.task, rnd.number), None)
            if (rnd.base_version, rnd.model_version) != (base_version, made) or (
                made != (base_version + 1 if closed else None)
            ):
                raise Refused(
                    "lineage.round",
                    f"expected round {rnd.number} of {rnd.task} from version {base_version} to "
                    f"{made}, found {rnd.base_version} to {rnd.model_version}",
                )
            base_version += closed
    if makers:
        raise Refused("lineage.round", f"expected one round for each version, found {len(makers)}")
    rounds = lineage.rounds
    failed = sum(found.round.phase is RoundPhase.FAILED for found in rounds)
    return f"{len(rounds)} rounds, {failed} of them failed, each on the version before it"


def _check_verdicts(lineage: Lineage) -> str:
    """Each site's outcome is what the verdicts on its update settle, and what its round pays."""
    updates, verdicts = 0, 0
    for item in lineage.tasks:
        closed = 0
        for found in item.rounds:
            outcomes = tuple(_outcome(found.round, part, item.task) for part in found.sites)
            if found.round.phase is RoundPhase.CLOSED:
                closed += 1
                outcomes = pay(item.task.terms, closed, outcomes)
            if found.round.outcomes != outcomes:
                raise Refused(
                    "lineage.outcome",
                    f"expected the outcomes of round {found.round.number} of {found.round.task} "
                    "as the verdicts settle them, found others",
                )
            score = _score(found)
            if found.round.score_bp != score:
                raise Refused(
                    "lineage.outcome",
                    f"expected score {score} of round {found.round.number}, "
                    f"found {found.round.score_bp}",
                )
            updates += sum(part.update is not None for part in found.sites)
            verdicts += sum(len(part.verdicts) for part in found.sites)
    return f"{updates} updates settled by {verdicts} verdicts, each accepted one by a majority"


def _outcome(rnd: Round, part: Part, task: Task) -> Outcome:
    site, update = part.site, part.update
    if update is None:
        return _missing(rnd, part)
    found = (update.trainer, update.dataset, update.base_version)
    if found != (site.trainer, site.dataset, rnd.base_version):
        raise Refused(
            "lineage.update",
            f"expected an update by {site.trainer} on {site.dataset} from version "
            f"{rnd.base_version}, found {update.trainer} on {update.dataset} "
            f"from {update.base_version}",
        )
    verifiers = {other.organisation: other.verifier for other in task.terms.sites}
    for verdict in part.verdicts:
        if verdict.verifier != verifiers[verdict.verifier_organisation]:
            raise Refused(
                "lineage.verdict",
                f"expected a verdict by {verifiers[verdict.verifier_organisation]}, "
                f"found {verdict.verifier}",
            )
    if rnd.code == "round.too_few_updates":
        outcome = unjudged(update)
    else:
        outcome = settle(update, part.verdicts, eligible_verifiers(task.terms))
    if update.status is not outcome.status:
        raise Refused(
            "lineage.outcome",
            f"expected {update.organisation}'s update {outcome.status.value}, "
            f"found {update.status.value}",
        )
    return outcome


def _missing(rnd: Round, part: Part) -> Outcome:
    """The outcome of a site without an update."""
    if part.decline is not None:
        return declined(part.site, part.decline)
    return absent(part.site) if part.site.organisation in rnd.parts else unapproved(part.site)


def _check_commitments(lineage: Lineage) -> str:
    """Verdicts are their verifier's that had bound itself: to a secret, then to what it says."""
    bound = 0
    for found in lineage.rounds:
        for part in found.sites:
            name = part.site.organisation
            given = [
                (other.update, verdict)
                for other in found.sites
                for verdict in other.verdicts
                if other.update is not None and verdict.verifier_organisation == name
            ]
            if part.commitment is not None and part.commitment.secret is not None:
                _check_commitment(part.commitment, given)
                bound += 1
            elif given:
                raise Refused(
                    "lineage.commitment",
                    f"expected verdicts of {part.site.verifier} in round {found.round.number} "
                    "under a secret that it revealed, found none",
                )
    return f"{bound} times a verifier's verdicts under the secret and the seal that bound it"


def _check_commitment(bound: Commitment, given: list[tuple[Update, Verdict]]) -> None:
    key, secret = (bound.task, bound.round, bound.verifier), bound.secret
    assert secret is not None, "the caller found it revealed"
    sealed = seal(*key, secret, [pack(_judged(update, verdict)) for update, verdict in given])
    # What a rerun has replaced is no longer there to be sealed again.
    rerun = any(verdict.rerun for _, verdict in given)
    published = sum(
        (verdict.score_bp is not None) + (verdict.contribution_bp is not None)
        for _, verdict in given
    )
    if (
        commitment(*key, secret) != bound.commitment
        or (sealed != bound.seal and not rerun)
        or published > bound.scores
    ):
        raise Refused(
            "lineage.commitment",
            f"expected the verdicts of {bound.verifier} in round {bound.round} of {bound.task} "
            "as it had sealed them, found others",
        )


def _judged(update: Update, verdict: Verdict) -> Judged:
    return Judged(
        organisation=verdict.organisation,
        update=update.transaction,
        decision=verdict.decision,
        code=verdict.code,
        reason=verdict.reason,
        segment=verdict.segment,
        score_bp=verdict.score_bp,
        contribution_bp=verdict.contribution_bp,
        near=verdict.near,
        blind=verdict.blind,
    )


def _score(found: RoundLineage) -> int | None:
    scores = [passing_score(part.verdicts) for part in found.sites if _accepted(part)]
    return lower_median([score for score in scores if score is not None])


def _accepted(part: Part) -> bool:
    return part.update is not None and part.update.status is UpdateStatus.ACCEPTED


def _check_contributions(lineage: Lineage) -> str:
    """A version's contributions are its round's accepted updates, with the task's weights."""
    total = 0
    for item in lineage.tasks:
        for found in item.rounds:
            rnd = found.round
            if rnd.phase is not RoundPhase.CLOSED:
                continue
            accepted = sorted(
                (
                    (
                        part.update,
                        aggregation_weight(item.task.terms, part.site),
                    )
                    for part in found.sites
                    if part.update is not None and _accepted(part)
                ),
                key=lambda pair: pair[0].organisation,
            )
            if rnd.accepted != accepted_digest(rnd.task, rnd.number, accepted):
                raise Refused(
                    "lineage.accepted",
                    f"expected round {rnd.number} to commit to its {len(accepted)} accepted "
                    "updates, found another digest",
                )
            contributions = tuple(
                Contribution(update.organisation, update.trainer, update.dataset, weight)
                for update, weight in accepted
            )
            if _made_by(lineage, rnd).contributions != contributions:
                raise Refused(
                    "lineage.contribution",
                    f"expected version {rnd.model_version} of the {len(accepted)} accepted "
                    "updates, found other contributions",
                )
            total += len(contributions)
    return f"{total} contributions equal to the accepted updates, their digests recomputed"


def _check_aggregates(lineage: Lineage) -> str:
    """A quorum of validators signed that the accepted updates come to each version's weights."""
    closed = 0
    for found in lineage.rounds:
        rnd = found.round
        if rnd.phase is not RoundPhase.CLOSED:
            continue
        model = _made_by(lineage, rnd)
        validators = ruling(lineage.epochs, model.created_height).validators
        expected = (rnd.accepted, model.weights, model.weights_bytes)
        signers = {
            item.validator
            for item in rnd.attestations
            if (item.accepted, item.result, item.result_bytes) == expected
            and validators.votes(item.validator)
        }
        if len(signers) < validators.quorum:
            raise Refused(
                "lineage.aggregate",
                f"expected {validators.quorum} equal aggregates for version {model.version}, "
                f"found {len(signers)}",
            )
        closed += 1
    return f"{closed} versions with equal aggregates of a quorum of validators"


def _made_by(lineage: Lineage, rnd: Round) -> Model:
    """The version that a closed round made; `_check_rounds` has matched them."""
    assert rnd.model_version is not None, "a closed round made a version"
    return lineage.versions[lineage.model.version - rnd.model_version]
