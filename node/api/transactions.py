"""Transactions: submit, look up one with its receipt, list what was executed."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from node.api.admission import ADMITTED, ON_LOOP_BYTES_MAX, SUBMIT_ITEMS_MAX, SUBMIT_MAX, Admission
from node.api.answer import BUSY, Answer, Path, Read, problem
from node.api.context import ApiContext
from node.api.cursor import read_cursor, write_cursor
from node.api.filters import Matcher, TransactionsQuery, named, span
from node.api.scan import HEIGHT_BYTES, matching, require_kept, rows_down
from node.api.times import write_time
from node.api.views import (
    AdmissionView,
    IntentView,
    ReceiptView,
    SubmitAnswer,
    SubmitBody,
    TransactionAnswer,
    TransactionPage,
    TransactionSummary,
    base64_text,
    checkpoint_view,
)
from node.audit.prove import newest, prove_transaction
from node.home.document import dump
from node.readers.identity import holder_of
from node.readers.shown import Shown, transaction_shown
from node.wire.places import Places
from vm.block import TRANSACTIONS_MAX
from vm.encoding import MESSAGE_BYTES_MAX, decode
from vm.inclusion import TransactionProof
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.state import State
from vm.transaction import BODY_BYTES_MAX, TRANSACTION_BYTES_MAX, Intent, Transaction

TRANSACTIONS = "/v1/transactions"
LOOKUP = TRANSACTIONS + "/{id}"
PENDING = "pending"
SUBMIT_CODES = (
    "api.busy",
    "body.invalid",
    "body.media_type",
    "body.slow",
    "body.too_large",
    "submission.refused",
)
MSGPACK = "application/msgpack"
JSON = "application/json"
INDEX_BYTES = 4
SUBMIT_BYTES_MAX = MESSAGE_BYTES_MAX + MESSAGE_BYTES_MAX // 2  # base64 makes a third more
SUBMISSIONS_MAX = 16  # at one time; a body and what it decodes to take 24 MiB at most
LARGE_OF_ADDRESS_MAX = 4  # of the large ones that arrive
# Smaller ones take no place while they arrive: those of all connections that a listener lets in,
# 1,024, hold 64 MiB. Nearly all that is honest is one of them.
SMALL_BYTES_MAX = 64 * 1024
BODY_TIMEOUT_S = 30.0  # for a body to arrive: a client that dawdles does not keep its place


class Submissions:
    """Takes transactions for the node; only so many large bodies, and so much work, at one time."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        most = SUBMISSIONS_MAX
        self._arriving = Places("api.busy", "large submissions", most, LARGE_OF_ADDRESS_MAX)
        self._working = Places("api.busy", "submissions", most, most)

    async def take(self, request: web.Request) -> Answer:
        """Hand transactions to the node; 202 if it admitted at least one of them.

        Raises `Refused` with `api.busy`, `body.*` or `encoding.*`.
        """
        address = holder_of(request)
        if _is_small(request):
            return await self._work(request, address, await _arrived(request))
        with self._arriving.place(address):
            return await self._work(request, address, await _arrived(request))

    async def _work(self, request: web.Request, address: str, body: bytes) -> Answer:
        with self._working.place(address):
            return await _submit(self._context, request.content_type, body)


def _is_small(request: web.Request) -> bool:
    """Whether the body is as short as that, and what it unpacks to too."""
    size = request.content_length
    packed = "Content-Encoding" in request.headers
    return size is not None and size <= SMALL_BYTES_MAX and not packed


