"""A node's HTTP interface on a port of its own, over a test's chain."""

import asyncio
import base64
import json
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from node.api.admission import ADMITTED, Admission
from node.api.app import build_api
from node.api.context import ApiContext, NodeStatus
from node.api.feed import Feed
from node.client.connection import Connection
from node.client.reply import Reply
from node.program import program
from node.readers.desk import Desk
from node.readers.identity import READER, Reader, Roster
from node.readers.log import Logbook
from tests.node.network import Network
from vm.accesslog import Via
from vm.record import Role
from vm.refusal import Refused
from vm.shape import unpack
from vm.transaction import Verified, read

HOST = "127.0.0.1"
PER_S = 1_000  # requests of one reader: more than any test sends


class Welcoming(Desk):
    """Takes every reader for an auditor."""

    async def admit(self, request: web.Request) -> None:
        """Ask nothing."""
        request[READER] = Reader("auditor", Role.AUDITOR, Via.TOKEN)


@dataclass
class Node:
    """What stands behind the interface; tests turn its knobs.

    `judge` may refuse a transaction; `waiting` holds those admitted that no block has executed, and
    `asked` is released each time that the interface asks whether one of them does.
    With `prompt`, each request's transactions are executed and certified at once.
    """

    network: Network
    feed: Feed
    folder: Path
    prompt: bool = False
    ready: tuple[bool, str] = (True, "")
    waiting: dict[bytes, Verified] = field(default_factory=dict)
    judge: Callable[[Verified], None] = lambda transaction: None
    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    names: tuple[str, ...] = ()
    server: bytes | None = None  # the digest of its TLS key, where it shows one
    known: bool = True  # whether every reader is taken for an auditor, with nothing to show for it
    now_s: Callable[[], float] = time.time
    cpu_s: Callable[[], float] = lambda: 0.0  # reads cost nothing where no test says so

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.logbook = Logbook(self.folder)
        chain = self.network.chain
        self.desk = (Welcoming if self.known else Desk)(
            public=self.network.genesis.public,
            names=self.names,
            server=self.server,
            per_s=PER_S,
            roster=Roster(chain.state, lambda: chain.head.height),
            logbook=self.logbook,
            now_s=self._time_s,
            ticks_s=self._time_s,
        )

    def _time_s(self) -> float:
        """The clock of now: tests turn it while the node runs."""
        return self.now_s()

    async def submit(self, packed: Sequence[bytes]) -> list[Admission]:
        """Judge each transaction; admitted ones wait, or are executed with `prompt`."""
        answers, fresh = [], []
        for data in packed:
            try:
                transaction = read(data, self.network.chain.id)
                self.judge(transaction)
            except Refused as refused:
                answers.append(Admission(b"", refused.code, refused.message))
                continue
            self.waiting[transaction.id] = transaction
            fresh.append(transaction)
            answers.append(Admission(transaction.id, ADMITTED, ""))
        if self.prompt and fresh:
            self.execute()
        return answers

    def pending(self, id: bytes) -> bool:
        """Whether a transaction waits; asked in threads."""
        found = id in self.waiting
        self._loop.call_soon_threadsafe(self.asked.release)
        return found

    def execute(self) -> None:
        """Execute and certify what waits."""
        header = self.network.carry(item.packed for item in self.waiting.values())
        self.waiting.clear()
        self.feed.publish(header.height)

    def status(self) -> NodeStatus:
        """Plain values that a test can recognise."""
        chain = self.network.chain
        height = self.feed.height
        return NodeStatus(
            name="hospital-1.validator",
            version="0.1.0",
            chain=chain.id,
            epoch=0,
            role="voting",
            view=0,
            primary="hospital-1.validator",
            changing_view=False,
            executed_height=chain.head.height,
            certified_height=height,
            state_root=chain.head.root.digest,
            peers=3,
            pending=len(self.waiting),
        )

    @property
    def context(self) -> ApiContext:
        """The interface's view of this node."""
        return ApiContext(
            chain=self.network.chain,
            feed=self.feed,
            kinds=program().kinds,
            submit=self.submit,
            pending=self.pending,
            status=self.status,
            ready=lambda: self.ready,
            desk=self.desk,
            cpu_s=self.cpu_s,
        )


@asynccontextmanager
async def serve_app(
    app: web.Application,
    door: socket.socket | None = None,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve `app`; give its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    door = door or socket.create_server((HOST, 0))
    try:
        await web.SockSite(runner, door, ssl_context=context).start()
        yield f"http{'s' if context else ''}://{HOST}:{door.getsockname()[1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve(
    network: Network,
    *,
    context: ssl.SSLContext | None = None,
    door: socket.socket | None = None,
    **knobs: Any,
) -> AsyncIterator[tuple[str, Node]]:
    """Serve a node of `network`; give its URL and what stands behind it."""
    certificate = network.chain.store.certified()
    door = door or socket.create_server((HOST, 0))
    name = f"{HOST}:{door.getsockname()[1]}"
    height = 0 if certificate is None else certificate.height
    with tempfile.TemporaryDirectory() as folder:
        node = Node(network, Feed(height), Path(folder), names=(name,), **knobs)
        async with serve_app(build_api(node.context), door, context) as url:
            yield url, node
        await node.logbook.flush()
        node.logbook.close()


def hide(patch: pytest.MonkeyPatch, liar: str, height: int) -> None:
    """Make the node at the URL `liar` tell lineages of that height as if they were the newest."""
    honest = Connection.fetch

    async def fetch(connection: Connection, url: str, path: str, *rest: Any) -> Reply:
        late = f"?at={height}" if url == liar and path.endswith("/lineage") else ""
        return await honest(connection, url, path + late, *rest)

    patch.setattr(Connection, "fetch", fetch)
    patch.setattr("node.client.client.POLL_S", 0)


@dataclass(frozen=True)
class Got:
    """An HTTP answer, read whole."""

    status: int
    headers: Any
    body: Any


async def get(url: str, **options: Any) -> Got:
    """GET, JSON decoded if it is JSON."""
    return await call("GET", url, **options)


async def call(method: str, url: str, **options: Any) -> Got:
    """Any request."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **options) as response,
    ):
        data = await response.read()
        is_json = response.content_type in ("application/json", "application/problem+json")
        body = json.loads(data) if data and is_json else data
        return Got(response.status, response.headers, body)


def proof_of(cls: type[Any], answer: Any) -> Any:
    """The proof of an answer, unpacked."""
    return unpack(cls, base64.b64decode(answer["proof"]), 2**25)
