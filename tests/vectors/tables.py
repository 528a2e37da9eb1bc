"""The tables of docs/protocol.md that follow from the code: `python -m tests.vectors.tables`.

In the document each stands between `<!-- table: NAME -->` and `<!-- end -->`. A test demands that
what stands there is what the code says.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from consensus import message
from fl import task
from node.api.filters import PAGING
from node.api.problem import PROBLEMS
from node.api.resource import LINEAGE_PATH, RESOURCES
from node.api.routes import OTHERS, READS
from node.program import program
from node.validator.snapshot import Offer, Snapshot, Steps, WindowPart
from node.wire.cid import Manifest
from tests.vectors import BUILDERS
from vm import (
    accesslog,
    block,
    conduct,
    digest,
    encoding,
    epoch,
    genesis,
    inclusion,
    learning,
    opened,
    proposal,
    quorum,
    record,
    shape,
    succession,
    terms,
    transaction,
    usage,
)
from vm import range as state_range
from vm.access import ACCESS
from vm.certificate import CheckpointCertificate, Vote
from vm.range import StateRange
from vm.shape import Bytes, Int, Many, Text
from vm.statement import SlotKind

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
MARKED = re.compile(r"(<!-- table: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
IN_MODULE = re.compile(r"`(?:vm|fl|node|consensus)\.\w+\.(\w+)")
POWERS = {
    sign * 2**bits + step: f"{'-' * (sign < 0)}2^{bits}{' - 1' * (step < 0)}"
    for bits in range(16, 64)
    for sign in (1, -1)
    for step in (0, -1)
}
TEXTS: dict[Text, str] = {
    get_args(alias)[1]: name
    for name, alias in {
        "name": shape.Name,
        "code": shape.Code,
        "note": shape.Note,
        "address": shape.Address,
        "title": record.Title,
        "region": record.Region,
        "condition": record.Condition,
        "label": record.Label,
        "digits": record.KeyDigits,
        "endpoint": proposal.HostPort,
    }.items()
}


def records() -> list[Any]:
    """The classes of the state's records, in order of definition."""
    return [
        found
        for module in (record, quorum, epoch, proposal, learning, conduct, usage, accesslog)
        for found in vars(module).values()
        if inspect.isclass(found) and found.__module__ == module.__name__ and hasattr(found, "KIND")
    ]


def groups() -> dict[str, list[Any]]:
    """The classes that are read or hashed by themselves; parts follow where first used."""
    return {
        "Arrays of certificates": [quorum.ValidatorSet, Vote, CheckpointCertificate],
        "Arrays of the ledger": [
            *(genesis.Genesis, transaction.Intent, transaction.Transaction),
            *(block.Payload, block.Header, block.Receipt),
        ],
        "Records of the state": records(),
        "Bodies of transactions": [kind.body for kind in program().kinds.values()],
        "Messages of consensus": [message.Envelope],
        "Arrays of proofs": [
            inclusion.CertifiedHeader,
            inclusion.RecordProof,
            inclusion.TransactionProof,
            inclusion.MultiProof,
            inclusion.BlockProof,
            inclusion.ConsistencyProof,
            succession.Step,
            usage.Use,
            opened.UseProof,
        ],
        "Arrays of state sync": [Offer, Steps, Snapshot, StateRange, WindowPart],
        "Arrays of blobs": [Manifest],
        "Arrays of access logs": [accesslog.AccessLine],
    }


def shapes() -> Iterator[str]:
    """Every array of the protocol, field by field."""
    told: set[type] = set()
    for title, classes in groups().items():
        yield f"### {title}\n"
        for cls in classes:
            yield from _shape(cls, told)


def _shape(cls: Any, told: set[type]) -> Iterator[str]:
    if cls in told:
        return
    told.add(cls)
    hints = get_type_hints(cls, include_extras=True)
    yield f"#### {cls.__name__}\n"
    yield from _marks(cls)
    meaning = IN_MODULE.sub(r"`\1", inspect.cleandoc(cls.__doc__))
    for python, plain in (("Raises `Refused` with", "Refused with"), ("None", "nil")):
        meaning = meaning.replace(python, plain)
    yield meaning + "\n"
    rows = [("0", "version", str(cls.VERSION))]
    for place, item in enumerate(fields(cls), start=1):
        rows.append((str(place), f"`{item.name}`", spelled(hints[item.name])))
    yield from _table(("", "field", "type"), rows)
    for item in fields(cls):
        for part in _parts(hints[item.name]):
            yield from _shape(part, told)


