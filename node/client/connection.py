"""Requests to nodes, with what shows who asks: a token where one is wanted, minted when it is.

A node that wants to know its reader says so (`reader.required`, or `reader.expired` of a token that
is over). Then a token is minted there by a signed request (RFC 9421), and the request sent again,
once. Over https:// the TLS key is enough and no token is asked for; whoever has none signs, for the
TLS key of the server that it sees, and sends the token to no other.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
from multidict import CIMultiDict
from pydantic import BaseModel, Field, ValidationError

from node.api.problem import PROBLEM_BYTES_MAX, parse_problem, read_body
from node.api.resource import TOKENS_PATH
from node.client.credentials import Credentials
from node.client.reply import Reply, reason
from node.client.servers import Servers
from node.readers.signature import SERVER, Message, sign
from vm.encoding import encode
from vm.refusal import Refused

TOKEN_BYTES_MAX = 4 * 1024  # of the answer that holds a token: ours take 200
TOKEN_CHARACTERS_MAX = 512
NONCE_BYTES = 16
UNKNOWN = ("reader.required", "reader.expired")  # what a token may help against
BUSY = 429
WAIT = re.compile(r"[0-9]{1,9}")  # of a Retry-After header; longer ones Python would refuse
BUSY_TRIES = 4  # of one request, before its caller is told
WAIT_S_MAX = 20  # for which a node can send us away at a time
ANSWER_BYTES_MAX = 8 * 1024 * 1024  # of JSON: a page of 100 large records
CONNECT_TIMEOUT_S = 3  # a validator that is up answers within one
SILENCE_TIMEOUT_S = 5  # between two parts of an answer, the first after it was computed
LONG_SILENCE_S = 30  # before a lineage: 7,500 records take a busy node five seconds to prove
ANSWER_TIMEOUT_S = 60  # for a whole answer: 8 MiB over 1.2 Mbit/s, or somebody who trickles
EVENTS_TIMEOUT_S = 20  # silence of an event stream, which has a heartbeat every 15


class _Minted(BaseModel):
    token: str = Field(min_length=1, max_length=TOKEN_CHARACTERS_MAX, pattern=r"^[A-Za-z0-9_-]+$")


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, and the TLS key of the server that minted it; None without TLS."""

    text: str
    server: str | None

    @property
    def headers(self) -> dict[str, str]:
        """What a request carries that shows it."""
        bound = {} if self.server is None else {SERVER: self.server}
        return {"Authorization": f"Bearer {self.text}", **bound}


class Connection:
    """One session with any number of nodes; use it as an asynchronous context manager."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._tokens: dict[str, _Token] = {}  # by URL of the node that minted it
        self._minting = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        tls = None if self._credentials is None else self._credentials.tls
        self._servers = Servers(ssl=tls if tls is not None else True)
        self._session = aiohttp.ClientSession(
            timeout=_timeout(0),
            connector=self._servers,
            cookie_jar=aiohttp.DummyCookieJar(),  # no node fills our memory, or marks who asks
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened().close()

    async def fetch(
        self, url: str, path: str, bytes_max: int, transactions: Sequence[bytes] | None = None
    ) -> Reply:
        """The answer of the node at `url`: GET, or POST of packed `transactions`.

        Raises `Refused("client.unreachable")`, and what the node refuses a token for.
        """
        try:
            used = self._tokens.get(url)
            reply, wait_s = await self._send(url, path, bytes_max, transactions)
            if await self._introduce(reply, used):
                reply, wait_s = await self._send(url, path, bytes_max, transactions)
            for _ in range(BUSY_TRIES):
                if reply.status != BUSY:
                    break
                await _wait(wait_s)
                reply, wait_s = await self._send(url, path, bytes_max, transactions)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Refused("client.unreachable", f"{url}: {reason(error)}") from error
        return reply

    @asynccontextmanager
    async def stream(self, url: str, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that does not end; raises what the node refuses it for, and what aiohttp does.

        Its first bytes come at once, so that silence means that the node is gone.
        """
        for introduced in (False, True):
            used = self._tokens.get(url)
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=EVENTS_TIMEOUT_S
            )
            async with self._opened().get(
                url + path, allow_redirects=False, timeout=timeout, headers=self._headers(url)
            ) as response:
                if response.status == 200:
                    yield response
                    return
                body = await read_body(response, PROBLEM_BYTES_MAX)
            reply = Reply(url, response.status, body)
            if introduced or not await self._introduce(reply, used):
                raise parse_problem(body, url, response.status)

    async def _send(
        self, url: str, path: str, bytes_max: int, transactions: Sequence[bytes] | None
    ) -> tuple[Reply, float]:
        """The answer, and how long the node says to wait before the next request."""
        timeout = _timeout(bytes_max)
        if transactions is None:
            request = self._opened().get(
                url + path, allow_redirects=False, headers=self._headers(url), timeout=timeout
            )
        else:
            request = self._opened().post(
                url + path,
                data=encode(tuple(transactions)),
                headers={"Content-Type": "application/msgpack"},
                allow_redirects=False,
                timeout=timeout,
            )
        async with request as response:
            bound = PROBLEM_BYTES_MAX if response.status >= 400 else bytes_max
            reply = Reply(url, response.status, await read_body(response, bound))
        return reply, _wait_s(response.headers.get("Retry-After", ""))

    def _headers(self, url: str) -> dict[str, str]:
        token = self._tokens.get(url)
        if token is None or token.server != self._servers.key(url):
            return {}
        return token.headers

    async def _introduce(self, reply: Reply, used: _Token | None) -> bool:
        """Mint a token at a node that wants to know us; whether there is another than `used`."""
        if reply.status != 401 or self._credentials is None:
            return False
        refused = parse_problem(reply.body, reply.url, reply.status)
        if refused.code not in UNKNOWN:
            return False
        async with self._minting:  # of many requests that were refused, the first one does it
            if self._tokens.get(reply.url) == used:
                self._tokens[reply.url] = await self._mint(reply.url, self._credentials)
        return True

    async def _mint(self, url: str, credentials: Credentials) -> _Token:
        server = self._servers.key(url)  # the request has been sent once, without a token
        headers = CIMultiDict[str]({} if server is None else {SERVER: server})
        message = Message("POST", url + TOKENS_PATH, headers)
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        sign(credentials.key, credentials.member, message, _now_s(), nonce)
        async with self._opened().post(
            url + TOKENS_PATH, headers=headers, allow_redirects=False
        ) as response:
            body = await read_body(response, TOKEN_BYTES_MAX)
        if response.status != 201:
            raise parse_problem(body, url, response.status)
        try:
            return _Token(_Minted.model_validate_json(body).token, server)
        except ValidationError:
            raise Refused("http.answer", f"{url}: expected a token, found none") from None

    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None, "the client is used as a context manager"
        return self._session


async def _wait(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _now_s() -> int:
    return int(time.time())


def _wait_s(text: str) -> float:
    """The seconds of a Retry-After header, within bounds; 1 where there are none."""
    if not WAIT.fullmatch(text):
        return 1.0
    return float(min(max(int(text), 1), WAIT_S_MAX))


def _timeout(bytes_max: int) -> aiohttp.ClientTimeout:
    """How long an answer of so many bytes may take; a long one also before its first byte."""
    return aiohttp.ClientTimeout(
        total=ANSWER_TIMEOUT_S,
        sock_connect=CONNECT_TIMEOUT_S,
        sock_read=SILENCE_TIMEOUT_S if bytes_max <= ANSWER_BYTES_MAX else LONG_SILENCE_S,
    )
