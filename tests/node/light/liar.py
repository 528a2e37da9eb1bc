"""A malicious server: an honest node's interface, and somebody who changes what it answers."""

import base64
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from node.api.app import build_api
from node.api.feed import Feed
from node.api.problem import problem
from node.audit.prove import prove_steps
from node.client.client import NEWEST_PATH, Client
from node.light.follow import Follower
from node.light.history import History
from tests.harness import key_of
from tests.node.network import Network, agree, open_network, register_dataset, say
from tests.node.serving import Node, serve_app
from tests.vm.council import propose, rotation
from vm import tree
from vm.block import Header
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.inclusion import CertifiedHeader, Later
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.trust import Pin, from_genesis

Change = Callable[[Any], Any]  # of a JSON body
Server = Callable[[], web.Application]  # made where an event loop runs
Forge = Callable[[Network, Any], Any]  # of a proof, which may be bytes afterwards

NOWHERE = "/nothing"  # no path begins with it
IDS = tuple(f"hospital-{number}.validator" for number in range(1, 6))


def liar(network: Network, path: str, change: Change) -> Server:
    """The interface of `network`, whose answers at paths that begin with `path` are changed."""
    return lambda: _lying(network, path, change)


def _lying(network: Network, path: str, change: Change) -> web.Application:
    certificate = network.chain.store.certified()
    height = 0 if certificate is None else certificate.height
    folder = tempfile.TemporaryDirectory()
    node = Node(network, Feed(height), Path(folder.name))
    app = build_api(node.context)

    async def keep(_: web.Application) -> AsyncIterator[None]:
        yield
        await node.logbook.flush()
        node.logbook.close()
        folder.cleanup()

    app.cleanup_ctx.append(keep)

    @web.middleware
    async def lie(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if not request.path.startswith(path):
            return response
        assert isinstance(response, web.Response), "only whole answers are changed"
        assert isinstance(response.body, bytes), "only whole answers are changed"
        return web.json_response(change(json.loads(response.body)), status=response.status)

    app.middlewares.append(lie)
    return app


def answering(
    network: Network, answers: Callable[[str, Any], Any], missing: str = NOWHERE
) -> Server:
    """The interface of `network`; `answers` has a path with its query, and the body of its answer.

    None leaves the answer as it is. Checkpoints at paths that begin with `missing` were pruned.
    """

    def make() -> web.Application:
        app = _lying(network, NOWHERE, lambda body: body)

        @web.middleware
        async def change(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.startswith(missing):
                return problem(404, Refused("checkpoint.missing", "expected it, found it pruned"))
            response = await handler(request)
            assert isinstance(response, web.Response), "only whole answers are changed"
            assert isinstance(response.body, bytes), "only whole answers are changed"
            changed = answers(request.path_qs, json.loads(response.body))
            return response if changed is None else web.json_response(changed)

        app.middlewares.append(change)
        return app

    return make


def forging(cls: type[Any], forge: Callable[[Any], Any]) -> Change:
    """Every proof of a body, unpacked as a `cls` and packed again after `forge`."""

    def change(body: Any) -> Any:
        found = body["items"][0] if "items" in body else body
        proof = forge(unpack(cls, base64.b64decode(found["proof"])))
        data = proof if isinstance(proof, bytes) else pack(proof)
        found["proof"] = base64.b64encode(data).decode()
        return body

    return change


def certified(network: Network, height: int) -> CertifiedHeader:
    """The header of a height with its own certificate."""
    header = network.chain.store.header(height)
    certificate = network.chain.store.certificate(height)
    assert header is not None
    assert certificate is not None
    return CertifiedHeader(header, certificate, None)


def signed(header: Header, ids: Sequence[str], keys: Sequence[str] = ()) -> CheckpointCertificate:
    """A certificate with a vote of each id, by the keys of these names, or by those of its own."""
    message = checkpoint_digest(header.chain, header.height, header.digest)
    votes = tuple(
        Vote(id, key_of(key).sign(message)) for id, key in zip(ids, keys or ids, strict=True)
    )
    return CheckpointCertificate(header.height, header.digest, votes)


def resigned(certified: CertifiedHeader, *ids: str, **changes: Any) -> CertifiedHeader:
    """A header with changes, certified by these validators."""
    header = replace(certified.header, **changes)
    return CertifiedHeader(header, signed(header, ids), None)


@contextmanager
def rotated(folder: Path) -> Iterator[Network]:
    """A chain on which three of four validators have other keys than at genesis."""
    with open_network(folder) as made:
        made.block(register_dataset(made, "hospital-1"))
        for number in (1, 2, 3):
            say(made, [propose(number, f"new-{number}", rotation(number))])
            others = tuple({1, 2, 3, 4} - {number})
            agree(made, (f"new-{number}",), others[:2])
        made.block()
        yield made


@contextmanager
def forked(folder: Path, heights: int) -> Iterator[Network]:
    """Another history of the same genesis, certified by the keys that genesis names."""
    with open_network(folder) as made:
        made.block(register_dataset(made, "hospital-2"))
        while made.chain.head.height < heights:
            made.block()
        yield made


@asynccontextmanager
async def following(
    network: Network, *servers: Server, pin: Pin | None = None, held: History | None = None
) -> AsyncIterator[Follower]:
    """A follower of these nodes."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serve_app(server())) for server in servers]
        clients = [await stack.enter_async_context(Client(network.genesis, [url])) for url in urls]
        yield Follower(network.genesis, clients, pin, held)


def honest(network: Network) -> Server:
    """A node that does not lie."""
    return liar(network, NOWHERE, lambda body: body)


def showing(network: Network, newest: CertifiedHeader) -> Server:
    """A node that shows this as its newest checkpoint, and is honest otherwise."""
    body = {"items": [{"proof": base64.b64encode(pack(newest)).decode()}], "next": None}
    return answering(network, lambda path, _: body if path.startswith(NEWEST_PATH) else None)


def lagging(network: Network) -> Server:
    """A node that shows the checkpoint before the newest."""
    behind = certified(network, network.chain.head.height - 1)
    return liar(network, "/v1/checkpoints", forging(CertifiedHeader, lambda _: behind))


def under(network: Network, height: int, later: int) -> CertifiedHeader:
    """The header of a height in the history of a later checkpoint."""
    header = network.chain.store.header(height)
    assert header is not None
    path = tree.inclusion_path_at(network.chain.store.history_node, height, later)
    above = certified(network, later)
    return CertifiedHeader(header, above.certificate, Later(above.header, path))


def top(network: Network) -> CertifiedHeader:
    """The newest checkpoint."""
    return certified(network, network.chain.head.height)


def held_at(network: Network, height: int) -> History:
    """A history that was followed to this height."""
    steps = prove_steps(network.chain, 0, 9)
    trust = from_genesis(network.genesis)
    history = History(trust, None, (), None)
    for step in steps:
        if step.epoch.first <= height:
            history = history.step(step)
    return history.see(certified(network, height))


def votes(change: Callable[[tuple[Vote, ...]], tuple[Vote, ...]]) -> Forge:
    """The newest checkpoint with other votes."""

    def forge(_: Network, found: CertifiedHeader) -> CertifiedHeader:
        certificate = replace(found.certificate, votes=change(found.certificate.votes))
        return replace(found, certificate=certificate)

    return forge


def cut(_: Network, found: object) -> bytes:
    """Bytes with the last one missing."""
    return pack(found)[:-1]
