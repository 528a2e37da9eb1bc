"""The HTTP interface's answers and requests, as pydantic models.

Digests, keys and ids are lower-case hexadecimal; proofs are base64 of canonical bytes, and all that
a light client needs: every other member of an answer is the node's reading of them, for people.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from node.api.admission import SUBMIT_MAX
from node.api.cursor import CURSOR_BYTES_MAX
from node.api.keys import KEYS_BYTES_MAX
from node.api.resource import NUMBER
from node.api.times import record_times, write_time
from node.home.document import dump
from vm.inclusion import CertifiedHeader
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, pack
from vm.state import Record
from vm.transaction import TRANSACTION_BYTES_MAX

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
WAIT_MS_MAX = 4_000  # a client takes five seconds of silence for a dead node
KEYS_TEXT_MAX = (KEYS_BYTES_MAX + 2) // 3 * 4  # base64
TRANSACTION_TEXT_MAX = (TRANSACTION_BYTES_MAX + 2) // 3 * 4  # base64


def _decimal(value: Any) -> Any:
    """Only plain digits: pydantic would read " 1", "1.0" and "1_0" as numbers too."""
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        raise ValueError("expected digits without leading zeros")
    return value


# Bounds stand before it in an annotation: behind it, pydantic does not tell them to others.
DECIMAL = BeforeValidator(_decimal)
HeightText = Annotated[int, Field(ge=0, le=HEIGHT_MAX), DECIMAL]
Format = Literal["json", "csv", "ndjson"]  # of a list


# Requests


class NoQuery(BaseModel):
    """A path that takes no parameters."""

    model_config = ConfigDict(extra="forbid")


class ListQuery(NoQuery):
    """How much of a list, from where, and how it is written; `format` wins over Accept."""

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), DECIMAL] = Field(
        LIMIT_DEFAULT, description="Items of one page; of a CSV or NDJSON stream, in all"
    )
    cursor: Annotated[str, Field(min_length=1, max_length=CURSOR_BYTES_MAX)] | None = Field(
        None, description="`next` of the page before"
    )
    format: Format | None = Field(None, description="How to write the list; wins over Accept")


class AtQuery(NoQuery):
    """At which height to read the state; None for the newest certified one."""

    at: HeightText | None = Field(None, description="At which height; the newest if not given")


class RecordsQuery(ListQuery, AtQuery):
    """How much of a list of records, from where, and at which height."""


class UnderQuery(NoQuery):
    """The height of the checkpoint under which to show a block; None for its own or the newest."""

    under: HeightText | None = Field(None, description="The checkpoint under which to show it")


class BetweenQuery(NoQuery):
    """The heights of two checkpoints, the older first."""

    older: HeightText = Field(alias="from", description="The height of the older")
    newer: HeightText = Field(alias="to", description="The height of the newer")


class EpochsQuery(NoQuery):
    """The number of the newest epoch that the reader knows; genesis tells epoch 0."""

    after: HeightText = Field(0, description="The number after which to go on")
    format: Format | None = Field(None, description="How to write the list; wins over Accept")


class EventsQuery(NoQuery):
    """The last height that the reader has; None for the newest."""

    since: HeightText | None = Field(
        None, description="The height after which to begin; Last-Event-ID wins over it"
    )


class LookupQuery(NoQuery):
    """How long to wait, in milliseconds, while a transaction is pending."""

    wait_ms: Annotated[int, Field(ge=0, le=WAIT_MS_MAX), DECIMAL] = Field(
        0, description="How long to wait while it is pending"
    )


class KeysQuery(AtQuery):
    """State keys, as `node.api.keys` writes them, and at which height to read them."""

    keys: Annotated[str, Field(min_length=1, max_length=KEYS_TEXT_MAX)] = Field(
        description="base64url of an encoded array of different state keys",
        json_schema_extra={"format": "state-keys"},
    )


class SubmitBody(BaseModel):
    """Transactions as base64 of their canonical bytes."""

    model_config = ConfigDict(extra="forbid")

    transactions: Annotated[
        list[
            Annotated[
                str,
                Field(
                    min_length=1,
                    max_length=TRANSACTION_TEXT_MAX,
                    json_schema_extra={"format": "transaction"},
                ),
            ]
        ],
        Field(min_length=1, max_length=SUBMIT_MAX),
    ]


# Answers


class HeaderView(BaseModel):
    """A block header; `digest` is what checkpoints sign."""

    digest: str
    chain: str
    height: int
    time_ms: int
    time: str | None
    transactions: str
    receipts: str
    state: str
    history: str
    validators: str
    next_validators: str


class VoteView(BaseModel):
    """One validator's signature."""

    validator: str
    signature: str


