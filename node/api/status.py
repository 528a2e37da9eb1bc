"""How the node is, and what its problems mean: answered at once, also when reads crowd."""

from node.api.answer import Answer, Path, Read, problem
from node.api.context import ApiContext
from node.api.cursor import read_cursor, write_cursor
from node.api.filters import named
from node.api.problem import PROBLEMS, PROBLEMS_PATH, TYPE_PATH, Problem
from node.api.times import write_time
from node.api.views import (
    HealthView,
    ListQuery,
    NoQuery,
    ProblemList,
    ProblemPage,
    StatusView,
)
from node.home.document import dump

STATUS = "/v1/status"


def _live(_context: ApiContext, _path: Path, _: NoQuery) -> Answer:
    return Answer(HealthView(ready=True, reason=""))


def _ready(context: ApiContext, _path: Path, _: NoQuery) -> Answer:
    ready, reason = context.ready()
    return Answer(HealthView(ready=ready, reason=reason), status=200 if ready else 503)


def _status(context: ApiContext, _path: Path, _: NoQuery) -> Answer:
    """The one row that it reads is among the newest, which LevelDB holds in memory."""
    status = context.status()
    header = context.chain.store.header(status.certified_height)
    time = None if header is None else write_time(header.time_ms)
    return Answer(StatusView(certified_time=time, **dump(status)))


def _problem(_context: ApiContext, path: Path, _: NoQuery) -> Answer:
    code = path["code"]
    if code not in PROBLEMS:
        return problem("problem.missing", f"expected a code of this list, found {code[:80]!r}")
    return Answer(_page(code, PROBLEMS[code]), final=True)


def _problems(_context: ApiContext, _path: Path, query: ListQuery) -> Answer:
    name = named(PROBLEMS_PATH, query)
    after = (
        "" if query.cursor is None else read_cursor(name, query.cursor).decode("utf-8", "replace")
    )
    codes = [code for code in sorted(PROBLEMS) if code > after]
    shown = codes[: query.limit]
    more = len(codes) > len(shown)
    return Answer(
        ProblemList(
            items=[_page(code, PROBLEMS[code]) for code in shown],
            next=write_cursor(name, shown[-1].encode()) if more else None,
        )
    )


def _page(code: str, found: Problem) -> ProblemPage:
    return ProblemPage(code=code, title=found.title, status=found.status)


READS = (
    Read("/livez", NoQuery, _live, "Whether the process answers", HealthView, at_once=True),
    Read(
        "/readyz",
        NoQuery,
        _ready,
        "Whether the node should be sent requests; 503 if not",
        HealthView,
        at_once=True,
    ),
    Read(STATUS, NoQuery, _status, "The node's own word on itself", StatusView, at_once=True),
    Read(
        PROBLEMS_PATH,
        ListQuery,
        _problems,
        "Every problem that this interface answers with",
        ProblemList,
        ("cursor.invalid",),
        at_once=True,
        columns=tuple(ProblemPage.model_fields),
    ),
    Read(
        TYPE_PATH + "{code}",
        NoQuery,
        _problem,
        "What the type of a problem means",
        ProblemPage,
        ("problem.missing",),
        at_once=True,
    ),
)
