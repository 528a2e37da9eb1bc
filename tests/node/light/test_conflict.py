"""Forks as evidence: verified offline by anybody, naming who signed both, for the chain as well."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.home.document import from_json
from node.light.conflict import (
    VALUES_MAX,
    Conflict,
    audit_conflict,
    find,
    is_conflict,
    read_conflict,
    write_conflict,
    write_faults,
)
from node.light.history import begin, pin_of
from tests.harness import genesis_of
from tests.node.client.asking import encoded
from tests.node.light.liar import certified, following, forked, honest, resigned, rotated
from tests.node.network import HOSPITALS, Network, open_network, register_dataset
from vm.block import Header
from vm.certificate import CheckpointCertificate, Vote
from vm.evidence import Evidence
from vm.proposal import Fault
from vm.quorum import VALIDATORS_MAX, Epoch, Validator, ValidatorSet
from vm.refusal import Refused
from vm.shape import CODE_BYTES_MAX, HEIGHT_MAX, NAME_BYTES_MAX
from vm.succession import STEPS_MAX, Step
from vm.trust import Pin

SIGNERS = tuple(f"{name}.validator" for name in HOSPITALS[:3])


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain of some blocks."""
    with open_network(tmp_path / "a") as made:
        made.block(register_dataset(made, HOSPITALS[0]))
        made.block()
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Network]:
    """Its fork, which is higher."""
    with forked(tmp_path / "b", 5) as made:
        yield made


def conflict_of(one: Network, two: Network, pin: Pin | None = None) -> Conflict:
    """The fork as a follower finds it, who held the first of the two."""

    async def main() -> Conflict:
        async with following(one, honest(one), honest(two), pin=pin) as follower:
            (found,) = (await follower.round()).conflicts
            return found

    return asyncio.run(main())


def refusal(data: bytes, network: Network, pin: Pin | None = None) -> str:
    """The code with which a file is refused."""
    with pytest.raises(Refused) as caught:
        read_conflict(network.genesis, pin, data)
    return caught.value.code


def test_a_file_of_evidence_is_verified_with_genesis_alone(
    network: Network, other: Network
) -> None:
    """It names the validators who signed both headers."""
    data = write_conflict(conflict_of(network, other))

    found = read_conflict(network.genesis, None, data)
    audit = audit_conflict(found)

    assert is_conflict(data)
    assert found.signers() == SIGNERS
    assert audit.subject == "fork of two certified headers"
    assert audit.content["signers"] == list(SIGNERS)
    assert f"signed both: {', '.join(SIGNERS)}" in audit.steps


def test_the_chain_takes_the_evidence_too(network: Network, other: Network) -> None:
    """Each file of a fault is the body of a `validator.fault` that is applied."""
    faults = write_faults(conflict_of(network, other))
    (name, data), *_ = faults
    body = from_json(Evidence, json.loads(data))

    network.block(network.sign(f"{HOSPITALS[3]}.admin", "validator.fault", body))

    seat = network.chain.epochs[0].validators.get(body.validator)
    assert seat is not None
    recorded = network.chain.state().get(Fault, seat.key.hex())
    assert len(faults) == len(SIGNERS)
    assert name.endswith(f"fault-{SIGNERS[0]}.json")
    assert recorded is not None
    assert recorded.validator == body.validator


def test_a_header_in_anothers_history_names_its_signers_too(
    network: Network, other: Network
) -> None:
    """The chain cannot judge it, for they signed no two headers of one height: people can."""
    before = conflict_of(network, other)
    height = other.chain.head.height + 1
    header = other.block(certified=False)
    assert header.height == height
    other.block()
    while network.chain.head.height < height:
        network.block()

    found = conflict_of(network, other)

    assert before.faults() != ()
    assert found.height == height
    assert found.signers() == SIGNERS
    assert found.faults() == ()
    assert "its members must" in audit_conflict(found).steps[-1]


def test_a_fork_below_a_change_of_keys_names_the_keys_that_signed_both(tmp_path: Path) -> None:
    """Validators who have other keys by now did not sign with them: nobody signed both."""
    with rotated(tmp_path / "a") as one, forked(tmp_path / "b", one.chain.head.height) as two:
        found = conflict_of(one, two)

    assert found.signers() == ()
    assert found.faults() == ()
    again = read_conflict(one.genesis, None, write_conflict(found))
    assert again.height == found.height


