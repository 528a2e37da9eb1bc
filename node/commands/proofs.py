"""`concilium audit record`, `transaction` and `block`: one proof, verified and kept as a file."""

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from node.api.resource import BY_KIND, parse_digest, parse_part
from node.audit.check import Audit
from node.audit.file import Proof, verify_file, write_file
from node.commands.files import check_absent, write_new
from node.commands.report import Format, show_audit
from node.commands.source import AS_FOLLOWED, Followed, Source
from node.light import ask
from vm.inclusion import BlockProof, RecordProof, TransactionProof
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX
from vm.state import state_key

AtHeight = Annotated[int, Parameter(validator=Number(gte=0, lte=HEIGHT_MAX))]


def record(
    kind: str,
    /,
    *key: str,
    options: Followed = AS_FOLLOWED,
    at: AtHeight | None = None,
    save: Path | None = None,
    output: Format = "text",
) -> None:
    """Prove one record, or that there is none, now or at a height that a node still keeps.

    Parameters
    ----------
    kind
        Kind of record, such as member or dataset.
    key
        The parts of its key in order, such as hospital-1.opt.
    at
        Height at which it is proven; the newest if not given.
    save
        Write the proof to this file, for `concilium audit verify FILE` elsewhere.
    """
    resource = BY_KIND.get(kind)
    if resource is None:
        raise Refused("usage.kind", f"expected one of {', '.join(BY_KIND)}, found {kind[:80]}")
    if len(key) != len(resource.parts):
        raise Refused(
            "usage.key", f"expected the parts {' '.join(resource.parts)}, found {len(key)} parts"
        )
    parts = tuple(parse_part(name, text) for name, text in zip(resource.parts, key, strict=True))
    wanted = ask.Wanted(
        path=resource.item(parts) + ("" if at is None else f"?at={at}"),
        proof=RecordProof,
        height=at,
        key=state_key(resource.record.KIND, parts),
    )
    _prove(options.source(), wanted, save, output)


def transaction(
    id: str,
    /,
    *,
    options: Followed = AS_FOLLOWED,
    save: Path | None = None,
    output: Format = "text",
) -> None:
    """Prove that a transaction was executed, with its receipt.

    Parameters
    ----------
    id
        Its id, 64 hexadecimal digits.
    save
        Write the proof to this file, for `concilium audit verify FILE` elsewhere.
    """
    wanted = ask.Wanted(
        path=f"/v1/transactions/{parse_digest(id).hex()}",
        proof=TransactionProof,
        height=None,
        key=parse_digest(id),
    )
    _prove(options.source(), wanted, save, output)


def block(
    height: AtHeight,
    /,
    *,
    options: Followed = AS_FOLLOWED,
    save: Path | None = None,
    output: Format = "text",
) -> None:
    """Prove that a block stands in the history of the newest checkpoint.

    Parameters
    ----------
    height
        The block's height.
    save
        Write the proof to this file, for `concilium audit verify FILE` elsewhere.
    """
    _prove(options.source(), height, save, output)


def _prove(source: Source, wanted: ask.Wanted | int, save: Path | None, output: Format) -> None:
    if save is not None:
        check_absent(save)
    show_audit(output, asyncio.run(_fetch(source, wanted, save)))


async def _fetch(source: Source, wanted: ask.Wanted | int, save: Path | None) -> Audit:
    """Fetch a proof, make its file, and verify that as anybody would."""
    async with source.client() as (client, held):
        proof: Proof
        if isinstance(wanted, int):
            proof = BlockProof(await ask.block(client, wanted))
        else:
            proof = await ask.proof(client, wanted)
        steps = client.proven.steps
    text = write_file(proof, steps, anchor=None if held is None else held.start)
    audit = verify_file(source.trust(held), text)
    if save is not None:
        write_new(save, text.encode())
    return audit
