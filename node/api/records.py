"""Records: one, several, a page of a list, a round with all that belongs to it, a lineage."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from node.api.answer import BUSY, HEIGHT, Answer, Path, Read, problem
from node.api.context import ApiContext
from node.api.cursor import read_cursor, write_cursor
from node.api.export import columns_of
from node.api.filters import about, mentions, named, query_of
from node.api.keys import read_keys
from node.api.proofs import if_kept
from node.api.resource import (
    BY_RECORD,
    LINEAGE_PATH,
    RESOURCES,
    TOGETHER_PATH,
    Key,
    Resource,
    parse_number,
    parse_part,
)
from node.api.views import (
    AtQuery,
    KeysQuery,
    LineageAnswer,
    ListQuery,
    RecordAnswer,
    RecordPage,
    RecordsQuery,
    RecordView,
    RoundAnswer,
    TogetherAnswer,
    base64_text,
    checkpoint_view,
    record_view,
)
from node.audit.prove import prove_key, prove_lineage, prove_together, view_at, view_header
from node.readers.shown import lineage_shown, records_shown
from vm.inclusion import RecordProof, write_multiproof
from vm.learning import Commitment, Decline, Round, Update, Verdict
from vm.shape import pack, unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import Record, state_key

if TYPE_CHECKING:
    from node.validator.view import View

SCAN_RECORDS_MAX = 500  # looked at for one page of a filtered list: 0.1 s of a core


def _read_one(resource: Resource) -> Read:
    def answer(context: ApiContext, path: Path, query: AtQuery) -> Answer:
        key = _key(resource, path)
        view = view_at(context.chain, query.at)
        proof = prove_key(context.chain, view, state_key(resource.record.KIND, key))
        if proof.value is None:
            return _missing(resource, key, proof)
        found = _view(context, resource, proof)
        answer = RecordAnswer(**dict(found), checkpoint=checkpoint_view(proof.certified))
        return Answer(answer, shown=records_shown((proof.key,), view.height))

    return Read(
        resource.path,
        AtQuery,
        if_kept(answer),
        f"One {resource.label}, or the proof that there is none",
        RecordAnswer,
        ("id.invalid", "record.missing", *HEIGHT, *BUSY),
    )


def _read_list(resource: Resource) -> Read:
    def answer(context: ApiContext, path: Path, query: RecordsQuery) -> Answer:
        prefix = tuple(parse_part(part, path[part]) for part in resource.parts[:-1])
        name = named(resource.list(prefix), query)
        after = b"" if query.cursor is None else read_cursor(name, query.cursor)
        view = view_at(context.chain, query.at)
        keys = _keys(context, view, resource, prefix, after)
        found, reached = _choose(view, resource, query, keys)
        more = reached is not None and next(keys, None) is not None
        page = RecordPage(
            items=[_view(context, resource, prove_key(context.chain, view, key)) for key in found],
            next=write_cursor(name, reached) if reached is not None and more else None,
            checkpoint=checkpoint_view(view_header(context.chain, view)),
        )
        shown = found or [state_key(resource.record.KIND, prefix)]  # an empty list tells, too
        return Answer(page, shown=records_shown(shown, view.height))

    return Read(
        resource.collection,
        query_of(resource.record),
        if_kept(answer),
        f"Every {resource.label}, in order of key",
        RecordPage,
        ("id.invalid", "cursor.invalid", *HEIGHT, *BUSY),
        columns=columns_of(resource.record),
    )


def _choose(
    view: "View", resource: Resource, query: ListQuery, keys: Iterator[bytes]
) -> tuple[list[bytes], bytes | None]:
    """The keys of a page's records, and the last key that was looked at."""
    asked, found = about(query), []
    reached: bytes | None = None
    for key in islice(keys, SCAN_RECORDS_MAX):
        reached = key
        data = view.read(key) if asked else b""
        if data is None or (asked and not asked <= set(mentions(_unpack(resource, data)))):
            continue
        found.append(key)
        if len(found) == query.limit:
            break
    return found, reached