class CertificateView(BaseModel):
    """A quorum's votes for the header of a height."""

    height: int
    header: str
    votes: list[VoteView]


class CheckpointView(BaseModel):
    """A certified header. `later` is what the certificate names, if not the header itself."""

    header: HeaderView
    certificate: CertificateView
    later: HeaderView | None


class RecordView(BaseModel):
    """A record with its `vm.inclusion.RecordProof`; `times` are those that it tells."""

    record: dict[str, Any]
    times: dict[str, str]
    proof: str


class StepView(BaseModel):
    """An epoch, and the certified header before its first height; `proof` is a `Step` to it."""

    epoch: dict[str, Any]
    checkpoint: CheckpointView
    proof: str


class EpochPage(BaseModel):
    """Epochs in order; `next` is the number after which to go on."""

    items: list[StepView]
    next: str | None


class RecordAnswer(RecordView):
    """One record, and the header under which it is proven."""

    checkpoint: CheckpointView


class RecordPage(BaseModel):
    """Records in order of key, all under one header; `next` goes on from here."""

    items: list[RecordView]
    next: str | None
    checkpoint: CheckpointView


class RoundAnswer(RecordAnswer):
    """A round with what was submitted and judged in it."""

    updates: list[RecordView]
    declines: list[RecordView]
    commitments: list[RecordView]
    verdicts: list[RecordView]


class TogetherAnswer(BaseModel):
    """`proof` is a `vm.inclusion.MultiProof` of the records that were asked for."""

    proof: str


class LineageAnswer(BaseModel):
    """`proof` is a `vm.inclusion.MultiProof` of so many records."""

    model: str
    version: int
    records: int
    proof: str
    checkpoint: CheckpointView


class ConsistencyAnswer(BaseModel):
    """`proof` is a `vm.inclusion.ConsistencyProof`."""

    older: CheckpointView
    newer: CheckpointView
    proof: str


class TransactionSummary(BaseModel):
    """What a certified block made of a transaction."""

    id: str
    height: int
    time_ms: int
    time: str | None
    kind: str
    sender: str
    result: str
    code: str
    message: str


class TransactionPage(BaseModel):
    """Transactions, newest first; fewer than asked for where many blocks are empty."""

    items: list[TransactionSummary]
    next: str | None


class IntentView(BaseModel):
    """What the sender signed; `body` is None where its bytes are not a body of this kind."""

    kind: str
    sender: str
    public_key: str
    body: dict[str, Any] | None
    valid_until_height: int
    nonce: str


class ReceiptView(BaseModel):
    """What a transaction came to."""

    transaction: str
    height: int
    result: str
    code: str


class TransactionAnswer(BaseModel):
    """`status` is "pending" (nothing else is known) or "certified".

    `proof` is a `vm.inclusion.TransactionProof`; `message` is the node's own word for the
    receipt's code, and nothing proves it.
    """

    id: str
    status: str
    time: str | None = None
    intent: IntentView | None = None
    receipt: ReceiptView | None = None
    message: str | None = None
    proof: str | None = None
    checkpoint: CheckpointView | None = None


