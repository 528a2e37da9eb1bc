"""Networks that know their readers, and requests as members and attackers send them."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multidict import CIMultiDict

from node.readers.signature import Message, sign
from tests.harness import key_of
from tests.node.network import HOSPITALS, Network, open_network
from tests.node.serving import Got, Node, call, get, serve
from vm.accesslog import AccessLine
from vm.keys import SigningKey
from vm.record import Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.shape import unpack

AUDITOR = "reader"
TRAINER = f"{HOSPITALS[0]}.trainer"
ADMIN = f"{HOSPITALS[0]}.admin"
SERIAL = itertools.count(10**15)  # of nonces

Check = Callable[[str, Node], Awaitable[None]]


@contextmanager
def private_network(folder: Path, *, public: bool = False) -> Iterator[Network]:
    """A chain whose readers are its members, with an auditor."""
    with open_network(folder, public=public) as network:
        enrol(network, AUDITOR, Role.AUDITOR)
        yield network


def enrol(network: Network, id: str, role: Role, transport: bytes | None = None) -> None:
    """A block that enrols one more member of the first hospital."""
    body = EnrolMember(id, role, key_of(id).public, transport)
    network.block(network.sign(ADMIN, "member.enrol", body))


def set_standing(network: Network, id: str, standing: Standing) -> None:
    """A block that changes a member's standing."""
    network.block(network.sign(ADMIN, "member.standing", SetStanding(id, standing)))


def run(network: Network, check: Check, **knobs: Any) -> None:
    """Serve the network with a desk that asks who reads, and check what it answers."""

    async def main() -> None:
        async with serve(network, known=False, **knobs) as (url, node):
            await check(url, node)

    asyncio.run(main())


def signed(
    url: str,
    member: str = AUDITOR,
    *,
    method: str = "GET",
    key: SigningKey | None = None,
    at_s: float | None = None,
    body: bytes = b"",
) -> CIMultiDict[str]:
    """The header fields of a signed request."""
    headers = CIMultiDict[str]()
    message = Message(method, url, headers)
    now_s = int(time.time() if at_s is None else at_s)
    sign(key or key_of(member), member, message, now_s, f"{next(SERIAL)}", body)
    return headers


async def ask(url: str, member: str = AUDITOR) -> Got:
    """A signed GET."""
    return await get(url, headers=signed(url, member))


async def mint(base: str, member: str = AUDITOR) -> Got:
    """The answer to a request for a token."""
    url = f"{base}/v1/tokens"
    return await call("POST", url, headers=signed(url, member, method="POST"))


async def token(base: str, member: str = AUDITOR) -> dict[str, str]:
    """The header field of a new token."""
    got = await mint(base, member)
    assert got.status == 201, got.body
    return {"Authorization": f"Bearer {got.body['token']}"}


def noted(node: Node) -> list[AccessLine]:
    """All lines of a node's access log."""
    logbook = node.logbook
    return [unpack(AccessLine, line) for line in logbook.page(0, 10_000, logbook.size).lines]
