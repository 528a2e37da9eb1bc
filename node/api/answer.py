"""How reads are answered: in a bounded pool of threads, never on the event loop."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
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

T = TypeVar("T")
Q = TypeVar("Q", bound=BaseModel)
Path = Mapping[str, str]

READ_THREADS = 4  # a long lineage leaves three for short reads
READS_MAX = 256  # waiting or running; each holds one request
RETRY_AFTER_S = 1
SHOWN = web.RequestKey("shown", tuple[Shown, ...])  # what is restricted in the answer
IMMUTABLE = "public, max-age=31536000, immutable"  # a year: finalized data never changes


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
    """A GET route: `answer(context, path, query)` runs in a thread and may block there."""

    path: str
    query: type[BaseModel]
    answer: Callable[[ApiContext, Path, Any], Answer]


class Reader:
    """The pool in which blocking reads run."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._reads = 0

    async def run(self, read: Callable[..., T], *args: object) -> T:
        """Run `read` in a thread; raises `Refused("api.busy")` if too many wait."""
        if self._reads >= READS_MAX:
            raise Refused("api.busy", f"expected at most {READS_MAX} reads waiting, found one more")
        self._reads += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, read, *args)
        future.add_done_callback(self._ended)  # a client that leaves does not end the read
        return await future

    def close(self) -> None:
        """Take no more reads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _ended(self, _: object) -> None:
        self._reads -= 1


def parse_query(request: web.Request, model: type[Q]) -> Q:
    """The query's parameters; raises `Refused` with `query.unknown` or `query.invalid`."""
    names = [name for name, _ in request.query.items()]
    for name in names:
        if name not in model.model_fields:
            known = ", ".join(model.model_fields) or "none"
            raise Refused("query.unknown", f"expected parameters {known}, found {name[:80]!r}")
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
    """The HTTP response; 304 if the client holds a final answer already."""
    request[SHOWN] = answer.shown
    body = answer.body.model_dump_json().encode()
    headers = {"Cache-Control": "no-store"}
    if answer.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if answer.final:
        tag = sha256(body).hexdigest()
        headers = {"Cache-Control": IMMUTABLE, "ETag": f'"{tag}"'}
        if any(held.value in (tag, "*") for held in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
    kind = CONTENT_TYPE if isinstance(answer.body, ProblemView) else "application/json"
    return web.Response(body=body, status=answer.status, content_type=kind, headers=headers)


def problem(code: str, detail: str, shown: tuple[Shown, ...] = (), **extensions: Any) -> Answer:
    """A refusal as an answer, with the status that its code has."""
    status = find_problem(code).status
    document = write_problem(status, code, detail, extensions)
    return Answer(ProblemView.model_validate(document), status=status, shown=shown)
