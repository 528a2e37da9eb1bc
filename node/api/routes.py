"""Every route of the interface, in one table: for the server, its description and its readers."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from node.api import access, blocks, epochs, events, proofs, records, search, status, transactions
from node.api.answer import BUSY, Read
from node.api.resource import ACCESS_LOG_PATH, TOKENS_PATH
from node.api.views import (
    EventsQuery,
    LookupQuery,
    NoQuery,
    SubmitAnswer,
    SubmitBody,
    TransactionAnswer,
)

OPENAPI, DOCS = "/openapi.json", "/docs"

READS: tuple[Read, ...] = (
    *status.READS,
    *blocks.READS,
    *transactions.READS,
    *epochs.READS,
    *proofs.READS,
    *search.READS,
    *records.READS,
)


@dataclass(frozen=True, slots=True)
class Other:
    """A route with a handler of its own, as it is described; `body` None where it is no JSON."""

    method: Literal["get", "post"]
    path: str
    query: type[BaseModel]
    summary: str
    body: type[BaseModel] | None
    codes: tuple[str, ...] = ()
    status: int = 200
    media_type: str = "application/json"
    takes: type[BaseModel] | None = None


OTHERS = (
    Other(
        "post",
        transactions.TRANSACTIONS,
        NoQuery,
        "Submit transactions; only a certified receipt acknowledges one",
        SubmitAnswer,
        transactions.SUBMIT_CODES,
        status=202,
        takes=SubmitBody,
    ),
    Other(
        "get",
        transactions.LOOKUP,
        LookupQuery,
        "A transaction with its receipt, once it is certified",
        TransactionAnswer,
        ("id.invalid", "transaction.missing", "block.pruned", *BUSY),
    ),
    Other(
        "get",
        events.EVENTS,
        EventsQuery,
        "Server-sent events, one for each certified block; resumed by height",
        None,
        ("id.invalid", "block.pruned", "events.full", "feed.full", *BUSY),
        media_type="text/event-stream",
    ),
    Other(
        "post",
        TOKENS_PATH,
        NoQuery,
        "A bearer token for who asks by TLS or signature",
        access.TokenAnswer,
        ("reader.tokens",),
        status=201,
    ),
    Other(
        "get",
        ACCESS_LOG_PATH,
        access.AccessQuery,
        "What restricted records this node has shown to whom, for auditors",
        access.AccessPage,
        ("reader.role", "access_log.range", *BUSY),
    ),
    Other("get", OPENAPI, NoQuery, "This description, OpenAPI 3.1", None),
    Other("get", DOCS, NoQuery, "This description for people", None, media_type="text/html"),
)