async def _arrived(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Refused("body.slow", f"expected the body in {BODY_TIMEOUT_S} s") from None
    except web.RequestPayloadError:  # it is not compressed as its header says
        raise Refused("body.invalid", "expected a body in its Content-Encoding") from None


async def _submit(context: ApiContext, media_type: str, body: bytes) -> Answer:
    if len(body) <= ON_LOOP_BYTES_MAX:
        packed = _read_body(media_type, body)
    else:
        packed = await asyncio.to_thread(_read_body, media_type, body)
    admissions = await context.submit(packed)
    answer = SubmitAnswer(transactions=[_admission_view(item) for item in admissions])
    if any(item.code == ADMITTED for item in admissions):
        return Answer(answer, status=202)
    first = admissions[0]
    return problem("submission.refused", f"{first.code}: {first.message}", **answer.model_dump())


def _read_body(media_type: str, body: bytes) -> Sequence[bytes]:
    match media_type:
        case "application/msgpack":
            return _from_msgpack(body)
        case "application/json":
            return _from_json(body)
    raise Refused("body.media_type", f"expected {MSGPACK} or {JSON}, found {media_type[:80]}")


def _from_msgpack(body: bytes) -> Sequence[bytes]:
    value = decode(body, MESSAGE_BYTES_MAX, SUBMIT_ITEMS_MAX)
    if not isinstance(value, tuple) or not 1 <= len(value) <= SUBMIT_MAX:
        raise Refused("body.invalid", f"expected an array of 1 to {SUBMIT_MAX} transactions")
    packed = [item for item in value if isinstance(item, bytes) and item]
    if len(packed) != len(value):
        raise Refused("body.invalid", "expected an array of packed transactions")
    return packed


def _from_json(body: bytes) -> Sequence[bytes]:
    try:
        texts = SubmitBody.model_validate_json(body).transactions
        return [base64.b64decode(text, validate=True) for text in texts]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused("body.invalid", f"{where}: {first['msg']}") from None
    except (binascii.Error, ValueError):
        raise Refused("body.invalid", "expected each transaction in standard base64") from None


def _admission_view(admission: Admission) -> AdmissionView:
    return AdmissionView(
        id=admission.id.hex() or None, code=admission.code, message=admission.message
    )


def read_transaction(context: ApiContext, id: bytes) -> Answer:
    """A transaction as it stands; raises `Refused("block.pruned")`."""
    proof = prove_transaction(context.chain, id)
    if proof is not None:
        answer = _certified_answer(context, id, proof)
        return Answer(answer, proof.certified.later is None, shown=_shown(proof, id))
    place = context.chain.store.place(id)
    if place is not None:
        require_kept(context.chain, place.height)
    if place is not None or context.pending(id):
        return Answer(TransactionAnswer(id=id.hex(), status=PENDING))
    return problem("transaction.missing", f"expected transaction {id.hex()}, found none")


def _shown(proof: TransactionProof, id: bytes) -> tuple[Shown, ...]:
    transaction = unpack(Transaction, proof.transaction, TRANSACTION_BYTES_MAX)
    return transaction_shown(transaction.intent.kind, id, proof.receipt.height)


def is_pending(answer: Answer) -> bool:
    """Whether a transaction was shown that is not certified yet."""
    return isinstance(answer.body, TransactionAnswer) and answer.body.status == PENDING


def tell_settled(
    context: ApiContext, ids: Sequence[bytes], tell: Callable[[bytes, Answer], None]
) -> None:
    """Tell of each transaction that is pending no more, one by one as they are read."""
    for id in ids:
        answer = read_transaction(context, id)
        if not is_pending(answer):
            tell(id, answer)


def _certified_answer(context: ApiContext, id: bytes, proof: TransactionProof) -> TransactionAnswer:
    transaction = unpack(Transaction, proof.transaction, TRANSACTION_BYTES_MAX)
    row = context.chain.store.row(proof.receipt.height)
    assert row is not None, "the proof was made from it"
    return TransactionAnswer(
        id=id.hex(),
        status="certified",
        time=write_time(proof.certified.header.time_ms),
        intent=_intent_view(context, transaction.intent),
        receipt=ReceiptView.model_validate(dump(proof.receipt)),
        message=row.messages[proof.index],
        proof=base64_text(pack(proof)),
        checkpoint=checkpoint_view(proof.certified),
    )


def _intent_view(context: ApiContext, intent: Intent) -> IntentView:
    return IntentView(
        kind=intent.kind,
        sender=intent.sender,
        public_key=intent.public_key.hex(),
        body=_body(context, intent),
        valid_until_height=intent.valid_until_height,
        nonce=intent.nonce.hex(),
    )


def _body(context: ApiContext, intent: Intent) -> dict[str, Any] | None:
    kind = context.kinds.get(intent.kind)
    if kind is None:
        return None
    try:
        body: dict[str, Any] = dump(unpack(kind.body, intent.body, BODY_BYTES_MAX))
    except Refused:
        return None  # the receipt says so
    return body


def _read_transactions(context: ApiContext, _: Path, query: TransactionsQuery) -> Answer:
    """Newest first, through no more blocks than `rows_down` gives."""
    view = newest(context.chain)
    name = named(TRANSACTIONS, query)
    last, first = span(context.chain.store, query, view.height)
    height, below = _position(name, query, first)
    matcher = Matcher(context, State(view.read), query)
    items: list[TransactionSummary] = []
    following: str | None = None
    for row in rows_down(context.chain, height, last):
        found = matching(context.chain, row, matcher)[:below]
        room = query.limit - len(items)
        items.extend(reversed(found[-room:]))
        if len(found) > room:
            following = _cursor(name, row.header.height, len(found) - room)
            break
        below = None
        more = row.header.height > last
        following = _cursor(name, row.header.height - 1, TRANSACTIONS_MAX) if more else None
        if len(found) == room:
            break
    return Answer(TransactionPage(items=items, next=following))


def _position(name: str, query: TransactionsQuery, first: int) -> tuple[int, int | None]:
    """The block in which a page begins, and how many matches of it may still come."""
    if query.cursor is None:
        return first, None
    key = read_cursor(name, query.cursor)
    if len(key) != HEIGHT_BYTES + INDEX_BYTES:
        raise Refused("cursor.invalid", "expected a cursor of this list, found another")
    place, below = key[:HEIGHT_BYTES], key[HEIGHT_BYTES:]
    return min(first, int.from_bytes(place, "big")), int.from_bytes(below, "big")


def _cursor(name: str, height: int, below: int) -> str:
    key = height.to_bytes(HEIGHT_BYTES, "big") + below.to_bytes(INDEX_BYTES, "big")
    return write_cursor(name, key)


READS = (
    Read(
        TRANSACTIONS,
        TransactionsQuery,
        _read_transactions,
        "Executed transactions, newest first",
        TransactionPage,
        ("cursor.invalid", *BUSY),
        columns=tuple(TransactionSummary.model_fields),
    ),
)
