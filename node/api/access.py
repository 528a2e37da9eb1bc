"""Readers at the HTTP interface: who comes in, tokens, and the access log for auditors."""

import base64
from typing import Annotated

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, ConfigDict, Field

from node.api.answer import SHOWN, Answer, parse_query, problem, respond
from node.api.context import ApiContext
from node.api.pool import Pool
from node.api.resource import ACCESS_LOG_PATH, LINES_MAX, TOKENS_PATH
from node.api.security import is_open
from node.api.views import DECIMAL, HeightText, NoQuery
from node.readers.identity import READER
from node.readers.pace import TooMany
from node.readers.signature import wanted
from node.readers.tokens import TOKEN_S
from vm.accesslog import AccessLog
from vm.record import Role
from vm.refusal import Refused

CHALLENGE = 'Bearer realm="concilium"'


class TokenAnswer(BaseModel):
    """A bearer token: `Authorization: Bearer …` until `expires_s` seconds are over."""

    model_config = ConfigDict(extra="forbid")

    token: str
    member: str
    role: Role
    expires_s: int


class AccessQuery(NoQuery):
    """Lines from `after` on, under the root over the first `size`; the published size if none."""

    after: HeightText = Field(0, description="How many lines to leave out")
    size: HeightText | None = Field(
        None, description="The lines of the tree that shows them; the published ones if not given"
    )
    limit: Annotated[int, Field(ge=1, le=LINES_MAX), DECIMAL] = Field(
        LINES_MAX, description="Lines of one page"
    )


class AccessItem(BaseModel):
    """A line, packed, in base64, and the path that shows it under the root."""

    line: str
    path: list[str]


class AccessPage(BaseModel):
    """A part of this node's access log; digests in hexadecimal."""

    validator: str
    after: int
    size: int
    root: str
    consistency: list[str]
    items: list[AccessItem]


def keeping(context: ApiContext) -> Middleware:
    """The middleware that lets readers in, and answers out once they are noted."""

    @web.middleware
    async def kept(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_open(request.method, request.path):
            return await handler(request)
        try:
            await context.desk.admit(request)
            response = await handler(request)
            await context.desk.note(request, request.get(SHOWN, ()))
        except Refused as refused:
            if not refused.code.startswith("reader."):
                raise
            return _refuse(request, refused, wanted(context.desk.server is not None))
        return response

    return kept


def add_routes(router: web.UrlDispatcher, context: ApiContext, reads: Pool) -> None:
    """Where tokens are minted and the access log is read."""

    async def mint(request: web.Request) -> web.StreamResponse:
        parse_query(request, NoQuery)
        reader, token = context.desk.mint(request)
        answer = TokenAnswer(token=token, member=reader.member, role=reader.role, expires_s=TOKEN_S)
        return respond(request, Answer(answer, status=201))

    async def look(request: web.Request) -> web.StreamResponse:
        reader = request.get(READER)
        if reader is None or reader.role is not Role.AUDITOR:
            found = "nobody" if reader is None else f"{reader.member}, a {reader.role}"
            raise Refused("reader.role", f"expected an auditor, found {found}")
        query = parse_query(request, AccessQuery)
        return respond(request, await reads.run(request, _read_page, context, query))

    router.add_post(TOKENS_PATH, mint)
    router.add_get(ACCESS_LOG_PATH, look)


def _read_page(context: ApiContext, query: AccessQuery) -> Answer:
    logbook, validator = context.desk.logbook, context.status().name
    size = query.size
    if size is None:
        published = context.chain.state().get(AccessLog, validator)
        known = published is not None and published.log == logbook.identity
        size = published.size if published is not None and known else 0
    if size > logbook.size or query.after > size:
        raise Refused(
            "access_log.range",
            f"expected after <= size <= {logbook.size}, found {query.after} and {size}",
        )
    page = logbook.page(query.after, query.limit, size)
    return Answer(
        AccessPage(
            validator=validator,
            after=query.after,
            size=page.size,
            root=page.root.hex(),
            consistency=[digest.hex() for digest in page.consistency],
            items=[
                AccessItem(
                    line=base64.b64encode(line).decode(), path=[digest.hex() for digest in path]
                )
                for line, path in zip(page.lines, page.paths, strict=True)
            ],
        )
    )


def _refuse(request: web.Request, refused: Refused, signature: str) -> web.StreamResponse:
    response = respond(request, problem(refused.code, refused.message))
    if response.status == 401:
        expired = ', error="invalid_token"' if refused.code == "reader.expired" else ""
        response.headers["WWW-Authenticate"] = CHALLENGE + expired
        response.headers["Accept-Signature"] = signature
    if isinstance(refused, TooMany):
        response.headers["Retry-After"] = str(refused.wait_s)
    return response
