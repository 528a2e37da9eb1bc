"""A site's approval of a task: nobody is part of what he has not signed.

A steward names sites, their datasets and their people; each site says for itself whether it takes
part, under terms that it names by their digest. Until then its updates and commitments are refused,
and nothing that it does not do is counted against it.
"""

from collections.abc import Callable
from dataclasses import replace

from fl.body import ApproveTask, WithdrawApproval
from fl.rounds import advance, join_round
from vm.digest import TERMS, digest
from vm.execute import Context
from vm.learning import Round, RoundPhase, SiteApproval, Task, TaskPhase
from vm.refusal import Refused
from vm.shape import Digest, pack
from vm.state import State
from vm.terms import Site, Terms


def terms_digest(terms: Terms) -> Digest:
    """What an approval names: digest(TERMS, terms)."""
    return digest(TERMS, pack(terms))


def approve_task(state: State, context: Context, body: ApproveTask) -> None:
    """Record that a site takes part from now on."""
    # 1. the task is open, and the sender trains for a site of it
    task = _open_task(state, body.task)
    site = _site(task, lambda site: site.trainer == context.sender.id, context)
    # 2. the terms are the ones that the site has read
    found = terms_digest(task.terms)
    if body.terms != found:
        raise Refused(
            "approval.terms",
            f"expected an approval of the terms of {task.id}, digest {found.hex()}, "
            f"found one of {body.terms.hex()}",
        )
    # 3. it does not stand already
    before = state.get(SiteApproval, task.id, site.organisation)
    if before is not None and before.stands:
        raise Refused(
            "approval.duplicate",
            f"expected one approval of {site.organisation}, found it given at height "
            f"{before.changed_height}",
        )
    height = context.block.height
    state.put(
        SiteApproval(
            task=task.id,
            organisation=site.organisation,
            trainer=site.trainer,
            terms=found,
            stands=True,
            transaction=context.transaction,
            approved_height=height if before is None else before.approved_height,
            changed_height=height,
        )
    )
    join_round(state, context.block, task, site.organisation)


def withdraw_approval(state: State, context: Context, body: WithdrawApproval) -> None:
    """Record that a site takes no further part; what it has sent into the round stays there.

    Its trainer may be gone by then, so that its steward and admin may say it too.
    """
    # 1. the task is open, and the sender is of an organisation with a site in it
    task = _open_task(state, body.task)
    site = _site(task, lambda site: site.organisation == context.sender.organisation, context)
    # 2. its approval stands
    found = require_approval(state, task, site)
    state.put(
        replace(
            found,
            stands=False,
            transaction=context.transaction,
            changed_height=context.block.height,
        )
    )
    rnd = state.require(Round, task.id, task.round)
    if rnd.phase is RoundPhase.SUBMIT:
        advance(state, context.block, task, rnd)  # it is not waited for any more


def require_approval(state: State, task: Task, site: Site) -> SiteApproval:
    """The site's approval, which stands; raises `Refused("task.not_approved")`."""
    found = state.get(SiteApproval, task.id, site.organisation)
    if found is None or not found.stands:
        raise Refused(
            "task.not_approved",
            f"expected {site.organisation} to have approved task {task.id}, found that it has not",
        )
    return found


def _open_task(state: State, id: str) -> Task:
    task = state.require(Task, id)
    if task.phase is not TaskPhase.OPEN:
        raise Refused("task.phase", f"expected task {id} open, found it {task.phase.value}")
    return task


def _site(task: Task, is_ours: Callable[[Site], bool], context: Context) -> Site:
    site = next((site for site in task.terms.sites if is_ours(site)), None)
    if site is None:
        raise Refused(
            "approval.site",
            f"expected a site of task {task.id} that {context.sender.id} may speak for, found none",
        )
    return site
