"""A forger gives real keys to other names: the evidence holds, and blames nobody wrongly."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.client.client import NEWEST_PATH
from node.light.conflict import Conflict, audit_conflict, find, read_conflict, write_conflict
from node.light.history import History
from node.light.store import CONFLICTS, TRUST, Store
from node.light.watch import follow_once
from tests.harness import key_of
from tests.node.client.asking import encoded
from tests.node.light.liar import (
    IDS,
    answering,
    certified,
    following,
    held_at,
    honest,
    rotated,
    signed,
)
from tests.node.network import Network
from vm.certificate import CheckpointCertificate
from vm.inclusion import CertifiedHeader
from vm.quorum import ValidatorSet
from vm.succession import Step
from vm.trust import from_genesis

FIRST, SECOND, _, LAST, _ = IDS  # the last of four has the key that genesis names, and helps


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain on which three of four validators have other keys than at genesis."""
    with rotated(tmp_path / "true") as made:
        yield made


def true_history(network: Network) -> History:
    """What an auditor holds; the validator who helps the forger has voted for it."""
    top = certified(network, network.chain.head.height)
    seats = network.chain.epochs[-1].validators.validators
    keys = ["new key of 1", "new key of 2", LAST]
    assert [seat.key for seat in seats if seat.id != IDS[2]] == [key_of(k).public for k in keys]
    own = replace(top, certificate=signed(top.header, (FIRST, SECOND, LAST), keys))
    return held_at(network, top.header.height).see(own)


def forged_step(network: Network) -> Step:
    """From epoch 0 to one in which the helper's key goes by another's name, by retired keys."""
    known = network.chain.epochs[1]
    names = {FIRST: LAST, LAST: "thief of the last"}
    seats = [
        replace(seat, key=key_of(names.get(seat.id, f"thief of {seat.id}")).public)
        for seat in known.validators.validators
    ]
    epoch = replace(known, validators=ValidatorSet(tuple(seats)))
    before = certified(network, known.first - 1).header
    header = replace(before, state=b"\xee" * 32, next_validators=epoch.digest)
    return Step(header, signed(header, IDS[:3]), epoch)


def forged_history(network: Network) -> History:
    """Another header of the newest height, signed by the helper as if by the first validator."""
    step = forged_step(network)
    top = certified(network, network.chain.head.height).header
    digest = step.epoch.digest
    header = replace(top, state=b"\xdd" * 32, validators=digest, next_validators=digest)
    keys = [LAST, f"thief of {SECOND}", "thief of the last"]
    certificate: CheckpointCertificate = signed(header, (FIRST, SECOND, LAST), keys)
    start = History(from_genesis(network.genesis), None, (), None)
    return start.step(step).see(CertifiedHeader(header, certificate, None))


def fork(network: Network) -> Conflict:
    """The two histories, as evidence."""
    return find(true_history(network), forged_history(network))


def test_evidence_is_verified_though_names_have_other_keys_in_it(network: Network) -> None:
    """The attack: the chain could judge no fault under that name, and people lost the evidence."""
    found = fork(network)

    again = read_conflict(network.genesis, None, write_conflict(found))

    assert found.faults() == ()
    assert audit_conflict(again).subject == "fork of two certified headers"


def test_whose_key_goes_by_two_names_goes_by_both(network: Network) -> None:
    """The attack: blame for another, whose name the forger gave to the helper's key."""
    found = fork(network)
    mirrored = Conflict(found.second, found.first)

    assert found.signers() == (f"{LAST} or {FIRST}",)
    assert mirrored.signers() == (f"{FIRST} or {LAST}",)


def test_such_a_fork_is_followed_to_its_end_and_kept(network: Network, tmp_path: Path) -> None:
    """What is held is saved, the evidence too, and the round tells of the fork."""
    held = true_history(network)
    newest = forged_history(network).newest
    shown = {"items": [{"proof": encoded(newest)}], "next": None}
    steps = {"items": [{"proof": encoded(forged_step(network))}], "next": None}
    store = Store(tmp_path / "followed")

    def lie(path: str, _: Any) -> Any:
        if path.startswith(NEWEST_PATH):
            return shown
        return steps if path == "/v1/epochs?after=0" else None

    async def main() -> None:
        async with following(
            network, honest(network), answering(network, lie), held=held
        ) as follower:
            found, lines = await follow_once(follower, store)
        assert len(found.conflicts) == len(lines) == 1
        assert LAST in lines[0].text

    asyncio.run(main())
    assert (store.folder / TRUST).exists()
    assert len(list((store.folder / CONFLICTS).iterdir())) == 1
