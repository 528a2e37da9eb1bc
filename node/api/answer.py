"""How reads are answered: what a route gives, how it is sent, and what it is refused with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from node.api.context import ApiContext
from node.api.problem import CONTENT_TYPE, find_problem, write_problem
from node.api.views import ProblemView
from node.readers.shown import Shown
from vm.refusal import Refused

Q = TypeVar("Q", bound=BaseModel)
Path = Mapping[str, str]

RETRY_AFTER_S = 1
AGAIN = (429, 503)  # another try may be answered
# For the reader's own cache alone: another reader of a shared one may not be let to read it.
IMMUTABLE = "private, max-age=31536000, immutable"  # a year: finalized data never changes
CHANGING = "private, no-cache"  # to be asked for again, with the ETag
JSON = "application/json"
VARY = "Accept, Authorization"  # how an answer is written, and who may have it
HEIGHT = ("height.future", "height.pruned")  # what a read at a height may be refused with
BUSY = ("api.busy", "node.not_ready")  # what every read of the chain may be refused with
COMMON = ("query.unknown", "query.invalid", "http.refused", "method.unknown", "internal")
DESK = (  # what a reader may be told where one is asked for
    "body.unwanted",
    "reader.required",
    "reader.signature",
    "reader.expired",
    "reader.replayed",
    "reader.unknown",
    "reader.standing",
    "reader.too_many",
    "reader.unlogged",
)
SHOWN = web.RequestKey("shown", tuple[Shown, ...])  # what is restricted in the answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A body to be sent as JSON; `final` if no later block can change it.

    It leaves only to a known reader, and after a line in the access log, if it has `shown` what is
    restricted.
    """

    body: BaseModel
    final: bool = False
    status: int = 200
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """A GET route: `answer(context, path, query)` gives a `body`, or a problem of `codes`.

    It runs in a thread and may block there, unless it is `at_once`. With `columns` the `body` is a
    page of `items`, of a list that is also written as CSV or NDJSON: whole, as the parameter `turn`
    takes each page's `next`.
    """

    path: str
    query: type[BaseModel]
    answer: Callable[[ApiContext, Path, Any], Answer]
    summary: str
    body: type[BaseModel]
    codes: tuple[str, ...] = ()
    at_once: bool = False
    columns: tuple[str, ...] = ()
    turn: str = "cursor"


def parse_query(request: web.Request, model: type[Q]) -> Q:
    """The query's parameters; raises `Refused` with `query.unknown` or `query.invalid`."""
    names = [name for name, _ in request.query.items()]
    known = [field.alias or name for name, field in model.model_fields.items()]
    for name in names:
        if name not in known:
            expected = ", ".join(known) or "none"
            raise Refused("query.unknown", f"expected parameters {expected}, found {name[:80]!r}")
        if names.count(name) > 1:
            raise Refused(
                "query.invalid", f"expected {name} once, found it {names.count(name)} times"
            )
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(
            "query.invalid", f"{where}: {first['msg']}, found {str(first['input'])[:80]!r}"
        ) from None


def respond(request: web.Request, answer: Answer) -> web.Response:
    """The HTTP response; 304 if the client holds the same answer already."""
    request[SHOWN] = answer.shown
    media_type = CONTENT_TYPE if isinstance(answer.body, ProblemView) else JSON
    body = answer.body.model_dump_json().encode()
    return send(request, body, media_type, final=answer.final, status=answer.status)


def send(
    request: web.Request, body: bytes, media_type: str, *, final: bool = False, status: int = 200
) -> web.Response:
    """A body, with its strong ETag if it is what was asked for; 304 to a client that holds it."""
    headers = {"Cache-Control": "no-store"}
    if status in AGAIN:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 200:
        tag = sha256(body).hexdigest()
        kept = IMMUTABLE if final else CHANGING
        headers = {"Cache-Control": kept, "ETag": f'"{tag}"', "Vary": VARY}
        if any(held.value in (tag, "*") for held in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
    charset = "utf-8" if media_type.startswith("text/") else None
    return web.Response(
        body=body, status=status, content_type=media_type, charset=charset, headers=headers
    )


def problem(code: str, detail: str, shown: tuple[Shown, ...] = (), **extensions: Any) -> Answer:
    """A refusal as an answer, with the status that its code has."""
    status = find_problem(code).status
    document = write_problem(status, code, detail, extensions)
    return Answer(ProblemView.model_validate(document), status=status, shown=shown)
