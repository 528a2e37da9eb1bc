"""`concilium status` and `concilium audit`: looking from outside, trusting no node."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from cyclopts import App
from rich.console import Group
from rich.table import Table

from node.api.views import StatusView
from node.audit.check import Audit
from node.audit.file import Version, trust_in, verify_file, write_file
from node.audit.model import audit_model
from node.case import CASE_BYTES_MAX, MAGIC
from node.commands import light, proofs
from node.commands.access import access
from node.commands.attest import learning
from node.commands.case import report
from node.commands.files import check_absent, read_file, write_new
from node.commands.report import Format, show, show_audit
from node.commands.source import AS_FOLLOWED, NODES, Followed, Nodes, Source
from node.light.conflict import audit_conflict, is_conflict, read_conflict
from node.light.history import History
from vm.refusal import Refused
from vm.trust import Trust

app = App(
    name="audit",
    help="Follow a chain and verify what its nodes say, or a training at its hospital.",
)
app.command(learning)
for command in (
    access,
    report,
    light.sync,
    light.pin,
    light.watch,
    proofs.record,
    proofs.transaction,
    proofs.block,
):
    app.command(command)


@app.command
def verify(
    file: Path | None = None,
    *,
    options: Followed = AS_FOLLOWED,
    model: str | None = None,
    version: int | None = None,
    save: Path | None = None,
    output: Format = "text",
) -> None:
    """Verify a model's whole lineage over HTTP, or offline a proof file, case file or evidence.

    What counts is the store's history if there is one, else --pin, else genesis alone.

    Parameters
    ----------
    file
        A proof file, a case file, or evidence of a fork, to verify offline.
    model
        Id of the model to audit.
    version
        Which version; the newest if not given.
    save
        Write the proof to this file, for `concilium audit verify FILE` elsewhere.
    """
    if (file is None) == (model is None):
        raise Refused("usage.subject", "expected either --model or a file, and not both")
    source = options.source(offline=file is not None)
    if file is not None:
        audit = _verify_file(source, read_file(file, CASE_BYTES_MAX))
    elif model is not None:
        audit = asyncio.run(_audit_model(source, model, version, save))
    show_audit(output, audit)


def _verify_file(source: Source, data: bytes) -> Audit:
    """Verify by what was followed, by the pin with what the file brings of it, or by genesis."""
    held = source.held()
    pin = source.pin if held is None else held.pin
    if is_conflict(data):
        return audit_conflict(read_conflict(source.genesis, pin, data))
    if data.startswith(MAGIC):
        from node.case.archive import lineage_file, verify_case  # loads what only case files need

        return verify_case(_trust(source, held, lambda: lineage_file(data)), data)
    return verify_file(_trust(source, held, lambda: data), data)


def _trust(source: Source, held: History | None, proof_file: Callable[[], bytes]) -> Trust:
    """What a file is verified by; with a bare pin it brings what makes that of use."""
    if held is None and source.pin is not None:
        return trust_in(source.pin, proof_file())
    return source.trust(held)


async def _audit_model(source: Source, model: str, version: int | None, save: Path | None) -> Audit:
    if save is not None:
        check_absent(save)
    async with source.client() as (client, held):
        found = await audit_model(client, model, version)
        steps = client.proven.steps
    if save is not None:
        subject = Version(model, found.lineage.model.version)
        start = None if held is None else held.start
        write_new(save, write_file(found.proof, steps, lineage=subject, anchor=start).encode())
    return found.audit


def status(
    *,
    options: Nodes = NODES,
    output: Format = "text",
) -> None:
    """Show what each validator says of itself: its view, heights and state root."""
    source = options.source()
    found = asyncio.run(_statuses(source))
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


async def _statuses(source: Source) -> dict[str, StatusView | Refused]:
    async def ask(url: str) -> StatusView | Refused:
        try:
            async with source.connect([url]) as client:
                return await client.status()
        except Refused as refused:
            return refused

    answers = await asyncio.gather(*(ask(url) for url in source.urls))
    return dict(zip(source.urls, answers, strict=True))
