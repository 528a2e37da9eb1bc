"""Against a malicious server: each attack is refused with the step that failed named.

Every one goes over HTTP to the light client, first alone, then beside a node that does not lie:
the liar is named, and the client goes on with the other.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from node.client.connection import ANSWER_BYTES_MAX
from node.light.follow import Round, State
from node.light.history import History, pin_of
from tests.node.light.liar import (
    IDS,
    Change,
    Forge,
    Server,
    certified,
    cut,
    following,
    forging,
    held_at,
    honest,
    liar,
    resigned,
    signed,
    top,
    votes,
)
from tests.node.network import Network
from vm import tree
from vm.encoding import encode
from vm.inclusion import CertifiedHeader, ConsistencyProof
from vm.shape import pack, to_value
from vm.succession import Step
from vm.trust import Pin

pytestmark = pytest.mark.usefixtures("impatient")

RULING = IDS[1:4]  # a quorum of the newest set, which is 2 to 5
CHECKPOINTS, EPOCHS, CONSISTENCY = "/v1/checkpoints", "/v1/epochs", "/v1/consistency"
DEPTH = 100_000  # far beyond what a parser may recurse


# Following


def by(*ids: str, keys: tuple[str, ...] = ()) -> Forge:
    """The newest checkpoint, signed by these."""
    return lambda _, found: replace(found, certificate=signed(found.header, ids, keys))


def rewritten(**changes: Any) -> Forge:
    """Another header, certified by a set that ruled once."""
    return lambda _, found: resigned(found, *IDS[:3], **changes)


def longer(_: Network, found: object) -> bytes:
    """Bytes with one too many."""
    return pack(found) + b"\x00"


def crowd(_: Network, found: CertifiedHeader) -> bytes:
    """A certificate of more votes than there may be seats."""
    value: Any = to_value(found)
    version, header, certificate, later = value
    return encode((version, header, (*certificate[:3], certificate[3] * 30), later))


CHECKPOINT_ATTACKS: dict[str, tuple[Forge, str]] = {
    "forged header": (
        lambda _, found: replace(found, header=replace(found.header, state=bytes(32))),
        "audit.header",
    ),
    "wrong height": (
        lambda network, found: replace(found, header=certified(network, 2).header),
        "audit.header",
    ),
    "forged signature": (
        votes(lambda held: (replace(held[0], signature=bytes(64)), *held[1:])),
        "audit.certificate.bad_signature",
    ),
    "wrong key": (by(*RULING, keys=(*RULING[:2], IDS[4])), "audit.certificate.bad_signature"),
    "duplicate signer": (
        votes(lambda held: (held[0], held[0], held[1])),
        "audit.certificate.duplicate_signer",
    ),
    "reordered votes": (votes(lambda held: held[::-1]), "audit.certificate.duplicate_signer"),
    "sub-quorum": (votes(lambda held: held[:2]), "audit.certificate.no_quorum"),
    "no votes": (votes(lambda held: ()), "audit.certificate.no_quorum"),
    "a signer without a seat": (
        by(IDS[0], *IDS[1:3]),
        "audit.certificate.unknown_validator",
    ),
    "cross-chain": (rewritten(chain=bytes(32)), "audit.chain"),
    "another chain's certificate": (
        lambda _, found: replace(
            found, certificate=signed(replace(found.header, chain=bytes(32)), RULING)
        ),
        "audit.header",
    ),
    "truncated": (cut, "encoding.malformed"),
    "oversized": (longer, "encoding.malformed"),
    "more votes than seats": (crowd, "shape.length"),
    "something else": (lambda _, found: pack(found.header), "shape.length"),
}


async def one_round(
    network: Network, *servers: Server, held: History | None = None, pin: Pin | None = None
) -> Round:
    """A round over these nodes."""
    async with following(network, *servers, held=held, pin=pin) as follower:
        return await follower.round()


def assert_refused(
    network: Network, server: Server, code: str, held: History | None = None
) -> None:
    """Alone the liar is refused with `code`; beside an honest node the client goes on."""
    alone = asyncio.run(one_round(network, server, held=held))
    beside = asyncio.run(one_round(network, server, honest(network), held=held))

    for found in (alone, beside):
        assert found.seen[0].state in (State.FALSE, State.REFUSED, State.UNREACHABLE)
        assert found.seen[0].code == code, found.seen[0].message
        assert found.seen[0].message
    assert alone.held == held
    assert beside.seen[1].state is State.AGREES
    assert beside.held is not None
    assert beside.held.newest == top(network)
    assert beside.conflicts == ()


@pytest.mark.parametrize("name", CHECKPOINT_ATTACKS)
def test_a_forged_checkpoint_is_refused(network: Network, name: str) -> None:
    """The step that failed is named, whatever was forged."""
    forge, code = CHECKPOINT_ATTACKS[name]
    server = liar(network, CHECKPOINTS, forging(CertifiedHeader, partial(forge, network)))

    assert_refused(network, server, code)


def usurped(network: Network) -> Server:
    """A node that shows a newest header of the first set, long after another has taken over."""
    old = network.chain.epochs[0].digest
    change = forging(
        CertifiedHeader,
        lambda found: (
            resigned(found, *IDS[:3], validators=old) if is_top(network, found) else found
        ),
    )
    return liar(network, CHECKPOINTS, change)


def is_top(network: Network, found: CertifiedHeader) -> bool:
    """Whether it is the newest."""
    return found.header.height == network.chain.head.height


def test_an_old_validator_set_is_refused_from_a_pin(network: Network) -> None:
    """Its keys may be anybody's by now; the pin's epoch and what goes on from it are not theirs."""
    pin = pin_of(certified(network, network.chain.epochs[2].first).header)

    alone = asyncio.run(one_round(network, usurped(network), pin=pin))
    beside = asyncio.run(one_round(network, usurped(network), honest(network), pin=pin))

    for found in (alone, beside):
        assert found.seen[0].state is State.FALSE
        assert found.seen[0].code == "audit.validators"
    assert beside.seen[1].state is State.AGREES


def test_an_old_validator_set_is_a_fork_of_what_is_held(network: Network) -> None:
    """From genesis it verifies, so there is evidence that its keys were misused."""
    held = held_at(network, network.chain.head.height)

    found = asyncio.run(one_round(network, usurped(network), honest(network), held=held))

    assert [seen.state for seen in found.seen] == [State.CONFLICT, State.AGREES]
    assert found.held is not None
    assert found.held.newest == top(network)


def steps(change: Callable[[list[Any]], list[Any]]) -> Change:
    """Other steps than were asked for."""
    return lambda body: body | {"items": change(body["items"])}


def stolen(step: Step) -> Step:
    """A step to a set of which a single validator says that it rules next."""
    header = replace(step.header, next_validators=step.epoch.digest)
    return replace(step, header=header, certificate=signed(header, IDS[:1]))


STEP_ATTACKS: dict[str, tuple[Change, str]] = {
    "truncated list": (steps(lambda items: items[:1]), "audit.validators"),
    "no list": (steps(lambda items: []), "audit.validators"),
    "reordered list": (steps(lambda items: items[::-1]), "succession.epoch"),
    "endless pages": (lambda body: {"items": [], "next": "1"}, "audit.validators"),
    "oversized page": (steps(lambda items: items * 30), "http.answer"),
    "a step of one signer": (forging(Step, stolen), "succession.certificate.no_quorum"),
    "a step of another chain": (
        forging(Step, lambda step: replace(step, header=replace(step.header, chain=bytes(32)))),
        "succession.chain",
    ),
    "a step to another epoch": (
        forging(Step, lambda step: replace(step, epoch=replace(step.epoch, number=7))),
        "succession.next",
    ),
}


@pytest.mark.parametrize("name", STEP_ATTACKS)
def test_a_server_that_leads_astray_is_refused(network: Network, name: str) -> None:
    """Nobody rules who was not named by those who ruled before."""
    change, code = STEP_ATTACKS[name]

    assert_refused(network, liar(network, EPOCHS, change), code)


CONSISTENCY_ATTACKS: dict[str, tuple[Forge, str]] = {
    "no path": (lambda _, proof: replace(proof, inclusion=()), "audit.history"),
    "forged path": (
        lambda _, proof: replace(proof, inclusion=(bytes(32), *proof.inclusion[1:])),
        "audit.history",
    ),
    "truncated path": (
        lambda _, proof: replace(proof, consistency=proof.consistency[:-1]),
        "audit.consistency",
    ),
    "reordered path": (
        lambda _, proof: replace(proof, consistency=proof.consistency[::-1]),
        "audit.consistency",
    ),
    "another checkpoint": (
        lambda network, proof: replace(proof, older=certified(network, 4)),
        "audit.history",
    ),
    "checkpoints the other way round": (
        lambda _, proof: replace(proof, older=proof.newer, newer=proof.older),
        "audit.consistency",
    ),
    "an older newest": (
        lambda network, proof: sound(network, 3, network.chain.head.height - 1),
        "audit.key",
    ),
    "a neighbour of the held one": (
        lambda network, proof: sound(network, 2, network.chain.head.height),
        "audit.key",
    ),
    "sub-quorum": (
        lambda _, proof: replace(
            proof,
            newer=replace(
                proof.newer,
                certificate=replace(
                    proof.newer.certificate, votes=proof.newer.certificate.votes[:1]
                ),
            ),
        ),
        "audit.certificate.no_quorum",
    ),
    "truncated": (cut, "encoding.malformed"),
}


def sound(network: Network, low: int, high: int) -> ConsistencyProof:
    """A sound proof of two other heights."""
    read = network.chain.store.history_node
    return ConsistencyProof(
        certified(network, low),
        certified(network, high),
        tree.inclusion_path_at(read, low, high),
        tree.consistency_path_at(read, low, high),
    )


@pytest.mark.parametrize("name", CONSISTENCY_ATTACKS)
def test_a_checkpoint_that_does_not_go_on_from_the_held_one_is_refused(
    network: Network, name: str
) -> None:
    """However well it is certified: what was followed has to be in its history."""
    forge, code = CONSISTENCY_ATTACKS[name]
    server = liar(network, CONSISTENCY, forging(ConsistencyProof, partial(forge, network)))

    assert_refused(network, server, code, held_at(network, 3))


# HTTP


def answering(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Server:
    """A server that answers everything in one way."""

    def build() -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", answer)
        return app

    return build


async def _redirects(_: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def _page(_: web.Request) -> web.Response:
    return web.Response(text="<html>sign in</html>", content_type="text/html")


async def _huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for _ in range(ANSWER_BYTES_MAX // 2**20 + 2):
        await response.write(b" " * 2**20)
    return response


async def _deep(_: web.Request) -> web.Response:
    return web.Response(text="[" * DEPTH, content_type="application/json")


async def _deep_problem(_: web.Request) -> web.Response:
    return web.Response(text="[" * DEPTH, content_type="application/json", status=404)


async def _silent(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def _empty(_: web.Request) -> web.Response:
    return web.json_response({"items": [], "next": None})


async def _numbers(_: web.Request) -> web.Response:
    return web.json_response({"items": [{"proof": 7}], "next": None, "proof": 7})


async def _letters(_: web.Request) -> web.Response:
    return web.json_response({"items": [{"proof": "?"}], "next": None, "proof": "?"})


HTTP_ATTACKS = {
    "redirect": (_redirects, "http.answer"),
    "wrong content type": (_page, "http.answer"),
    "huge JSON": (_huge, "http.answer"),
    "deep JSON": (_deep, "http.answer"),
    "deep problem": (_deep_problem, "http.answer"),
    "slow-loris": (_drip, "client.unreachable"),
    "silence": (_silent, "client.unreachable"),
    "nothing": (_empty, "node.not_ready"),
    "wrong JSON": (_numbers, "http.answer"),
    "no base64": (_letters, "audit.base64"),
}


@pytest.mark.parametrize("name", HTTP_ATTACKS)
def test_a_server_that_breaks_the_interface_is_passed_over(network: Network, name: str) -> None:
    """Within bounds of bytes and of time."""
    answer, code = HTTP_ATTACKS[name]

    assert_refused(network, answering(answer), code)
