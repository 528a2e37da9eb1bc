"""The application: every route, and how refusals and our own bugs are answered."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from aiohttp import web

from node.api import access, events, transactions
from node.api.answer import JSON, Read, parse_query, problem, respond, send
from node.api.context import ApiContext
from node.api.docs import POLICY, write_page
from node.api.export import Exports, choose_format
from node.api.lookups import Lookups
from node.api.openapi import describe
from node.api.pool import Pool
from node.api.routes import DOCS, OPENAPI, READS
from node.api.views import NoQuery
from vm.refusal import Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HTTP_CODES = {404: "route.unknown", 405: "method.unknown", 413: "body.too_large"}
# Of every answer.
GUARDS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": "concilium",  # and not which releases of what it runs on
}

log = structlog.get_logger()


def build_api(context: ApiContext) -> web.Application:
    """The HTTP interface as an application of its own; the caller gives it a socket."""
    app = web.Application(
        middlewares=[answer_refusals, access.keeping(context)],
        client_max_size=transactions.SUBMIT_BYTES_MAX,
    )
    reader = Pool(context)
    streams = events.Streams(context, reader)
    submissions = transactions.Submissions(context)
    lookups = Lookups(context, reader)
    exports = Exports(context, reader)
    for read in READS:
        app.router.add_get(read.path, _read_handler(context, reader, exports, read))

    async def submit(request: web.Request) -> web.StreamResponse:
        parse_query(request, NoQuery)
        return respond(request, await submissions.take(request))

    async def look_up(request: web.Request) -> web.StreamResponse:
        return respond(request, await lookups.answer(request))

    async def stream(request: web.Request) -> web.StreamResponse:
        return await streams.serve(request)

    access.add_routes(app.router, context, reader)
    app.router.add_post(transactions.TRANSACTIONS, submit)
    app.router.add_get(transactions.LOOKUP, look_up)
    app.router.add_get(events.EVENTS, stream, allow_head=False)
    _add_description(app, context.desk.public)

    async def end_waits(_: web.Application) -> None:
        streams.close()
        lookups.close()

    async def keep(_: web.Application) -> AsyncIterator[None]:
        following = asyncio.create_task(lookups.follow())
        yield
        following.cancel()
        await asyncio.wait((following,))
        reader.close()

    app.on_response_prepare.append(_guard)
    app.on_shutdown.append(end_waits)
    app.cleanup_ctx.append(keep)
    return app


def _read_handler(context: ApiContext, reader: Pool, exports: Exports, read: Read) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        query = parse_query(request, read.query)
        media_type = choose_format(request, read, query)
        if media_type != JSON:
            return await exports.serve(request, read, query, media_type)
        if read.at_once:
            return respond(request, read.answer(context, request.match_info, query))
        answer = await reader.run(request, read.answer, context, request.match_info, query)
        return respond(request, answer)

    return handle


def _add_description(app: web.Application, public: bool) -> None:
    """What the interface is, for programs and for people; it changes with the release alone."""
    document = describe(public)
    written, page = json.dumps(document).encode(), write_page(document).encode()

    async def describe_it(request: web.Request) -> web.StreamResponse:
        parse_query(request, NoQuery)
        return send(request, written, JSON)

    async def show(request: web.Request) -> web.StreamResponse:
        parse_query(request, NoQuery)
        response = send(request, page, "text/html")
        response.headers["Content-Security-Policy"] = POLICY
        return response

    app.router.add_get(OPENAPI, describe_it)
    app.router.add_get(DOCS, show)


async def _guard(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(GUARDS)


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
