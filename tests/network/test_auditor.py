"""An auditor with the base install alone follows real processes while their validators change."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.demo.processes import free_ports
from node.light.store import NEWEST
from tests.network.running import DEADLINE_S, ENVIRONMENT, Answer, Flow, Running, fetch, until
from tests.network.test_membership import await_role, join
from vm.shape import HEIGHT_MAX

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

# What only the base install has: whoever imports another package finds none. Ctrl-C ends it also
# where a shell runs these tests in the background, which makes all its children deaf to that.
BASE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.modules.update(dict.fromkeys(("torch", "plyvel", "numpy", "safetensors", "pandas")))
from node.cli import main
sys.exit(main(sys.argv[1:]))
"""
COMMAND = (sys.executable, "-c", BASE)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Running]:
    """Four validators, ready."""
    running = Running(tmp_path / "net")
    try:
        running.start_all()
        yield running
    finally:
        running.close()


def audit(*arguments: str | Path) -> Answer:
    """One command of an auditor's machine."""
    done = subprocess.run(
        [*COMMAND, "audit", *map(str, arguments), "--format", "json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


class Watch:
    """`concilium audit watch` in a process of its own."""

    def __init__(self, home: Path, port: int, log: Path) -> None:
        self.port = port
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(*COMMAND, "audit", "watch", "--home", str(home), "--every", "0.2"),
                    *("--listen", f"127.0.0.1:{port}", "--format", "json"),
                ],
                env=ENVIRONMENT,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def lines(self, change: str) -> list[dict[str, Any]]:
        """The changes of one sort that were told so far."""
        texts = self.log.read_text().splitlines()
        found = [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]
        return [line for line in found if line.get("change") == change]

    def metric(self, name: str) -> float:
        """A sample without labels; -1 while there is none."""
        _, body = fetch(f"http://127.0.0.1:{self.port}/metrics")
        for line in body.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return -1


def asked_again(file: Path, home: Path, asked: tuple[str | Path, ...], height: int) -> Any:
    """What a new file says of an earlier height, verified offline by what was followed."""
    audit(*asked, "--at", str(height), "--save", file)
    return audit("verify", file, "--home", home).data


def test_an_auditor_follows_verifies_and_watches_while_validators_change(
    net: Running, tmp_path: Path
) -> None:
    """From genesis, then from a pin; what he was given before he asks for again."""
    home, port = net.layout.auditor, free_ports(1)
    with Flow(net) as flow:
        flow.await_more(1)
    first = audit("sync", "--home", home).data
    proof = tmp_path / "proof.json"
    admin = ("record", "member", "hospital-1.admin", "--home", home)
    taken = audit(*admin, "--save", proof).data["height"]
    watch = Watch(home, port, tmp_path / "watch.log")
    try:
        until(lambda: watch.metric("concilium_followed_height") > 0, "a watch that follows")
        with Flow(net) as flow:
            join(net, 5, free_ports(2))
            await_role(net, 5, "voting")
            flow.await_more()
        until(lambda: len(watch.lines("epoch")) > 1, "the watch to tell of a change")
        assert audit("sync", "--home", home).error[0] == "store.locked"
        watch.process.send_signal(signal.SIGINT)
        watch.process.wait(DEADLINE_S)
    finally:
        watch.process.kill()

    grown = audit("sync", "--home", home).data
    pin = audit("pin", "--home", home).data["pin"]
    elsewhere = tmp_path / "elsewhere"
    given: list[str | Path] = ["--genesis", net.layout.genesis, "--store", elsewhere]
    asking: list[str | Path] = [
        "--url",
        net.urls[0],
        "--member",
        "auditor",
        "--key",
        home / "keys/auditor.key",
    ]
    flags = [*given, *asking]
    pinned = audit("sync", *flags, "--pin", pin).data

    assert first["epoch"] == 0
    assert grown["epoch"] == 1
    assert "hospital-5.validator" in grown["validators"]
    assert grown["height"] > first["height"]
    assert {node["state"] for node in grown["nodes"]} == {"agrees"}
    assert pinned["begins_at"] == pin
    assert pinned["height"] >= grown["height"]
    assert audit("verify", proof, "--genesis", net.layout.genesis).code == 0
    assert audit("verify", proof, "--home", home).error[0] == "audit.before_pin"
    again = asked_again(tmp_path / "again.json", home, admin, taken)
    assert (again["subject"], again["height"]) == ("member hospital-1.admin", taken)
    early = audit("block", "1", *flags).data
    assert early["subject"].startswith("block 1 under ")
    absent = audit("record", "member", "nobody", *flags).data
    assert absent["subject"] == "absence of member nobody"

    (elsewhere / NEWEST).write_bytes(b"garbage")
    assert audit("pin", *given).error[0] == "store.damaged"
    assert audit("sync", *flags, "--pin", f"{HEIGHT_MAX}:{'0' * 64}").error[0] == "store.pin"
    anew = [*given[:2], "--store", tmp_path / "new", *asking]
    wrong = audit("sync", *anew, "--pin", f"1:{'0' * 64}")
    assert (wrong.code, wrong.error[0]) == (5, "pin.header")
