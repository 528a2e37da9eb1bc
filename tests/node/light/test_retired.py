"""Keys that were retired sign no future of what an auditor has followed."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.api.keys import KEYS_MAX
from node.api.resource import EPOCHS_PATH, TOGETHER_PATH
from node.audit.prove import prove_consistency, prove_together
from node.light import ask
from node.light.follow import Round, State
from node.light.history import pin_of
from tests.node.light.liar import (
    IDS,
    Server,
    answering,
    certified,
    following,
    held_at,
    honest,
    lagging,
    rotated,
    showing,
    signed,
)
from tests.node.network import Network
from vm import tree
from vm.epoch import epochs
from vm.genesis import check_genesis
from vm.inclusion import CertifiedHeader, ConsistencyProof, Later, write_multiproof
from vm.quorum import Epoch
from vm.shape import pack
from vm.state import state_key
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


def swapping(network: Network) -> Server:
    """A node that shows forged steps, and is honest otherwise."""
    steps = [{"proof": text(step)} for step in forged_steps(network)]

    def answers(path: str, _: Any) -> Any:
        if not path.startswith(EPOCHS_PATH):
            return None
        return {"items": steps[int(path.partition("after=")[2]) :], "next": None}

    return answering(network, answers)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("beside", [honest, lagging])
def test_steps_by_retired_keys_to_a_true_checkpoint_are_not_held(
    tmp_path: Path, begun: bool, place: int, beside: Callable[[Network], Server]
) -> None:
    """The attack: a fresh or old store, true headers everywhere, and other validators between."""
    with rotated(tmp_path) as network:
        servers = [beside(network), beside(network)]
        servers.insert(place, swapping(network))
        held = held_at(network, 1) if begun else None

        async def look() -> Round:
            async with following(network, *servers, held=held) as follower:
                return await follower.round()

        found, true = asyncio.run(look()), epochs(network.chain.state())

    assert found.held is not None
    assert found.held.trust.epochs == true
    states = [seen.state for seen in found.seen]
    assert states.pop(place) is State.FALSE
    assert states == [State.AGREES, State.AGREES]


@pytest.mark.parametrize("most", [1, KEYS_MAX])
def test_a_node_alone_cannot_swap_validators_under_a_true_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The checkpoint's own state says who ruled, so no second node is needed to tell."""
    monkeypatch.setattr(ask, "KEYS_MAX", most)
    with rotated(tmp_path) as network:

        async def look() -> Round:
            async with following(network, swapping(network)) as follower:
                return await follower.round()

        found = asyncio.run(look())

    assert [(seen.state, seen.code) for seen in found.seen] == [(State.FALSE, "succession.record")]
    assert found.held is None


def test_another_header_does_not_say_who_ruled(tmp_path: Path) -> None:
    """The attack: an early header, as retired keys forge them, with a state of the forger's own."""
    with rotated(tmp_path) as network:
        view = network.chain.view(network.chain.head.height - 1)
        assert view is not None
        keys = [state_key(Epoch.KIND, (number,)) for number in (1, 2, 3)]
        proof = prove_together(network.chain, view, keys)
        body = {"proof": base64.b64encode(write_multiproof(proof)).decode()}
        other = answering(network, lambda path, _: body if path.startswith(TOGETHER_PATH) else None)

        async def look() -> Round:
            async with following(network, other) as follower:
                return await follower.round()

        found = asyncio.run(look())

    assert [(seen.state, seen.code) for seen in found.seen] == [(State.FALSE, "audit.key")]
    assert found.held is None


def test_a_step_beyond_the_newest_checkpoint_is_not_held_yet(tmp_path: Path) -> None:
    """No state that was shown holds its epoch: it may be of retired keys."""
    with rotated(tmp_path) as network:
        true = epochs(network.chain.state())
        early = showing(network, certified(network, true[1].first))

        async def look() -> Round:
            async with following(network, early) as follower:
                return await follower.round()

        found = asyncio.run(look())

    assert found.held is not None
    assert found.held.trust.epochs == true[:2]
    assert len(found.held.steps) == 1