def test_evidence_from_a_pin_needs_that_pin(network: Network, other: Network) -> None:
    """Whoever trusts another beginning has to say so."""
    header = network.chain.store.header(0)
    assert header is not None
    pin = pin_of(header)
    data = write_conflict(conflict_of(network, other, pin))

    assert read_conflict(network.genesis, pin, data).signers() == SIGNERS
    assert refusal(data, network) == "file.from"
    assert refusal(data, network, Pin(0, bytes(32))) == "file.from"


def test_a_malformed_file_is_refused(network: Network, other: Network) -> None:
    """Whatever is wrong with it is said."""
    data = write_conflict(conflict_of(network, other))

    def changed(**changes: Any) -> bytes:
        return json.dumps(json.loads(data) | changes).encode()

    side = json.loads(data)["sides"][0]
    cases = {
        b"": "file.format",
        b"[]": "file.format",
        b"[" * 100_000: "file.format",
        changed(format="x"): "file.format",
        changed(sides=[side]): "file.format",
        changed(sides=[side, side | {"steps": [1]}]): "file.format",
        changed(sides=[side, side]): "conflict.none",
        changed(sides=[side, side | {"proof": "?"}]): "audit.base64",
        changed(sides=[side, side | {"steps": ["AAAA"]}]): "encoding.malformed",
        changed(chain=genesis_of(5).chain.hex()): "file.chain",
        changed(**{"from": 1}): "file.format",
        changed(**{"from": {"certified": 1}}): "file.format",
    }
    for case, code in cases.items():
        assert refusal(case, network) == code, case[:60]


def test_a_file_above_the_bound_is_not_read(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size is checked before anything is parsed."""
    monkeypatch.setattr("node.light.conflict.FILE_BYTES_MAX", 10)

    assert refusal(b" " * 11, network) == "file.too_large"


def test_a_file_of_many_values_is_not_parsed(
    network: Network, other: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a thousand times the memory of its text, in a file that somebody sends."""
    data = write_conflict(conflict_of(network, other))
    parsed: list[bytes] = []
    loads = json.loads

    def parse(text: bytes) -> Any:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr("node.light.conflict.json.loads", parse)
    bombs = [
        data[:-3] + b', "x": [' + b"[], " * VALUES_MAX + b"[]]}",
        data[:-3] + b', "x": ' + b"[" * VALUES_MAX + b"]" * VALUES_MAX + b"}",
        data[:-3] + b"".join(b', "%d": 1' % number for number in range(VALUES_MAX)) + b"}",
    ]

    for bomb in bombs:
        assert refusal(bomb, network) == "file.format"
    assert parsed == []
    assert read_conflict(network.genesis, None, data).signers() == SIGNERS


def largest_step() -> Step:
    """A step with all seats, all votes and the longest names."""
    digest, top = bytes(32), HEIGHT_MAX
    names = [f"{number:0{NAME_BYTES_MAX}d}" for number in range(VALIDATORS_MAX)]
    seats = [Validator(name, name, bytes([at]) * 32) for at, name in enumerate(names)]
    votes = tuple(Vote(name, bytes(64)) for name in names)
    return Step(
        Header(digest, top, top, *[digest] * 6),
        CheckpointCertificate(top, digest, votes),
        Epoch(top, top, "a" * CODE_BYTES_MAX, ValidatorSet(tuple(seats))),
    )


def test_evidence_of_the_longest_histories_is_within_the_bound(
    network: Network, other: Network
) -> None:
    """As many steps as a history can have, on both sides, by as many validators as there can be.

    It may be the only proof of a fork.
    """
    step = encoded(largest_step())
    document = json.loads(write_conflict(conflict_of(network, other)))
    for side in document["sides"]:
        side["steps"] = [step] * STEPS_MAX

    assert refusal(json.dumps(document, indent=2).encode(), network) == "succession.chain"


def test_what_no_quorum_signed_is_no_fork(network: Network, other: Network) -> None:
    """The attack: slander of validators with a header that nobody certified."""
    found = conflict_of(network, other)
    assert found.second.newest is not None
    weak = resigned(found.second.newest, *SIGNERS[:2])
    data = write_conflict(replace(found, second=replace(found.second, newest=weak)))

    assert refusal(data, network) == "audit.certificate.no_quorum"


def test_two_headers_of_one_history_are_no_fork(network: Network) -> None:
    """Of two heights, or the same twice."""
    begun = begin(network.genesis)
    one, two = (begun.see(certified(network, height)) for height in (1, 2))

    for first, second in ((one, two), (one, one)):
        with pytest.raises(Refused, match="two headers of one height"):
            find(first, second)
