"""`concilium status` and `concilium audit`: looking from outside, trusting genesis only."""

import asyncio
from pathlib import Path

from cyclopts import App
from rich.console import Group
from rich.table import Table

from node.api.views import StatusView
from node.audit.check import FILE_BYTES_MAX, Audit, audit_model, utc, verify_file, write_file
from node.client.client import Client
from node.client.credentials import Credentials
from node.commands.access import access
from node.commands.attest import learning
from node.commands.files import check_absent, read_file, write_new
from node.commands.reader import reader_of, where
from node.commands.report import Format, Many, show
from node.home.document import dump
from node.home.genesis import read_genesis
from vm.refusal import Refused

app = App(
    name="audit",
    help="Verify what a network says against its genesis document, or a training at its hospital.",
)
app.command(learning)
app.command(access)


@app.command
def verify(
    file: Path | None = None,
    *,
    home: Path | None = None,
    genesis: Path | None = None,
    url: Many = (),
    model: str | None = None,
    version: int | None = None,
    save: Path | None = None,
    member: str | None = None,
    key: Path | None = None,
    output: Format = "text",
) -> None:
    """Verify a model's whole lineage over HTTP, or a proof file offline.

    Parameters
    ----------
    file
        A proof file to verify offline, instead of asking a network.
    home
        An auditor's folder with concilium.toml: genesis and validators are taken from it.
    genesis
        The genesis document, if no home is given.
    url
        HTTP API of a validator, if no home is given; may be given more than once.
    model
        Id of the model to audit.
    version
        Which version; the newest if not given.
    save
        Write the proof to this file, for `concilium audit verify FILE` elsewhere.
    member
        Id of the member who reads, if no home is given and the network is not public.
    key
        Its signing key.
    """
    if file is not None and model is None:
        path, _ = where(home, genesis, url, offline=True)
        audit = verify_file(read_genesis(path), read_file(file, FILE_BYTES_MAX))
    elif model is not None and file is None:
        path, urls = where(home, genesis, url)
        audit = asyncio.run(
            _audit_model(path, urls, reader_of(home, member, key), model, version, save)
        )
    else:
        raise Refused("usage.subject", "expected either --model or a proof file, and not both")
    lines = "\n".join(f"  verified: {step}" for step in audit.steps)
    show(
        output,
        dump(audit),
        f"{audit.subject} at height {audit.height}, {utc(audit.time_ms)}\n{lines}",
    )


async def _audit_model(
    genesis: Path,
    urls: tuple[str, ...],
    reader: Credentials | None,
    model: str,
    version: int | None,
    save: Path | None,
) -> Audit:
    if save is not None:
        check_absent(save)
    async with Client(read_genesis(genesis), urls, reader) as client:
        found = await audit_model(client, model, version)
        steps = client.proven.steps
    if save is not None:
        write_new(save, write_file(found.proof, steps).encode())
    return found.audit


def status(
    *,
    home: Path | None = None,
    genesis: Path | None = None,
    url: Many = (),
    member: str | None = None,
    key: Path | None = None,
    output: Format = "text",
) -> None:
    """Show what each validator says of itself: its view, heights and state root.

    Parameters
    ----------
    home
        An auditor's folder with concilium.toml: genesis and validators are taken from it.
    genesis
        The genesis document, if no home is given.
    url
        HTTP API of a validator, if no home is given; may be given more than once.
    member
        Id of the member who reads, if no home is given and the network is not public.
    key
        Its signing key.
    """
    path, urls = where(home, genesis, url)
    found = asyncio.run(_statuses(path, urls, reader_of(home, member, key)))
    data = {
        at: {"error": answer.code, "message": answer.message}
        if isinstance(answer, Refused)
        else answer.model_dump()
        for at, answer in found.items()
    }
    show(output, data, _describe(found))
    if all(isinstance(answer, Refused) for answer in found.values()):
        raise Refused("client.unreachable", "expected one validator to answer, found none")


def _describe(found: dict[str, StatusView | Refused]) -> Group:
    """A table of those that answered, and a line for each that did not."""
    table = Table(
        "validator",
        "part",
        "epoch",
        "view",
        "primary",
        "executed",
        "certified",
        "state root",
        "peers",
    )
    silent = []
    for url, answer in found.items():
        if isinstance(answer, Refused):
            silent.append(f"{url} did not answer: {answer.code}: {answer.message}")
        else:
            table.add_row(
                answer.name,
                answer.role,
                str(answer.epoch),
                str(answer.view),
                answer.primary,
                str(answer.executed_height),
                str(answer.certified_height),
                answer.state_root[:16],
                str(answer.peers),
            )
    return Group(*([table] if table.row_count else []), *silent)


async def _statuses(
    genesis: Path, urls: tuple[str, ...], reader: Credentials | None
) -> dict[str, StatusView | Refused]:
    trusted = read_genesis(genesis)

    async def ask(url: str) -> StatusView | Refused:
        try:
            async with Client(trusted, [url], reader) as client:
                return await client.status()
        except Refused as refused:
            return refused

    answers = await asyncio.gather(*(ask(url) for url in urls))
    return dict(zip(urls, answers, strict=True))
