"""The application: every route, and how refusals and our own bugs are answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from aiohttp import web

from node.api import access, blocks, epochs, events, records, transactions
from node.api.answer import Answer, Read, Reader, parse_query, problem, respond
from node.api.context import ApiContext
from node.api.lookups import Lookups
from node.api.problem import PROBLEMS, TYPE_PATH
from node.api.views import HealthView, NoQuery, ProblemPage, StatusView
from node.home.document import dump
from vm.refusal import Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HTTP_CODES = {404: "route.unknown", 405: "method.unknown", 413: "body.too_large"}

log = structlog.get_logger()


def build_api(context: ApiContext) -> web.Application:
    """The HTTP interface as an application of its own; the caller gives it a socket."""
    app = web.Application(
        middlewares=[answer_refusals, access.keeping(context)],
        client_max_size=transactions.SUBMIT_BYTES_MAX,
    )
    reader, streams = Reader(), events.Streams()
    submissions = transactions.Submissions(context)
    lookups = Lookups(context, reader)
    for read in (*blocks.READS, *epochs.READS, *records.READS, *transactions.READS):
        app.router.add_get(read.path, _read_handler(context, reader, read))

    async def submit(request: web.Request) -> web.StreamResponse:
        parse_query(request, NoQuery)
        return respond(request, await submissions.take(request))

    async def look_up(request: web.Request) -> web.StreamResponse:
        return respond(request, await lookups.answer(request))

    async def stream(request: web.Request) -> web.StreamResponse:
        return await streams.serve(context, reader, request)

    access.add_routes(app.router, context, reader)
    app.router.add_post(transactions.TRANSACTIONS, submit)
    app.router.add_get(transactions.LOOKUP, look_up)
    app.router.add_get(events.EVENTS, stream, allow_head=False)
    app.router.add_get("/v1/status", _plain_handler(lambda _: _status(context)))
    app.router.add_get(TYPE_PATH + "{code}", _plain_handler(_problem))
    app.router.add_get(
        "/livez", _plain_handler(lambda _: Answer(HealthView(ready=True, reason="")))
    )
    app.router.add_get("/readyz", _plain_handler(lambda _: _ready(context)))

    async def end_waits(_: web.Application) -> None:
        streams.close()
        lookups.close()

    async def keep(_: web.Application) -> AsyncIterator[None]:
        following = asyncio.create_task(lookups.follow())
        yield
        following.cancel()
        await asyncio.wait((following,))
        reader.close()

    app.on_shutdown.append(end_waits)
    app.cleanup_ctx.append(keep)
    return app


def _read_handler(context: ApiContext, reader: Reader, read: Read) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        query = parse_query(request, read.query)
        answer = await reader.run(read.answer, context, request.match_info, query)
        return respond(request, answer)

    return handle


def _plain_handler(answer: Callable[[web.Request], Answer]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        parse_query(request, NoQuery)
        return respond(request, answer(request))

    return handle


@web.middleware
async def answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a refusal with a problem document; our own bug with 500 and a line in the log."""
    try:
        return await handler(request)
    except Refused as refused:
        return respond(request, problem(refused.code, refused.message))
    except web.HTTPException as error:
        code = HTTP_CODES.get(error.status, "http.refused")
        detail = f"{request.method} {request.path[:200]}: {error.reason}"
        response = respond(request, problem(code, detail))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ConnectionResetError:  # the client is gone: nobody to answer, nothing that failed
        raise
    except Exception:  # whatever it is, the client gets an answer and learns nothing of us
        log.exception("api.failed", method=request.method, path=request.path[:200])
        detail = "expected an answer, found a failure of this node"
        return respond(request, problem("internal", detail))


def _status(context: ApiContext) -> Answer:
    return Answer(StatusView.model_validate(dump(context.status())))


def _ready(context: ApiContext) -> Answer:
    ready, reason = context.ready()
    return Answer(HealthView(ready=ready, reason=reason), status=200 if ready else 503)


def _problem(request: web.Request) -> Answer:
    code = request.match_info["code"]
    found = PROBLEMS.get(code)
    if found is None:
        return problem("problem.missing", f"expected a code of this list, found {code[:80]!r}")
    return Answer(ProblemPage(code=code, title=found.title, status=found.status), final=True)
