"""`concilium peer approve`, `withdraw`, `decline`: a person decides what a hospital is part of."""

import asyncio
import os
import sys
from pathlib import Path

from rich.console import Console

from fl.approval import terms_digest
from fl.body import ApproveTask, DeclineRound, WithdrawApproval
from node.client.client import Client
from node.client.credentials import credentials_of
from node.client.submitter import Submitter
from node.commands.report import Format, plain, show
from node.home import config
from node.home.document import dump, from_json
from node.home.genesis import read_genesis
from node.home.keyfile import read_key
from node.peer.approval import Approvals, approval_of, say_withdrawn
from vm.learning import Round, RoundPhase, Task, TaskPhase
from vm.record import Model
from vm.refusal import Refused


def approve(home: Path, task: str, *, yes: bool = False, output: Format = "text") -> None:
    """Show a task's terms in words, and let this site take part under these and no others.

    Parameters
    ----------
    home
        The training peer's folder with concilium.toml.
    task
        Id of the task.
    yes
        Approve without being asked; the terms are shown all the same.
    """
    settings = config.load(config.PeerConfig, home, os.environ)
    found, model = asyncio.run(_read(settings, task))
    lines = _describe(found, model, settings)
    digest = terms_digest(found.terms)
    listed = settings.training.listed
    if listed.get(task) not in (None, digest):
        raise Refused(
            "peer.listed",
            f"expected {task} in [training] tasks without a digest or with the one of its terms, "
            f"found another: read the terms, then change the entry to {task}={digest.hex()}",
        )
    if not yes:
        _require_consent(task, lines)
    _approvals(settings).approve(found)
    note = f"Approved task {task} under terms of digest {digest.hex()}."
    again, stands = asyncio.run(_approve_again(settings, found))
    if stands is False and found.phase is TaskPhase.OPEN:
        note += " On the chain it was withdrawn meanwhile: run this again."
    elif again:
        note += " The approval that was withdrawn on the chain stands again."
    if settings.training.approve == "list" and task not in listed:
        note += f' Add "{task}" to [training] tasks and restart the peer: it works off that list.'
    data = {
        "task": task,
        "approved": True,
        "stands_on_chain": stands,
        "digest": digest.hex(),
        "terms": dump(found.terms),
    }
    show(output, data, "\n".join((*lines, note)) if yes else note)


async def _approve_again(settings: config.PeerConfig, task: Task) -> tuple[bool, bool | None]:
    """Give an approval that was withdrawn on the chain again; a first one the peer gives itself.

    Whether that was done, and whether it stands there after that, for an older withdrawal may have
    been on its way; None if the chain has none.
    """
    async with _client(settings) as client:
        before = await approval_of(client, task, settings.trainer.id)
        again = before is not None and not before.stands and task.phase is TaskPhase.OPEN
        if again:
            body = ApproveTask(task.id, terms_digest(task.terms))
            await _pen(client, settings).submit("task.approve", body)
        after = await approval_of(client, task, settings.trainer.id)
        return again, None if after is None else after.stands


def withdraw(home: Path, task: str, *, output: Format = "text") -> None:
    """Take an approval back: from now on this site takes no part in the task.

    Parameters
    ----------
    home
        The training peer's folder with concilium.toml.
    task
        Id of the task.
    """
    settings = config.load(config.PeerConfig, home, os.environ)
    if settings.training.approve == "list" and task in settings.training.listed:
        raise Refused(
            "peer.listed",
            f"expected a task that [training] tasks does not list, found {task}, which is approved "
            "by standing there: take it out of the list, restart the peer, then run this again, "
            "for the chain still has this site's approval",
        )
    id = from_json(WithdrawApproval, {"task": task}).task  # it names a file
    here = _approvals(settings).withdraw(id)  # first: it holds whatever the network says
    said = asyncio.run(_withdraw(settings, id))
    words = "Withdrew the approval of" if here or said else "Found no approval of"
    note = f"{words} task {task}."
    match said:
        case True:
            note += (
                " The chain says so too: from the next round on nobody waits for this site. What "
                "binds it in the present round, its verifier still does."
            )
        case None:
            note += " No validator answered: the peer says so on the chain as soon as one does."
    data = {"task": task, "approved": False, "withdrawn": here, "withdrawn_on_chain": said}
    show(output, data, note)


