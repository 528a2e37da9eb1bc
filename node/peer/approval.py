"""A site's approval of a task, pinned to the digest of the terms that it approved.

A steward opens a task; what its terms ask of a hospital is for the hospital to judge, before its
first round. A name alone approves nothing for good: whoever approved `preterm` approved what was
written there then, so the digest of the terms is kept, and other terms under that name are refused.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from fl.approval import terms_digest
from fl.body import WithdrawApproval
from node.client.board import Board
from node.client.client import Client
from node.client.submitter import Submitter
from node.peer.watch import while_wanted
from node.wire.disk import create_file, replace_file
from vm.digest import DIGEST_BYTES
from vm.learning import SiteApproval, Task, TaskPhase
from vm.refusal import Refused
from vm.shape import Digest

FOLDER = "approved"  # in the peer's store: one file for each task, its name the task's id
FILE_BYTES = 2 * DIGEST_BYTES + 1  # the digest in hexadecimal digits, and a line end
WITHDRAWN = b"withdrawn\n"  # in place of a digest, until somebody approves again

Mode = Literal["list", "ask"]

NO_PART = ("peer.not_approved", "peer.withdrawn")  # the site does not stand by the task
# Since we looked somebody of this site has withdrawn or approved, or the task has ended.
NOTHING_TO_WITHDRAW = ("task.not_approved", "task.phase", "peer.approved")


async def require_standing(
    approvals: "Approvals", reader: Board | Client, task: Task, organisation: str
) -> None:
    """Raise `Refused("peer.not_approved" | "peer.withdrawn")` unless the site still takes part.

    By what was said here and, once it was said there, by what the chain has: the site's steward and
    admin may have withdrawn it.
    """
    approvals.require(task)
    found = await reader.record(SiteApproval, task.id, organisation)
    if found is not None and not found.stands:
        raise Refused(
            "peer.withdrawn",
            f"expected the approval of task {task.id} to stand on the chain, found it "
            f"withdrawn: give it again with: concilium peer approve HOME {task.id}",
        )


async def require_not_withdrawn(
    approvals: "Approvals", board: Board, task: Task, organisation: str
) -> None:
    """As `require_standing`, for work under way, which goes on while nobody can say."""
    try:
        await require_standing(approvals, board, task, organisation)
    except Refused as refused:
        if refused.code in NO_PART:
            raise


async def say_withdrawn(
    approvals: "Approvals", reader: Board | Client, submitter: Submitter, task_id: str
) -> bool:
    """Take back what the chain has of the trainer's site's approval; whether that was done.

    Only as long as it is withdrawn here: the newest word of a person counts.
    """
    task = await reader.record(Task, task_id)
    if task is None or task.phase is not TaskPhase.OPEN:
        return False
    found = await approval_of(reader, task, submitter.member)
    if found is None or not found.stands:
        return False
    look = partial(_require_withdrawn, approvals, task_id)
    try:
        await look()
        await while_wanted(submitter.submit("task.withdraw", WithdrawApproval(task_id)), look)
    except Refused as refused:
        if refused.code not in NOTHING_TO_WITHDRAW:
            raise
        return False
    return True


async def _require_withdrawn(approvals: "Approvals", task_id: str) -> None:
    if not await asyncio.to_thread(approvals.is_withdrawn, task_id):
        raise Refused(
            "peer.approved",
            f"expected task {task_id} withdrawn by this site, found it approved since",
        )


async def approval_of(reader: Board | Client, task: Task, trainer: str) -> SiteApproval | None:
    """What the chain has of the approval of this trainer's site, which may be none of the task."""
    for site in task.terms.sites:
        if site.trainer == trainer:
            return await reader.record(SiteApproval, task.id, site.organisation)
    return None


class Approvals:
    """Which tasks this site takes part in, and under which terms."""

    def __init__(self, store: Path, mode: Mode, listed: Mapping[str, Digest | None]) -> None:
        """`listed` are the configured tasks, with a digest of terms where one is given.

        Approvals by command lie in `store`, where another process may change them at any time.
        """
        self._folder = store / FOLDER
        self._mode = mode
        self._listed = listed

    def require(self, task: Task) -> None:
        """Raise `Refused("peer.not_approved")` unless the site approved the task's terms.

        By the list, a task without a digest is approved as it is found first, for good. What was
        withdrawn by command is withdrawn until it is approved by command, listed or not.
        """
        found = terms_digest(task.terms)
        if self._mode == "list" and task.id not in self._listed:
            raise Refused(
                "peer.not_approved",
                f"expected a task of [training] tasks, found {task.id}, which is not listed",
            )
        remedy = f"read its terms and approve them with: concilium peer approve HOME {task.id}"
        kept = self._kept(task.id)  # once: another process may change it meanwhile
        if kept == WITHDRAWN:
            raise Refused(
                "peer.not_approved",
                f"expected task {task.id} approved by this site, found it withdrawn here: {remedy}",
            )
        approved = self._listed.get(task.id) or self._pinned(task.id, kept)
        if approved is None and self._mode == "list":
            self._approve_first(task)
            return
        if approved is None:
            raise Refused(
                "peer.not_approved",
                f"expected task {task.id} approved by this site, found no approval: {remedy}",
            )
        if approved != found:
            raise Refused(
                "peer.not_approved",
                f"expected the terms of task {task.id} that this site approved, digest "
                f"{approved.hex()}, found others, digest {found.hex()}: {remedy}",
            )

    def approve(self, task: Task) -> Digest:
        """Pin the terms as they stand; the newest approval is the one that counts."""
        terms = terms_digest(task.terms)
        replace_file(self._folder / task.id, _line(terms))
        return terms

    def _approve_first(self, task: Task) -> None:
        """Pin the terms by the list, unless somebody has said something since we looked."""
        try:
            create_file(self._folder / task.id, _line(terms_digest(task.terms)))
        except FileExistsError:
            self.require(task)

    def withdraw(self, task: str) -> bool:
        """Take back an approval by command; whether there was one.

        The word stays: an approval may be on its way to the chain, which the peer takes back then.
        """
        found = self._kept(task)
        replace_file(self._folder / task, WITHDRAWN)
        return found is not None and found != WITHDRAWN

    def is_withdrawn(self, task: str) -> bool:
        """Whether somebody withdrew here, and nobody approved since; a lost store says nothing."""
        return self._kept(task) == WITHDRAWN

    def _kept(self, task: str) -> bytes | None:
        try:
            with (self._folder / task).open("rb") as file:
                return file.read(FILE_BYTES + 1)
        except FileNotFoundError:
            return None

    def _pinned(self, task: str, kept: bytes | None) -> Digest | None:
        """The digest that was kept of a task's terms; raises `Refused("peer.approval_file")`."""
        if kept is None:
            return None
        try:
            terms = bytes.fromhex(kept.decode("ascii"))
        except ValueError:
            terms = b""
        if len(terms) != DIGEST_BYTES:
            raise Refused(
                "peer.approval_file",
                f"{self._folder / task}: expected the digest of a task's terms, found something "
                "else: delete the file and approve again with: concilium peer approve HOME "
                f"{task}",
            )
        return terms


def _line(terms: Digest) -> bytes:
    """What the file of an approval holds."""
    return f"{terms.hex()}\n".encode()
