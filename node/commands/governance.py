"""`concilium governance`: what the admins of the organisations decide together."""

import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import Any

from cyclopts import App
from rich.console import Group
from rich.table import Table

from node.client.client import Client
from node.client.credentials import credentials_of
from node.client.listing import records
from node.commands.files import read_file
from node.commands.office import pen
from node.commands.report import Format, show
from node.home import config
from node.home.document import dump, from_json
from node.home.genesis import read_genesis
from vm.block import Receipt
from vm.governance import Approve, Propose
from vm.proposal import PROPOSAL_BLOCKS_MAX, Proposal, ProposalPhase
from vm.refusal import Refused

app = App(name="governance", help="Propose and approve who holds a seat, with which key and rules.")

BLOCKS = 100_000  # that a proposal stays open if nobody says otherwise; an idle chain makes none
NONCE_BYTES = 3  # in the id of a proposal that was not named


@app.command
def init(
    home: Path,
    *,
    organisation: str,
    title: str,
    region: str,
    like: Path,
    id: str | None = None,
    output: Format = "text",
) -> None:
    """Write the home of a new organisation's admin, and the admission that another proposes.

    Parameters
    ----------
    home
        Folder to write; nothing may be there yet.
    organisation
        Id of the new organisation, such as hospital-5.
    title
        What it is called, in words.
    region
        ISO 3166 code of where it is, such as DE or US-MN.
    like
        Folder of another admin, with genesis.json and concilium.toml: whom to ask is copied.
    id
        Id of the admin; the organisation's with .admin if not given.
    """
    from node.home.admission import Newcomer, write_admin

    settings = config.load(config.OfficeConfig, like, {})
    newcomer = Newcomer(organisation, title, region, id or f"{organisation}.admin")
    document = write_admin(home, newcomer, settings.chain.genesis, settings.client)
    show(
        output,
        {"home": str(home), "document": str(document)},
        f"Wrote {home}. Next, an admin of an organisation with a seat:\n"
        f"  concilium governance propose ADMIN_HOME {document}",
    )


@app.command
def propose(
    home: Path,
    document: Path,
    *,
    id: str | None = None,
    blocks: int = BLOCKS,
    output: Format = "text",
) -> None:
    """Propose a change; the admin's own organisation approves it thereby.

    Parameters
    ----------
    home
        The admin's folder with concilium.toml.
    document
        JSON file with the change, such as the seat.json of `concilium validator init`.
    id
        Id of the proposal; made from the change if not given.
    blocks
        For how many blocks it can be approved.
    """
    if not 1 <= blocks <= PROPOSAL_BLOCKS_MAX:
        raise Refused(
            "usage.blocks", f"expected --blocks of 1 to {PROPOSAL_BLOCKS_MAX}, found {blocks}"
        )
    asyncio.run(_propose(home, _parse(document), id, blocks, output))


@app.command
def approve(home: Path, id: str, *, output: Format = "text") -> None:
    """Approve a proposal for the admin's organisation: look at it first with `show`.

    Parameters
    ----------
    home
        The admin's folder with concilium.toml.
    id
        Id of the proposal.
    """
    asyncio.run(_approve(home, id, output))


@app.command(name="list")
def list_(home: Path, *, closed: bool = False, output: Format = "text") -> None:
    """Show the open proposals and who has approved them; every answer is proven.

    Parameters
    ----------
    home
        The admin's or steward's folder with concilium.toml.
    closed
        Also those that were applied or have expired.
    """
    asyncio.run(_list(home, closed, output))


@app.command(name="show")
def show_(home: Path, id: str, *, output: Format = "text") -> None:
    """Show one proposal whole.

    Parameters
    ----------
    home
        The admin's or steward's folder with concilium.toml.
    id
        Id of the proposal.
    """
    asyncio.run(_show(home, id, output))


async def _propose(home: Path, change: Any, id: str | None, blocks: int, output: Format) -> None:
    async with pen(home) as submitter:
        height = await submitter.height()
        body = from_json(
            Propose,
            {"id": id or _name(change), "change": change, "expires_height": height + blocks},
        )
        receipt = await submitter.submit("governance.propose", body)
        await _tell(submitter.client, home, body.id, receipt, output)


async def _approve(home: Path, id: str, output: Format) -> None:
    async with pen(home) as submitter:
        receipt = await submitter.submit("governance.approve", Approve(id))
        await _tell(submitter.client, home, id, receipt, output)


async def _tell(client: Client, home: Path, id: str, receipt: Receipt, output: Format) -> None:
    proposal = await _require(client, id)
    names = ", ".join(item.organisation for item in proposal.approvals)
    text = f"{id} is {proposal.phase.value} at height {receipt.height}, approved by {names}."
    if proposal.phase is ProposalPhase.OPEN:
        text += (
            " It is applied once more than two thirds of the organisations with a seat have "
            f"approved. Next, their admins:\n  concilium governance approve {home} {id}"
        )
    show(output, {"receipt": dump(receipt), "proposal": dump(proposal)}, text)


async def _list(home: Path, closed: bool, output: Format) -> None:
    async with _reader(home) as client:
        found = [
            item
            for item in await records(client, Proposal)
            if closed or item.phase is ProposalPhase.OPEN
        ]
    table = Table("proposal", "change", "of", "phase", "approved by", "until height")
    for item in found:
        approvals = ", ".join(approval.organisation for approval in item.approvals)
        what = dump(item.change)
        subject = what.get("id", what.get("protocol", ""))
        table.add_row(
            item.id,
            f"{what['type']} {subject}",
            item.organisation,
            item.phase.value,
            approvals,
            str(item.expires_height),
        )
    nothing = "No proposal" if closed else "No open proposal"
    show(output, dump(found), Group(table) if found else nothing)


async def _show(home: Path, id: str, output: Format) -> None:
    async with _reader(home) as client:
        proposal = await _require(client, id)
    show(output, dump(proposal), json.dumps(dump(proposal), indent=2))


async def _require(client: Client, id: str) -> Proposal:
    proposal = await client.record(Proposal, id)
    if proposal is None:
        raise Refused("proposal.missing", f"expected proposal {id} on the chain, found none")
    return proposal


def _reader(home: Path) -> Client:
    settings = config.load(config.OfficeConfig, home, os.environ)
    urls = [validator.http for validator in settings.client.validators]
    reader = credentials_of(settings.member, settings.tls)
    return Client(read_genesis(settings.chain.genesis), urls, reader)


def _name(change: Any) -> str:
    """An id that says what is proposed, and that nobody has used before."""
    tag = str(change.get("type", "change")) if isinstance(change, dict) else "change"
    return f"{tag.replace('_', '-')}-{secrets.token_hex(NONCE_BYTES)}"


def _parse(path: Path) -> Any:
    try:
        return json.loads(read_file(path))
    except ValueError as error:
        raise Refused("document.json", f"{path}: expected JSON, found: {error}") from error