def _read_round(context: ApiContext, path: Path, query: AtQuery) -> Answer:
    """A round with what sites and verifiers have said in it, all under one header."""
    resource = BY_RECORD[Round]
    key = _key(resource, path)
    view = view_at(context.chain, query.at)
    proof = prove_key(context.chain, view, state_key(Round.KIND, key))
    if proof.value is None:
        return _missing(resource, key, proof)
    keys = {
        cls: list(_keys(context, view, BY_RECORD[cls], key, b""))
        for cls in (Update, Decline, Commitment, Verdict)
    }
    updates, declines, commitments, verdicts = (
        [_view(context, BY_RECORD[cls], prove_key(context.chain, view, name)) for name in names]
        for cls, names in keys.items()
    )
    told = keys[Verdict] or [state_key(Verdict.KIND, key)]  # that there is none tells, too
    return Answer(
        RoundAnswer(
            **dict(_view(context, resource, proof)),
            checkpoint=checkpoint_view(proof.certified),
            updates=updates,
            declines=declines,
            commitments=commitments,
            verdicts=verdicts,
        ),
        shown=records_shown(told, view.height),
    )


def _read_lineage(context: ApiContext, path: Path, query: AtQuery) -> Answer:
    id, version = str(parse_part("id", path["id"])), parse_number("version", path["version"])
    view = view_at(context.chain, query.at)
    proof = prove_lineage(context.chain, view, id, version)
    return Answer(
        LineageAnswer(
            model=id,
            version=version,
            records=len(proof.records),
            proof=base64_text(write_multiproof(proof)),
            checkpoint=checkpoint_view(proof.certified),
        ),
        shown=lineage_shown(id, version, view.height),
    )


def _read_together(context: ApiContext, _: Path, query: KeysQuery) -> Answer:
    """Whatever was asked for, absent or not, and nothing beside the proof: peers ask often."""
    keys = read_keys(query.keys)
    view = view_at(context.chain, query.at)
    proof = prove_together(context.chain, view, keys)
    return Answer(
        TogetherAnswer(proof=base64_text(write_multiproof(proof))),
        shown=records_shown(keys, view.height),
    )


def _key(resource: Resource, path: Path) -> Key:
    return tuple(parse_part(part, path[part]) for part in resource.parts)


def _keys(
    context: ApiContext, view: "View", resource: Resource, prefix: Key, after: bytes
) -> Iterator[bytes]:
    """State keys of the resource's records that start with `prefix`, beyond `after`, in order."""
    for key in context.chain.store.keys(resource.record.KIND, prefix, len(resource.parts)):
        if key > after and view.read(key) is not None:  # else written by a later block
            yield key


def _view(context: ApiContext, resource: Resource, proof: RecordProof) -> RecordView:
    assert proof.value is not None, "the caller found a record here"

    def time_at(height: int) -> int | None:
        known = height <= proof.certified.header.height
        header = context.chain.store.header(height) if known else None
        return None if header is None else header.time_ms

    return record_view(_unpack(resource, proof.value), proof, time_at)


def _unpack(resource: Resource, data: bytes) -> Record:
    return unpack(resource.record, data, VALUE_BYTES_MAX)


def _missing(resource: Resource, key: Key, proof: RecordProof) -> Answer:
    """Absence is proven too."""
    label = " ".join(str(part) for part in key)
    height = proof.certified.header.height
    return problem(
        "record.missing",
        f"expected {resource.record.KIND} {label}, found none at height {height}",
        shown=records_shown((proof.key,), height),
        proof=base64_text(pack(proof)),
    )


READS = (
    *(_read_list(resource) for resource in RESOURCES),
    *(_read_one(resource) for resource in RESOURCES if resource.record is not Round),
    Read(
        BY_RECORD[Round].path,
        AtQuery,
        if_kept(_read_round),
        "One round, with its updates, declines, commitments and verdicts",
        RoundAnswer,
        ("id.invalid", "record.missing", *HEIGHT, *BUSY),
    ),
    Read(
        TOGETHER_PATH,
        KeysQuery,
        if_kept(_read_together),
        "Several records of any kinds at one height, absent ones too",
        TogetherAnswer,
        (*HEIGHT, *BUSY),
    ),
    Read(
        LINEAGE_PATH,
        AtQuery,
        if_kept(_read_lineage),
        "Everything that a model version came from, in one proof",
        LineageAnswer,
        ("id.invalid", "lineage.missing", "lineage.too_large", *HEIGHT, *BUSY),
    ),
)
