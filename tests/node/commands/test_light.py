"""`concilium audit sync`, `pin`, `watch` and `verify` of evidence, as far as they go alone."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.audit.file import write_file
from node.cli import main
from node.client.reply import Reply
from node.commands.light import _text
from node.commands.report import OK, REFUSED, UNREACHABLE, UNVERIFIED, USAGE
from node.commands.source import Nodes
from node.home.document import dump
from node.light.conflict import write_conflict
from node.light.follow import Round
from node.light.store import Store
from tests.node.client.asking import DEAD
from tests.node.light.liar import certified, following, forked, honest, resigned
from tests.node.network import HOSPITALS, Network, open_network, register_dataset
from vm.inclusion import BlockProof
from vm.refusal import Refused
from vm.trust import Pin


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain of some blocks, with its genesis as a file."""
    with open_network(tmp_path / "a") as made:
        (tmp_path / "genesis.json").write_text(json.dumps(dump(made.genesis)))
        made.block(register_dataset(made, HOSPITALS[0]))
        made.block()
        yield made


def rounds(network: Network, *others: Network, pin: Pin | None = None) -> Round:
    """One round over honest nodes of these histories."""

    async def main() -> Round:
        servers = [honest(item) for item in (network, *others)]
        async with following(network, *servers, pin=pin) as follower:
            return await follower.round()

    return asyncio.run(main())


def audit(tmp_path: Path, command: str, *arguments: str) -> int:
    """Run a command against the chain's genesis and the test's store."""
    given = ["--genesis", str(tmp_path / "genesis.json"), "--store", str(tmp_path / "followed")]
    return main(["audit", command, *arguments, *given])


def test_a_pin_is_printed_of_what_was_followed(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone on its line, to be copied; with all that is known as JSON."""
    held = rounds(network).held
    assert held is not None
    Store(tmp_path / "followed").save(held)
    header = certified(network, 2).header

    assert audit(tmp_path, "pin") == OK
    assert capsys.readouterr().out == f"2:{header.digest.hex()}\n"
    assert audit(tmp_path, "pin", "--format", "json") == OK
    found = json.loads(capsys.readouterr().out)
    assert (found["height"], found["epoch"], found["begins_at"]) == (2, 0, None)


def test_a_pin_of_nothing_is_refused(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to run first."""
    assert audit(tmp_path, "pin") == REFUSED
    assert "run concilium audit sync" in capsys.readouterr().err.replace("\n", " ")


def test_what_cannot_be_reached_is_tried_again_later(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4, and nothing is kept."""
    assert audit(tmp_path, "sync", "--url", DEAD) == UNREACHABLE
    assert not (tmp_path / "followed" / "trust").exists()
    assert "client.unreachable" in capsys.readouterr().err


def test_what_is_noted_of_nodes_stays_out_of_the_result(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON on stdout is for a program, however much a node lies."""
    nodes = Nodes(genesis=tmp_path / "genesis.json", url=(DEAD,)).source()
    client = nodes.connect(nodes.urls)
    reply = Reply(DEAD, 200, b"")

    with pytest.raises(Refused):
        client.verified(reply, lambda: client.proven.certified("?"))

    out, err = capsys.readouterr()
    assert out == ""
    assert "audit.base64" in err


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("watch", "--url", DEAD, "--listen", "nowhere"), "usage.listen", USAGE),
        (("watch", "--url", DEAD, "--every", "0"), "usage.arguments", USAGE),
        (("record", "nothing", "x", "--url", DEAD), "usage.kind", USAGE),
        (("record", "member", "x", "y", "--url", DEAD), "usage.key", USAGE),
        (("record", "member", "X", "--url", DEAD), "id.invalid", REFUSED),
        (("transaction", "x", "--url", DEAD), "id.invalid", REFUSED),
        (("block", "-1", "--url", DEAD), "usage.arguments", USAGE),
        (("sync", "--url", DEAD, "--pin", "7"), "pin.invalid", REFUSED),
    ],
)
def test_a_wrong_command_line_is_refused_before_anybody_is_asked(
    network: Network,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: str,
    exit_code: int,
) -> None:
    """What is wrong with it is said."""
    assert audit(tmp_path, *arguments) == exit_code
    assert capsys.readouterr().err.startswith(f"{code}: ")


def test_evidence_and_proofs_are_verified_by_one_command(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fork by genesis alone; slander is not verified."""
    with forked(tmp_path / "b", 3) as other:
        (found,) = rounds(network, other).conflicts
    assert found.second.newest is not None
    weak = resigned(found.second.newest, "hospital-1.validator")
    slander = replace(found, second=replace(found.second, newest=weak))
    files = {
        "fork.json": write_conflict(found),
        "slander.json": write_conflict(slander),
        "block.json": write_file(BlockProof(certified(network, 2))).encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    assert audit(tmp_path, "verify", str(tmp_path / "fork.json")) == OK
    assert "signed both: hospital-1.validator" in capsys.readouterr().out
    assert audit(tmp_path, "verify", str(tmp_path / "block.json")) == OK
    assert audit(tmp_path, "verify", str(tmp_path / "slander.json")) == UNVERIFIED
    assert "audit.certificate.no_quorum" in capsys.readouterr().err


def test_who_began_at_genesis_is_told_to_compare_the_pin(network: Network) -> None:
    """Who began at a pin has done so."""
    from_genesis = rounds(network)
    pin = Pin(1, certified(network, 1).header.digest)
    from_pin = rounds(network, pin=pin)

    assert from_genesis.held is not None
    assert from_pin.held is not None
    assert "compare the pin" in _text(from_genesis.held, from_genesis)
    text = _text(from_pin.held, from_pin)
    assert f"followed from pin {pin} to height 2" in text
    assert "compare the pin" not in text
