"""Refusals over HTTP: problem details (RFC 9457) with our stable code as an extension."""

import json
import re
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from vm.refusal import Refused

CONTENT_TYPE = "application/problem+json"
PROBLEMS_PATH = "/v1/problems"
TYPE_PATH = PROBLEMS_PATH + "/"  # followed by the code: what a problem's `type` resolves to
PROBLEM_BYTES_MAX = 256 * 1024  # ours take a few hundred, with a proof of absence up to 30 KiB
CODE_CHARACTERS_MAX = 48
CODE = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*", re.ASCII)
OURS = frozenset(  # rooms of what a client finds out by itself, or of its own command line
    {
        "audit",
        "case",
        "certificate",
        "client",
        "config",
        "encoding",
        "file",
        "frontier",
        "genesis",
        "history",
        "key",
        "lineage",
        "pin",
        "shape",
        "state_path",
        "store",
        "succession",
        "usage",
    }
)
DETAIL_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Problem:
    """What is true of every refusal with one code."""

    status: int
    title: str


PROBLEMS = {
    "query.unknown": Problem(400, "A query parameter is not known here"),
    "query.invalid": Problem(400, "A query parameter has a value out of bounds"),
    "id.invalid": Problem(400, "An id in the path is malformed"),
    "cursor.invalid": Problem(400, "The cursor does not belong to this list"),
    "body.invalid": Problem(400, "The request's body is malformed"),
    "body.unwanted": Problem(400, "This path takes no body"),
    "http.refused": Problem(400, "The request breaks HTTP"),
    "reader.required": Problem(401, "A reader has to show who it is"),
    "reader.signature": Problem(401, "The request's signature does not hold"),
    "reader.expired": Problem(401, "The token or signature is good no more"),
    "reader.replayed": Problem(401, "The signature was used before"),
    "reader.unknown": Problem(403, "The reader is no member"),
    "reader.standing": Problem(403, "The reader is suspended or revoked"),
    "reader.role": Problem(403, "This is for members of another role"),
    "route.unknown": Problem(404, "There is nothing at this path"),
    "record.missing": Problem(404, "There is no such record at the certified height"),
    "block.missing": Problem(404, "There is no certified block of this height"),
    "checkpoint.missing": Problem(404, "There is no certificate of this height"),
    "transaction.missing": Problem(404, "No transaction with this id is known here"),
    "problem.missing": Problem(404, "There is no problem with this code"),
    "access_log.range": Problem(404, "The access log has no such lines"),
    "height.future": Problem(404, "The height is not certified yet"),
    "lineage.missing": Problem(404, "There is no such model version at the certified height"),
    "method.unknown": Problem(405, "This path does not take this method"),
    "heights.order": Problem(409, "The heights are not in order"),
    "body.slow": Problem(408, "The request's body did not arrive in time"),
    "block.pruned": Problem(410, "This node no longer keeps the block"),
    "height.pruned": Problem(410, "This node no longer keeps the state of the height"),
    "body.too_large": Problem(413, "The request's body is too large"),
    "lineage.too_large": Problem(413, "The lineage does not fit one answer"),
    "body.media_type": Problem(415, "The body's media type is not taken here"),
    "submission.refused": Problem(422, "None of the transactions was admitted"),
    "reader.too_many": Problem(429, "The reader asks too often"),
    "internal": Problem(500, "This node failed; its log says why"),
    "api.busy": Problem(503, "This node has too many requests to answer"),
    "events.full": Problem(503, "This node has too many event streams"),
    "feed.full": Problem(503, "This node has too many readers waiting"),
    "reader.tokens": Problem(503, "This node has minted too many tokens"),
    "reader.unlogged": Problem(503, "What would be read here cannot be noted"),
    "node.not_ready": Problem(503, "This node has no certified block to show yet"),
}
OTHER = Problem(400, "The request was refused")


def find_problem(code: str) -> Problem:
    """The problem with this code; a refusal that is not listed is the request's fault."""
    return PROBLEMS.get(code, OTHER)


def write_problem(
    status: int, code: str, detail: str, extensions: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The members of a problem document, with extensions that this code may carry."""
    return {
        "type": TYPE_PATH + code,
        "title": find_problem(code).title,
        "status": status,
        "detail": detail,
        "code": code,
        **(extensions or {}),
    }


def problem(status: int, refused: Refused) -> web.Response:
    """The answer that tells a client of `refused`."""
    return web.json_response(
        write_problem(status, refused.code, refused.message),
        status=status,
        content_type=CONTENT_TYPE,
    )


async def read_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body of an answer, read no further than its bound; raises `Refused("http.answer")`."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > bytes_max:
            raise Refused(
                "http.answer", f"{response.url}: expected at most {bytes_max} bytes, found more"
            )
    return bytes(body)


async def read_problem(response: aiohttp.ClientResponse) -> Refused:
    """What an answer other than success says; a stranger's text is cut and never interpreted."""
    try:
        body = await read_body(response, PROBLEM_BYTES_MAX)
    except Refused:
        body = b""
    return parse_problem(body, f"{response.url}", response.status)


def parse_problem(body: bytes, url: str, status: int) -> Refused:
    """The refusal in the body of a problem document, whatever the body may be."""
    try:
        fields = json.loads(body)
        code, detail = fields["code"], fields["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        code, detail = None, None
    if not isinstance(code, str) or not isinstance(detail, str) or not _may_say(code):
        code = "http.answer"
        detail = f"{url}: expected a problem document, found status {status}"
    shown = "".join(c if c.isprintable() else "\ufffd" for c in detail[:DETAIL_CHARACTERS_MAX])
    return Refused(code, shown)


def _may_say(code: str) -> bool:
    """Whether a node may refuse with this code: that its proofs are false is for us to find."""
    if len(code) > CODE_CHARACTERS_MAX or not CODE.fullmatch(code):
        return False
    return code in PROBLEMS or code.partition(".")[0] not in OURS