class BlockSummary(BaseModel):
    """A certified block; `transactions` counts those executed."""

    height: int
    digest: str
    time_ms: int
    time: str | None
    state: str
    transactions: int


class BlockPage(BaseModel):
    """Blocks, newest first."""

    items: list[BlockSummary]
    next: str | None


class BlockAnswer(BaseModel):
    """A certified block; `proof` is a `vm.inclusion.CertifiedHeader`.

    Under a named checkpoint `transactions` is None, and `proof` a `vm.inclusion.BlockProof`.
    """

    checkpoint: CheckpointView
    transactions: list[TransactionSummary] | None
    proof: str


class CheckpointAnswer(BaseModel):
    """A header with a certificate of its own; `proof` is a `vm.inclusion.CertifiedHeader`."""

    checkpoint: CheckpointView
    proof: str


class CheckpointPage(BaseModel):
    """Checkpoints, newest first."""

    items: list[CheckpointAnswer]
    next: str | None


class AdmissionView(BaseModel):
    """`code` is "admitted" or a refusal's; `id` is None where the bytes are no transaction."""

    id: str | None
    code: str
    message: str


class SubmitAnswer(BaseModel):
    """What became of each transaction, in the order of the request."""

    transactions: list[AdmissionView]


class StatusView(BaseModel):
    """The node's own word on how it is; `state_root` is that of `certified_height`.

    `role` is voting, observing or suspended, in the `epoch` under way.
    """

    name: str
    version: str
    chain: str
    epoch: int
    role: str
    view: int
    primary: str
    changing_view: bool
    executed_height: int
    certified_height: int
    certified_time: str | None
    state_root: str
    peers: int
    pending: int


class RecordKey(BaseModel):
    """Which record changed; of restricted kinds some have, and `key` is empty."""

    kind: str
    key: list[str | int]


class EventView(BaseModel):
    """One certified block: its transactions, and which records changed.

    `left_out` counts changed records beyond those listed.
    """

    height: int
    digest: str
    time_ms: int
    time: str | None
    transactions: list[TransactionSummary]
    records: list[RecordKey]
    left_out: int


class HealthView(BaseModel):
    """Whether the node can take requests, and why not."""

    ready: bool
    reason: str


class ProblemView(BaseModel):
    """RFC 9457; members beyond these depend on `code`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str


class ProblemPage(BaseModel):
    """What a problem's `type` resolves to."""

    code: str
    title: str
    status: int


class ProblemList(BaseModel):
    """Every problem that this interface may answer with, in order of code."""

    items: list[ProblemPage]
    next: str | None


class SearchItem(BaseModel):
    """Something whose digest, id, key or address begins so; `path` shows it."""

    kind: Literal["transaction", "block", "key", "model"]
    value: str
    path: str


class SearchAnswer(BaseModel):
    """What was found; `more` if there may be others that begin so."""

    items: list[SearchItem]
    more: bool


# From what the node holds


def base64_text(data: bytes) -> str:
    """Bytes as standard base64."""
    return base64.b64encode(data).decode("ascii")


def read_base64(text: str) -> bytes:
    """The bytes of a proof; raises `Refused("audit.base64")`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("audit.base64", "expected a proof in standard base64") from None


def checkpoint_view(certified: CertifiedHeader) -> CheckpointView:
    """A certified header for people."""
    later = certified.later
    return CheckpointView(
        header=header_view(certified.header),
        certificate=CertificateView.model_validate(dump(certified.certificate)),
        later=None if later is None else header_view(later.header),
    )


def header_view(header: Any) -> HeaderView:
    """A header for people, with its digest."""
    return HeaderView(digest=header.digest.hex(), time=write_time(header.time_ms), **dump(header))


def record_view(record: Record, proof: object, time_at: Callable[[int], int | None]) -> RecordView:
    """A record, its times as `record_times` gives them, and its packed proof."""
    times = record_times(record, time_at)
    return RecordView(record=dump(record), times=times, proof=base64_text(pack(proof)))
