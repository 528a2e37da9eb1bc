"""What certifies a pinned header: others are shown it, so that it has to hold as well."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.audit.file import verify_file, write_file
from node.client.client import NEWEST_PATH
from node.light.follow import Round, State
from node.light.history import pin_of
from node.light.store import TRUST, Store, _Trust
from tests.node.client.asking import encoded
from tests.node.light.liar import (
    IDS,
    Server,
    answering,
    certified,
    following,
    honest,
    rotated,
    signed,
    top,
    under,
)
from tests.node.network import Network
from vm.certificate import CheckpointCertificate, Vote
from vm.inclusion import BlockProof, CertifiedHeader, Later
from vm.refusal import Refused
from vm.shape import pack
from vm.trust import from_genesis

PINNED = 2
OWN = f"/v1/checkpoints/{PINNED}"
UNDER = f"/v1/blocks/{PINNED}?under="


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain whose first validators have other keys by now; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("network")
    with rotated(folder) as made:
        yield made


def looked(network: Network, *servers: Server) -> Round:
    """One round of these nodes from a pin."""

    async def main() -> Round:
        pin = pin_of(certified(network, PINNED).header)
        async with following(network, *servers, pin=pin) as follower:
            return await follower.round()

    return asyncio.run(main())


def by_nobody(network: Network) -> CertifiedHeader:
    """The pinned header with the vote of somebody who is no validator."""
    return replace(certified(network, PINNED), certificate=of_nothing())


def by_others(network: Network) -> CertifiedHeader:
    """The pinned header with a quorum's names and the keys of others."""
    header = certified(network, PINNED).header
    return CertifiedHeader(header, signed(header, IDS[:3], IDS[1:4]), None)


def under_nothing(network: Network) -> CertifiedHeader:
    """The pinned header in the history of a checkpoint that nobody has certified."""
    return replace(under(network, PINNED, top(network).header.height), certificate=of_nothing())


def under_retired(network: Network) -> CertifiedHeader:
    """The pinned header under one by the keys of the pin's time, which were retired since."""
    true = under(network, PINNED, top(network).header.height)
    assert true.later is not None
    first = true.header.validators
    header = replace(true.later.header, validators=first, next_validators=first)
    return CertifiedHeader(true.header, signed(header, IDS[:3]), Later(header, true.later.path))


def of_nothing() -> CheckpointCertificate:
    """A certificate of no header, by nobody."""
    return CheckpointCertificate(PINNED, bytes(32), (Vote("nobody", bytes(64)),))


def showing_own(network: Network, proof: CertifiedHeader) -> Server:
    """A node with this as its checkpoint of the pinned height."""
    body = {"proof": encoded(proof)}
    return answering(network, lambda path, _: body if path.startswith(OWN) else None)


def showing_under(network: Network, proof: CertifiedHeader) -> Server:
    """A node without a checkpoint of the pinned height, and with this of a later one's history."""

    def answers(path: str, _: Any) -> Any:
        return {"proof": encoded(BlockProof(proof))} if path.startswith(UNDER) else None

    return without_own(network, answers)


def without_own(network: Network, answers: Any = lambda path, body: None) -> Server:
    """A node that no longer has the certificate of the pinned height."""
    return answering(network, answers, missing=OWN)


@pytest.mark.parametrize("forge", [by_nobody, by_others])
def test_a_pinned_header_with_a_certificate_that_does_not_hold_is_a_lie(
    network: Network, forge: Any
) -> None:
    """The attack: it was kept, and written into every file, which then nobody else could verify."""
    found = looked(network, showing_own(network, forge(network)), honest(network))

    assert [seen.state for seen in found.seen] == [State.FALSE, State.AGREES]
    assert found.held is not None
    assert found.held.start is not None
    assert found.held.start.certified == certified(network, PINNED)


@pytest.mark.parametrize("forge", [under_nothing, under_retired])
def test_a_pinned_header_under_a_checkpoint_that_does_not_hold_is_a_lie(
    network: Network, forge: Any
) -> None:
    """Keys of the pin's time, which were retired since, certify no later checkpoint either."""
    found = looked(network, showing_under(network, forge(network)), honest(network))

    assert [seen.state for seen in found.seen] == [State.FALSE, State.AGREES]


@pytest.mark.parametrize("serve", [honest, without_own])
def test_what_is_followed_from_a_pin_others_verify_by_genesis(network: Network, serve: Any) -> None:
    """Whether the pinned height's own certificate is left, or a later checkpoint's alone."""
    held = looked(network, serve(network)).held
    assert held is not None
    assert held.start is not None

    proof = BlockProof(under(network, 1, top(network).header.height))
    text = write_file(proof, held.steps, anchor=held.start)

    assert (held.start.certified.later is None) == (serve is honest)
    assert verify_file(from_genesis(network.genesis), text).height == 1


def test_the_steps_to_what_certifies_a_pinned_header_are_kept(
    network: Network, tmp_path: Path
) -> None:
    """Once a checkpoint is shown that is as new; the node, or another behind its name, may lag."""
    shown = iter([top(network), top(network), certified(network, PINNED + 1), top(network)])

    def answers(path: str, _: Any) -> Any:
        if not path.startswith(NEWEST_PATH):
            return None
        return {"items": [{"proof": encoded(next(shown))}], "next": None}

    async def main() -> tuple[Round, Round]:
        pin = pin_of(certified(network, PINNED).header)
        async with following(network, without_own(network, answers), pin=pin) as follower:
            return await follower.round(), await follower.round()

    lagging, found = asyncio.run(main())
    assert lagging.held is None
    assert (lagging.seen[0].state, lagging.seen[0].code) == (State.REFUSED, "client.stale")
    assert found.held is not None
    assert found.held.newest == top(network)

    Store(tmp_path).save(found.held)

    assert Store(tmp_path).load(network.genesis, None) == found.held


def test_a_store_with_such_a_certificate_is_refused(network: Network, tmp_path: Path) -> None:
    """Of an earlier release, or changed since: from it too it would get into every file."""
    held = looked(network, honest(network)).held
    assert held is not None
    assert held.start is not None
    kept = _Trust(network.genesis.chain, by_nobody(network), held.start.epoch, held.steps)
    (tmp_path / TRUST).write_bytes(pack(kept))

    with pytest.raises(Refused, match=r"audit\.header") as caught:
        Store(tmp_path).load(network.genesis, None)

    assert caught.value.code == "store.damaged"
