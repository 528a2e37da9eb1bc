"""Records: one, several, a page of a list, a round with all that belongs to it, a lineage."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from node.api.answer import Answer, Path, Read, problem
from node.api.context import ApiContext
from node.api.cursor import read_cursor, write_cursor
from node.api.keys import read_keys
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
    KeysQuery,
    LineageAnswer,
    ListQuery,
    NoQuery,
    RecordAnswer,
    RecordPage,
    RecordView,
    RoundAnswer,
    TogetherAnswer,
    base64_text,
    checkpoint_view,
    record_view,
)
from node.audit.prove import newest, prove_key, prove_lineage, prove_together, view_header
from node.readers.shown import lineage_shown, records_shown
from vm.inclusion import RecordProof
from vm.learning import Commitment, Decline, Round, Update, Verdict
from vm.shape import pack, unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import state_key

if TYPE_CHECKING:
    from node.validator.store import View


def _read_one(resource: Resource) -> Read:
    def answer(context: ApiContext, path: Path, _: NoQuery) -> Answer:
        key = _key(resource, path)
        view = newest(context.chain)
        proof = prove_key(context.chain, view, state_key(resource.record.KIND, key))
        if proof.value is None:
            return _missing(resource, key, proof)
        found = _view(resource, proof)
        answer = RecordAnswer(**dict(found), checkpoint=checkpoint_view(proof.certified))
        return Answer(answer, shown=records_shown((proof.key,)))

    return Read(resource.path, NoQuery, answer)


def _read_list(resource: Resource) -> Read:
    def answer(context: ApiContext, path: Path, query: ListQuery) -> Answer:
        prefix = tuple(parse_part(part, path[part]) for part in resource.parts[:-1])
        name = resource.list(prefix)
        after = b"" if query.cursor is None else read_cursor(name, query.cursor)
        view = newest(context.chain)
        keys = list(islice(_keys(context, view, resource, prefix, after), query.limit + 1))
        more, names = len(keys) > query.limit, keys[: query.limit]
        page = RecordPage(
            items=[_view(resource, prove_key(context.chain, view, key)) for key in names],
            next=write_cursor(name, names[-1]) if more else None,
            checkpoint=checkpoint_view(view_header(view)),
        )
        return Answer(page, shown=records_shown(names or [state_key(resource.record.KIND, prefix)]))

    return Read(resource.collection, ListQuery, answer)


def _read_round(context: ApiContext, path: Path, _: NoQuery) -> Answer:
    """A round with what sites and verifiers have said in it, all under one header."""
    resource = BY_RECORD[Round]
    key = _key(resource, path)
    view = newest(context.chain)
    proof = prove_key(context.chain, view, state_key(Round.KIND, key))
    if proof.value is None:
        return _missing(resource, key, proof)
    keys = {
        cls: list(_keys(context, view, BY_RECORD[cls], key, b""))
        for cls in (Update, Decline, Commitment, Verdict)
    }
    updates, declines, commitments, verdicts = (
        [_view(BY_RECORD[cls], prove_key(context.chain, view, name)) for name in names]
        for cls, names in keys.items()
    )
    return Answer(
        RoundAnswer(
            **dict(_view(resource, proof)),
            checkpoint=checkpoint_view(proof.certified),
            updates=updates,
            declines=declines,
            commitments=commitments,
            verdicts=verdicts,
        ),
        shown=records_shown(keys[Verdict]),
    )


def _read_lineage(context: ApiContext, path: Path, _: NoQuery) -> Answer:
    id, version = str(parse_part("id", path["id"])), parse_number("version", path["version"])
    proof = prove_lineage(context.chain, newest(context.chain), id, version)
    return Answer(
        LineageAnswer(
            model=id,
            version=version,
            records=len(proof.records),
            proof=base64_text(pack(proof)),
            checkpoint=checkpoint_view(proof.certified),
        ),
        shown=lineage_shown(id, version),
    )


def _read_together(context: ApiContext, _: Path, query: KeysQuery) -> Answer:
    """Whatever was asked for, absent or not, and nothing beside the proof: peers ask often."""
    keys = read_keys(query.keys)
    proof = prove_together(context.chain, newest(context.chain), keys)
    return Answer(TogetherAnswer(proof=base64_text(pack(proof))), shown=records_shown(keys))


def _key(resource: Resource, path: Path) -> Key:
    return tuple(parse_part(part, path[part]) for part in resource.parts)


def _keys(
    context: ApiContext, view: "View", resource: Resource, prefix: Key, after: bytes
) -> Iterator[bytes]:
    """State keys of the resource's records that start with `prefix`, beyond `after`, in order."""
    for key in context.chain.store.keys(resource.record.KIND, prefix, len(resource.parts)):
        if key > after and view.read(key) is not None:  # else written by a block not certified yet
            yield key


def _view(resource: Resource, proof: RecordProof) -> RecordView:
    assert proof.value is not None, "the caller found a record here"
    return record_view(unpack(resource.record, proof.value, VALUE_BYTES_MAX), proof)


def _missing(resource: Resource, key: Key, proof: RecordProof) -> Answer:
    """Absence is proven too."""
    label = " ".join(str(part) for part in key)
    return problem(
        "record.missing",
        f"expected {resource.record.KIND} {label}, found none at height "
        f"{proof.certified.header.height}",
        shown=records_shown((proof.key,)),
        proof=base64_text(pack(proof)),
    )


READS = (
    *(_read_list(resource) for resource in RESOURCES),
    *(_read_one(resource) for resource in RESOURCES if resource.record is not Round),
    Read(BY_RECORD[Round].path, NoQuery, _read_round),
    Read(TOGETHER_PATH, KeysQuery, _read_together),
    Read(LINEAGE_PATH, NoQuery, _read_lineage),
)