def _marks(cls: Any) -> Iterator[str]:
    if hasattr(cls, "TAG"):
        yield f"Tag `{cls.TAG}`.\n"
    if hasattr(cls, "KIND"):
        parts = re.findall(r"self\.(\w+)", inspect.getsource(cls.key.fget))
        key = ", ".join((f'"{cls.KIND}"', *parts))
        yield f"State key `[{key}]`.\n"


def spelled(hint: Any) -> str:
    """A field's type and bounds in words."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, bound = get_args(hint)[:2]
        return _bounded(base, bound)
    if origin in (Union, UnionType):
        choices = [choice for choice in get_args(hint) if choice is not NoneType]
        words = spelled(choices[0]) if len(choices) == 1 else _tagged(choices)
        return words + " or nil" * (NoneType in get_args(hint))
    if hint is bool:
        return "bool"
    if issubclass(hint, StrEnum):
        return "one of " + ", ".join(f"`{choice.value}`" for choice in hint)
    return f"[{hint.__name__}](#{hint.__name__.lower()})"


def _tagged(choices: list[Any]) -> str:
    named = (f"[{choice.TAG}](#{choice.__name__.lower()})" for choice in choices)
    return "tagged: " + ", ".join(named)


def _bounded(base: Any, bound: Int | Text | Bytes | Many) -> str:
    match bound:
        case Int(low, high):
            return f"int {_number(low)} to {_number(high)}"
        case Bytes(low, high):
            return f"bytes, {_range(low, high)}"
        case Text():
            return TEXTS[bound]
        case Many(high, low):
            return f"array of {_range(low, high)}: {spelled(get_args(base)[0])}"


def _range(low: int, high: int) -> str:
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _number(value: int) -> str:
    return POWERS.get(value, str(value))


def _parts(hint: Any) -> Iterator[Any]:
    """The classes inside a field's type."""
    if get_origin(hint) is Annotated:
        yield from _parts(get_args(hint)[0])
    elif get_origin(hint) is not None:
        for inner in get_args(hint):
            yield from _parts(inner)
    elif is_dataclass(hint):
        yield hint


def texts() -> Iterator[str]:
    """The named kinds of text."""
    rows = [(name, str(text.bytes_max), f"`{text.pattern}`") for text, name in TEXTS.items()]
    yield from _table(("type", "bytes at most", "pattern, matched whole"), rows)


def tags() -> Iterator[str]:
    """The digest tags, each once."""
    rows = [(f"`{tag}`",) for tag in sorted(all_tags())]
    yield from _table(("tag",), rows)


def all_tags() -> set[str]:
    """The constants of `vm.digest`, and one for each kind of slot."""
    constants = (value for name, value in vars(digest).items() if name.isupper())
    own = {tag for tag in constants if isinstance(tag, str)}
    return own | {f"concilium.{kind.value}.v1" for kind in SlotKind}


def access() -> Iterator[str]:
    """Who may send which kind, what its body is, and who is shown its transactions."""
    kinds = program().kinds
    rows = [
        (
            f"`{kind}`",
            ", ".join(sorted(role.value for role in access.senders)),
            spelled(kinds[kind].body),
            "known readers" if access.restricted else "readers",
        )
        for kind, access in ACCESS.items()
    ]
    yield from _table(("kind", "roles", "body", "shown to"), rows)


