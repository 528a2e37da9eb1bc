"""Keys that were retired sign no future of what an auditor has followed."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from node.audit.prove import prove_consistency
from node.light.follow import State
from node.light.history import pin_of
from tests.node.light.liar import IDS, certified, following, held_at, honest, rotated, signed
from tests.node.network import Network
from vm import tree
from vm.epoch import epochs
from vm.genesis import check_genesis
from vm.inclusion import CertifiedHeader, ConsistencyProof, Later
from vm.shape import pack
from vm.succession import Step

BEYOND = 5  # heights that the forger adds


def text(proof: object) -> str:
    """A proof as an answer holds it."""
    return base64.b64encode(pack(proof)).decode()


class Forger:
    """Has every public header and the keys of epoch 0, which were retired long ago.

    Its own header claims that epoch 0 still rules; true headers stand in its history.
    """

    def __init__(self, network: Network) -> None:
        last = network.chain.head.height
        headers = [network.chain.store.header(height) for height in range(last + 1)]
        self.headers = [header for header in headers if header is not None]
        leaves = [header.digest for header in self.headers]
        leaves += [bytes([number]) * 32 for number in range(1, BEYOND)]
        frontier, nodes = tree.EMPTY, dict[tuple[int, int], bytes]()
        for leaf in leaves:
            frontier, made = tree.append(frontier, leaf)
            nodes.update({(level, index): digest for level, index, digest in made})
        self.size, self.nodes = len(leaves), nodes
        retired = check_genesis(network.genesis).digest
        header = replace(
            self.headers[-1],
            height=self.size,
            state=b"\xee" * 32,
            history=tree.root(leaves),
            validators=retired,
            next_validators=retired,
        )
        self.newest = CertifiedHeader(header, signed(header, IDS[:3]), None)

    def consistency(self, height: int) -> ConsistencyProof:
        """The true header at a height, under the forged one."""
        read = lambda level, index: self.nodes[level, index]  # noqa: E731
        inclusion = tree.inclusion_path_at(read, height, self.size)
        later = Later(self.newest.header, inclusion)
        older = CertifiedHeader(self.headers[height], self.newest.certificate, later)
        path = tree.consistency_path_at(read, height, self.size)
        return ConsistencyProof(older, self.newest, inclusion, path)

    def serve(self) -> web.Application:
        """A node that shows what it has forged, and no steps."""

        async def checkpoints(_: web.Request) -> web.Response:
            return web.json_response({"items": [{"proof": text(self.newest)}], "next": None})

        async def epochs(_: web.Request) -> web.Response:
            return web.json_response({"items": [], "next": None})

        async def consistency(request: web.Request) -> web.Response:
            return web.json_response({"proof": text(self.consistency(int(request.query["from"])))})

        app = web.Application()
        app.router.add_get("/v1/checkpoints", checkpoints)
        app.router.add_get("/v1/epochs", epochs)
        app.router.add_get("/v1/consistency", consistency)
        return app


@pytest.mark.parametrize("beside", [0, 2])
def test_true_headers_under_a_forged_one_do_not_make_it_true(tmp_path: Path, beside: int) -> None:
    """The held header stands in the forger's history: who rules it tells the two apart."""
    with rotated(tmp_path) as network:
        held = held_at(network, network.chain.head.height - 1)

        async def look(*servers: Callable[[], web.Application]) -> list[State]:
            async with following(network, *servers, held=held) as follower:
                found = await follower.round()
            assert found.held is not None
            assert found.held.trust.epochs == held.trust.epochs
            assert found.held.newest is not None
            assert found.held.newest.header.height <= network.chain.head.height
            return [seen.state for seen in found.seen]

        states = asyncio.run(look(*[honest(network)] * beside, Forger(network).serve))

    assert states == [*[State.AGREES] * beside, State.FALSE]


def test_a_store_that_began_at_an_early_pin_is_not_led_astray(tmp_path: Path) -> None:
    """Its first epoch is the retired one; what it has followed since counts."""
    with rotated(tmp_path) as network:
        first = network.chain.store.header(1)
        assert first is not None
        pin = pin_of(first)

        async def look() -> list[State]:
            async with following(network, honest(network), pin=pin) as follower:
                held = (await follower.round()).held
            servers = (honest(network), Forger(network).serve)
            async with following(network, *servers, pin=pin, held=held) as follower:
                return [seen.state for seen in (await follower.round()).seen]

        assert asyncio.run(look()) == [State.AGREES, State.FALSE]


def forged_steps(network: Network) -> list[Step]:
    """From epoch 0 to the chain's own newest epoch by others in between, all signed by epoch 0."""
    known = epochs(network.chain.state())
    steps, before = [], known[0]
    for epoch in known[1:]:
        last = epoch is known[-1]
        following = epoch if last else replace(epoch, validators=known[0].validators)
        header = network.chain.store.header(epoch.first - 1)
        assert header is not None
        header = replace(header, validators=before.digest, next_validators=following.digest)
        steps.append(Step(header, signed(header, IDS[:3]), following))
        before = following
    return steps


def test_no_node_swaps_the_validators_that_were_followed_for_others(tmp_path: Path) -> None:
    """A true checkpoint under forged steps: with them old records could be forged ever after."""
    with rotated(tmp_path) as network:
        held = held_at(network, network.chain.head.height - 1)
        forger, true = Forger(network), certified(network, network.chain.head.height)
        steps = [{"proof": text(step)} for step in forged_steps(network)]
        shown = iter((forger.newest, true))

        def serve() -> web.Application:
            async def checkpoints(_: web.Request) -> web.Response:
                newest = text(next(shown, true))
                return web.json_response({"items": [{"proof": newest}], "next": None})

            async def epochs_after(request: web.Request) -> web.Response:
                items = steps if request.query["after"] == "0" else []
                return web.json_response({"items": items, "next": None})

            async def consistency(_: web.Request) -> web.Response:
                older = held.newest
                assert older is not None
                proof = prove_consistency(network.chain, older.header.height, true.header.height)
                return web.json_response({"proof": text(proof)})

            app = web.Application()
            app.router.add_get("/v1/checkpoints", checkpoints)
            app.router.add_get("/v1/epochs", epochs_after)
            app.router.add_get("/v1/consistency", consistency)
            return app

        async def look() -> tuple[str, bool]:
            async with following(network, serve, held=held) as follower:
                found = await follower.round()
            assert found.held is not None
            return found.seen[0].code, found.held.trust.epochs == held.trust.epochs

        assert asyncio.run(look()) == ("audit.validators", True)
