"""Readers and the access log on real validators: restarts, kill -9, and an auditor's command."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.client.credentials import Credentials
from node.home.keyfile import read_key
from node.readers.log import FILE, FOLDER, FRAME_BYTES
from tests.network.running import Running, concilium, fetch, newcomer, until

pytestmark = pytest.mark.network

USAGE = "/v1/usages/nothing"  # restricted, and absent: that is noted too


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four validators that digest their access logs every second."""
    network = Running(tmp_path_factory.mktemp("access") / "net")
    for number in network.numbers:
        path = network.home(number) / "concilium.toml"
        text = path.read_text()
        assert "access_digest_s = 3600" in text
        path.write_text(text.replace("access_digest_s = 3600", "access_digest_s = 1"))
    network.start_all()
    asyncio.run(begin(network))
    yield network
    network.close()


async def begin(network: Running) -> None:
    """The first block: before it a validator has nothing certified to show."""
    async with network.pen(1) as pen:
        await pen.submit("member.enrol", newcomer("hospital-1.newcomer"))


def audited(net: Running, *flags: str) -> dict[str, Any]:
    """What the auditor's command says of the first validator's log."""
    found = concilium(
        *("audit", "access", "--home", net.layout.auditor, "--url", net.urls[0]),
        *("--format", "json", *flags),
    )
    answer: dict[str, Any] = found.data[net.urls[0]]
    return answer


def published(net: Running, size: int) -> dict[str, Any]:
    """The same, once the chain has a digest of so many lines."""

    def look() -> dict[str, Any] | None:
        found = audited(net)
        return found if found["size"] >= size else None

    return until(look, f"a digest of {size} lines")


def test_strangers_read_nothing(net: Running) -> None:
    """Not of the chain, nor of the node; that it is ready, everybody may know."""
    assert fetch(f"{net.urls[0]}/v1/status")[0] == 401
    assert fetch(f"{net.urls[0]}/v1/members")[0] == 401
    assert fetch(f"{net.urls[0]}/readyz")[0] == 200


def test_a_command_without_a_home_says_who_reads(net: Running) -> None:
    """By --member and --key; without them it is told what is missing."""
    given = ("status", "--genesis", net.layout.genesis, "--url", net.urls[0], "--format", "json")
    home = net.home(1, "steward")

    answer = concilium(*given, "--member", "hospital-1.steward", "--key", home / "keys/steward.key")
    nobody = concilium(*given)

    assert answer.data[net.urls[0]]["name"] == "hospital-1.validator"
    assert json.loads(nobody.out)[net.urls[0]]["error"] == "reader.required"


def test_reads_are_on_chain_within_the_period(net: Running) -> None:
    """Three reads, their digest on chain, and the auditor's check of every line."""
    steward = Credentials(
        "hospital-1.steward", read_key(net.home(1, "steward") / "keys" / "steward.key")
    )
    for _ in range(3):
        assert fetch(net.urls[0] + USAGE, steward)[0] == 404

    found = published(net, 3)

    assert found["validator"] == "hospital-1.validator"
    counted = {(item["reader"], item["kind"]): item["lines"] for item in found["reads"]}
    assert counted["hospital-1.steward", "model_usage"] == 3


def test_a_killed_validator_has_every_line_that_it_answered_for(
    net: Running, tmp_path: Path
) -> None:
    """Kill -9 in the midst of reads, half a line at the end of the file; the log goes on."""
    keep = tmp_path / "digests.json"
    audited(net, "--keep", str(keep))
    before = audited(net)["size"]
    answered = sum(fetch(net.urls[0] + USAGE, net.auditor)[0] == 404 for _ in range(20))
    net.kill(1)
    path = net.home(1) / "store" / FOLDER / FILE
    lines = path.stat().st_size // FRAME_BYTES
    with path.open("ab") as file:
        file.write(b"\x00\x20half a line")

    net.start(1)
    net.await_ready()
    found = published(net, lines)

    assert lines >= before + answered
    assert path.stat().st_size == found["size"] * FRAME_BYTES
    assert audited(net, "--keep", str(keep))["new"] == found["size"] - before


def test_a_line_that_was_taken_out_is_found(net: Running, tmp_path: Path) -> None:
    """By exit code 5: the chain's digest and the one that was kept both say so."""
    keep = tmp_path / "digests.json"
    size = audited(net, "--keep", str(keep))["size"]
    assert net.signal(net.home(1), signal.SIGTERM) == 0
    path = net.home(1) / "store" / FOLDER / FILE
    data = path.read_bytes()
    path.write_bytes(data[FRAME_BYTES:])

    net.start(1)
    net.await_ready()
    for _ in range(2):  # as many lines as before: the tree over them is another
        fetch(net.urls[0] + USAGE, net.auditor)
    answer = concilium(
        *("audit", "access", "--home", net.layout.auditor, "--url", net.urls[0]),
        *("--format", "json"),
    )

    assert size > 2
    assert answer.code == 5
    assert answer.error[0] == "audit.access"