LIMITS: tuple[tuple[ModuleType, str], ...] = (
    (block, "TRANSACTIONS_MAX"),
    (block, "PAYLOAD_BYTES_MAX"),
    (transaction, "BODY_BYTES_MAX"),
    (transaction, "TRANSACTION_BYTES_MAX"),
    (transaction, "TX_LIFETIME_BLOCKS_MAX"),
    (record, "WINDOW_MAX"),
    (message, "BLOCKS_MAX"),
    (message, "ENVELOPE_BYTES_MAX"),
    (learning, "TASKS_OPEN_MAX"),
    (learning, "TASKS_OPEN_OF_ORGANISATION_MAX"),
    (terms, "BATCH_ROWS_MIN"),
    (terms, "ROWS_DRAWN_MIN"),
    (learning, "FAILURES_MAX"),
    (terms, "SEGMENTS_MAX"),
    (terms, "WEIGHT_MAX"),
    (proposal, "PROPOSALS_OPEN_MAX"),
    (proposal, "PROPOSALS_OPEN_OF_ORGANISATION_MAX"),
    (proposal, "PROPOSAL_BLOCKS_MAX"),
    (inclusion, "RECORDS_MAX"),
    (inclusion, "SIBLINGS_MAX"),
    (inclusion, "MULTIPROOF_BYTES_MAX"),
    (inclusion, "MULTIPROOF_ITEMS_MAX"),
    (usage, "ENTRIES_MAX"),
    (usage, "COUNT_MAX"),
    (usage, "AGE_MS_MAX"),
    (usage, "HOUR_MS"),
    (usage, "AHEAD_MS_MAX"),
    (opened, "USE_BYTES_MAX"),
    (opened, "PROOF_BYTES_MAX"),
    (opened, "PROOF_ITEMS_MAX"),
    (encoding, "ITEMS_MAX"),
    (state_range, "RANGE_LEAVES_MAX"),
    (state_range, "RANGE_CONTENT_BYTES_MAX"),
    (state_range, "RANGE_BYTES_MAX"),
    (task, "AGGREGATE_COORDINATES_MAX"),
)


def limits() -> Iterator[str]:
    """Numbers that this text calls by name."""
    rows = [(f"`{name}`", str(getattr(module, name))) for module, name in LIMITS]
    yield from _table(("name", "value"), rows)


def resources() -> Iterator[str]:
    """Where records are read."""
    rows = [(f"`{item.path}`", spelled(item.record)) for item in RESOURCES]
    yield from _table(("path", "record"), [*rows, (f"`{LINEAGE_PATH}`", "its lineage")])


def routes() -> Iterator[str]:
    """Everything else that is served: parameters, and what it is; lists in all formats."""
    named = {item.path for item in RESOURCES} | {LINEAGE_PATH}
    named |= {item.collection for item in RESOURCES}
    rows = [
        (
            f"`GET {read.path}`",
            _names(read.query, PAGING),
            "list" if read.columns else "",
            read.summary,
        )
        for read in READS
        if read.path not in named
    ]
    rows += [
        (f"`{other.method.upper()} {other.path}`", _names(other.query), "", other.summary)
        for other in OTHERS
    ]
    yield from _table(("route", "parameters", "", "answer"), rows)


def filters() -> Iterator[str]:
    """By what each list can be filtered."""
    rows = [
        (f"`{read.path}`", _names(read.query, PAGING))
        for read in READS
        if read.columns and set(read.query.model_fields) - PAGING - {read.turn}
    ]
    yield from _table(("list", "filters"), rows)


def _names(query: type[BaseModel], but: Collection[str] = ()) -> str:
    names = (field.alias or name for name, field in query.model_fields.items())
    return ", ".join(f"`{name}`" for name in names if name not in but)


def problems() -> Iterator[str]:
    """The HTTP interface's own refusals."""
    rows = [(f"`{code}`", str(item.status), item.title) for code, item in PROBLEMS.items()]
    yield from _table(("code", "status", "title"), rows)


def vectors() -> Iterator[str]:
    """Which section each vector file checks."""
    rows = [(f"`{name}.json`", section) for name, (section, _) in BUILDERS.items()]
    yield from _table(("file", "section"), rows)


def _table(titles: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    for row in (titles, ("---",) * len(titles), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "vectors": vectors,
    "texts": texts,
    "tags": tags,
    "limits": limits,
    "access": access,
    "resources": resources,
    "routes": routes,
    "filters": filters,
    "problems": problems,
    "shapes": shapes,
}


def filled(document: str) -> str:
    """The document with every table as the code has it now."""

    def fill(match: re.Match[str]) -> str:
        begin, name, _, end = match.groups()
        return begin + "\n" + "\n".join(TABLES[name]()) + "\n" + end

    return MARKED.sub(fill, document)


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text()))