async def _withdraw(settings: config.PeerConfig, id: str) -> bool | None:
    """Take back what this site has said on the chain, if anything; None if nobody answers."""
    try:
        async with _client(settings) as client:
            return await say_withdrawn(_approvals(settings), client, _pen(client, settings), id)
    except Refused as refused:
        if refused.code != "client.unreachable":
            raise
        return None


def _client(settings: config.PeerConfig) -> Client:
    urls = [validator.http for validator in settings.training.validators]
    reader = credentials_of(settings.trainer, settings.tls)
    return Client(read_genesis(settings.chain.genesis), urls, reader)


def _pen(client: Client, settings: config.PeerConfig) -> Submitter:
    return Submitter(client, settings.trainer.id, read_key(settings.trainer.key))


def decline(home: Path, task: str, *, code: str, reason: str, output: Format = "text") -> None:
    """Say on the chain that this site sends no update in the task's present round.

    The others need not wait for it until the deadline; the next round waits for it again.

    Parameters
    ----------
    home
        The training peer's folder with concilium.toml.
    task
        Id of the task.
    code
        Why, in words joined by dots, such as site.maintenance; everybody can read it.
    reason
        Why, in a sentence of at most 200 bytes; everybody can read it.
    """
    settings = config.load(config.PeerConfig, home, os.environ)
    declined = asyncio.run(_decline(settings, task, code, reason))
    number = declined.round
    show(output, dump(declined), f"Declined round {number} of task {task}: no update is awaited.")


async def _decline(settings: config.PeerConfig, id: str, code: str, reason: str) -> DeclineRound:
    async with _client(settings) as client:
        task = await client.record(Task, id)
        rnd = None if task is None else await client.record(Round, id, task.round)
        if rnd is None or rnd.phase is not RoundPhase.SUBMIT:
            found = "none" if rnd is None else f"round {rnd.number} in phase {rnd.phase.value}"
            raise Refused(
                "peer.no_round", f"expected a round of task {id} that takes updates, found {found}"
            )
        asked = {"task": id, "round": rnd.number, "code": code, "reason": reason}
        body = from_json(DeclineRound, asked)
        await _pen(client, settings).submit("learning.decline", body)
        return body


def _approvals(settings: config.PeerConfig) -> Approvals:
    training = settings.training
    return Approvals(settings.store.folder, training.approve, training.listed)


async def _read(settings: config.PeerConfig, id: str) -> tuple[Task, Model | None]:
    async with _client(settings) as client:
        task = await client.record(Task, id)
        if task is None:
            raise Refused("peer.task", f"expected task {id} on the chain, found none")
        return task, await client.record(Model, task.terms.model, task.base_version)


def _describe(task: Task, model: Model | None, settings: config.PeerConfig) -> list[str]:
    from node.peer.words import sentences

    trainer = settings.trainer.id
    site = next((site for site in task.terms.sites if site.trainer == trainer), None)
    if site is None:
        raise Refused(
            "peer.not_a_site",
            f"expected {trainer} among the sites of task {task.id}, found others: nothing to "
            "approve",
        )
    return sentences(task, model, site.organisation)


def _require_consent(task: str, lines: list[str]) -> None:
    """Show the terms and let a person type the task's id; nobody approves by accident."""
    if not sys.stdin.isatty():
        raise Refused(
            "usage.yes", "expected a terminal to ask on, or --yes from whoever decided; found none"
        )
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    console.print(plain("\n".join(lines)))
    console.print("Type the task's id to approve: ", end="")
    if sys.stdin.readline().strip() != task:
        raise Refused("peer.not_approved", f"expected {task}, found other words: not approved")
