"""`concilium audit access`: who was shown what is restricted, as the chain's digests bear out."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from node.audit.access import LINES_NEW_MAX, NOTHING, Known, new_lines, reach, validator_of
from node.client.client import Client
from node.client.listing import records
from node.commands.files import read_file
from node.commands.report import Format, show
from node.commands.source import AS_FOLLOWED, Followed, Source
from node.home.document import dump
from node.wire.disk import replace_file
from vm.accesslog import AccessLine, AccessLog
from vm.refusal import Refused

UNSEEN = "access_log.unseen"


@dataclass(frozen=True, slots=True)
class Found:
    """One validator's log, as far as it was read: `left` lines are missing to its digest on chain.

    `number` counts the logs that it has begun; `reads` are the lines beyond what was known, by
    reader and kind, and `lines` themselves, if they were asked for.
    """

    validator: str
    number: int
    known: Known
    height: int
    left: int
    reads: Counter[tuple[str, str]]
    lines: list[AccessLine]


def access(
    *,
    options: Followed = AS_FOLLOWED,
    keep: Path | None = None,
    lines: bool = False,
    output: Format = "text",
) -> None:
    """Verify validators' access logs against their digests on chain, and count who read what.

    What counts is the store's history if there is one, else --pin, else genesis alone. Validators
    whose log no node has shown are named, and so are those that were removed since.

    Parameters
    ----------
    keep
        A file with the digests that were verified before, which the logs must begin with; it is
        written anew with those of now. With it only new lines are read, 100,000 of a log at a
        time: go on by running the command again.
    lines
        Print every new line, with --format json.
    """
    source = options.source()
    before = {} if keep is None or not keep.exists() else _read(keep)
    found = asyncio.run(_verify_all(source, before, lines))
    good = {at: item for at, item in found.items() if isinstance(item, Found)}
    if keep is not None:
        _write(keep, before | {item.validator: item.known for item in good.values()})
    show(output, {at: _data(item, lines) for at, item in found.items()}, _table(found))
    refusals = [item for item in found.values() if isinstance(item, Refused)]
    failures = [item for item in refusals if item.code != UNSEEN]  # few may have been asked
    for refused in sorted(failures, key=lambda item: item.code != "audit.access"):
        raise refused
    for item in good.values():
        if item.left:
            raise _unfinished(item)


async def _verify_all(
    source: Source,
    before: dict[str, Known],
    lines: bool,
) -> dict[str, Found | Refused]:
    """What each node's log comes to, and by id the validators whose log nobody showed.

    A node says itself whose log it has: only once it has shown lines of it in this run is another
    one refused that says the same.
    """
    found: dict[str, Found | Refused] = {}
    shown: dict[str, str] = {}  # by validator, at which URL
    async with source.client() as (client, _):
        for url in source.urls:
            try:
                async with source.connect([url]) as node:
                    validator = await validator_of(node)
                    if validator in shown:
                        raise _shown_twice(url, validator, shown[validator])
                    known = before.get(validator, NOTHING)
                    item = found[url] = await _verify(client, node, validator, known, lines)
                    if item.known.size:  # then lines were shown, new ones or the last known
                        shown[validator] = url
            except Refused as refused:
                found[url] = refused
        seen = {item.validator for item in found.values() if isinstance(item, Found)}
        for validator in await _validators(source, client):
            if validator not in seen:
                found[validator] = _unseen(validator)
    return found


async def _validators(source: Source, client: Client) -> list[str]:
    """Who has a seat, and who had one: by the epochs that are known, and by the digests on chain.

    Nothing proves that a node has left no digest out, so all of them are asked; what one refuses
    to list, or lists falsely, another one lists.
    """
    listed: list[str] = []
    for url in source.urls:
        with suppress(Refused):
            async with source.connect([url], client.proven) as node:
                listed += [log.validator for log in await records(node, AccessLog)]
    epochs = reversed(client.proven.epochs)
    seated = [seat.id for epoch in epochs for seat in epoch.validators.validators]
    return list(dict.fromkeys(seated + listed))


async def _verify(client: Client, node: Client, validator: str, known: Known, lines: bool) -> Found:
    """What a validator's log comes to, read from its node under the digest that `client` proves."""
    record, header = await client.record_at(AccessLog, validator)
    if record is None:  # nothing was published yet
        if client.proven.epochs[-1].validators.get(validator) is None:
            raise Refused("audit.access", f"expected a validator's log, found one of {validator}")
        record = AccessLog(
            *(validator, NOTHING.log, 0, NOTHING.size, NOTHING.root),
            *(header.height, header.time_ms),
        )
    digest = Known(record.log, record.size, record.root)
    part = await reach(node, digest, known)
    left = digest.size - part.size
    found = Found(validator, record.number, part, record.height, left, Counter(), [])
    async for line in new_lines(node, part, known):
        found.reads[line.reader, line.kind] += 1
        if lines:
            found.lines.append(line)
    return found


def _shown_twice(url: str, validator: str, other: str) -> Refused:
    return Refused(
        "audit.access",
        f"{url}: expected another validator's log, found that of {validator}, which {other} has "
        "shown: one of the two hides its own",
    )


def _unseen(validator: str) -> Refused:
    return Refused(
        UNSEEN, f"expected the log of {validator} from one of the nodes that were asked, found none"
    )


def _unfinished(found: Found) -> Refused:
    return Refused(
        "access_log.unfinished",
        f"expected at most {LINES_NEW_MAX} new lines of {found.validator} in one run, found "
        f"{found.left} more: run again with --keep, as often as it takes",
    )


def _read(path: Path) -> dict[str, Known]:
    try:
        document = json.loads(read_file(path))
        return {
            str(validator): Known(
                bytes.fromhex(item["log"]), int(item["size"]), bytes.fromhex(item["root"])
            )
            for validator, item in document.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("file.format", f"{path}: expected digests kept before: {error}") from None


def _write(path: Path, known: dict[str, Known]) -> None:
    replace_file(path, json.dumps({id: dump(item) for id, item in known.items()}).encode())


def _data(item: Found | Refused, lines: bool) -> dict[str, Any]:
    if isinstance(item, Refused):
        return {"error": item.code, "message": item.message}
    return {
        "validator": item.validator,
        "log": item.number,
        "size": item.known.size,
        "root": item.known.root.hex(),
        "height": item.height,
        "new": item.reads.total(),
        "left": item.left,
        "reads": [
            {"reader": reader, "kind": kind, "lines": count}
            for (reader, kind), count in sorted(item.reads.items())
        ],
        **({"lines": [dump(line) for line in item.lines]} if lines else {}),
    }


def _table(found: dict[str, Found | Refused]) -> Table:
    table = Table("validator", "log", "lines", "root", "reader", "kind", "new lines")
    for url, item in found.items():
        if isinstance(item, Refused):
            table.add_row(url, "", "", item.code, "", "", "")
            continue
        table.add_row(
            item.validator, str(item.number), str(item.known.size), item.known.root.hex()[:16]
        )
        for (reader, kind), count in sorted(item.reads.items()):
            table.add_row("", "", "", "", reader, kind, str(count))
    return table
