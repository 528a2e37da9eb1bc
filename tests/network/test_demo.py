"""The demo, as a person runs it, with one of its validators killed on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.network.running import ENVIRONMENT, until

pytestmark = [pytest.mark.network, pytest.mark.deep]

ROUNDS = 3
KILLED = "hospital-2/validator"


def process_of(parent: int, home: str) -> int | None:
    """The id of the child of `parent` that runs what lives in `home`."""
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in children.read_text().split():
            try:
                if home in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
            except OSError:
                continue  # it has ended
    return None


@pytest.mark.timeout(300)
def test_the_demo_ends_well_though_a_validator_is_killed(tmp_path: Path) -> None:
    """It is started again, catches up to the same state, and every figure is there."""
    result, log = tmp_path / "result.json", tmp_path / "demo.log"
    command = [sys.executable, "-P", "-m", "node.demo", "--rounds", str(ROUNDS)]
    with log.open("wb") as output:
        demo = subprocess.Popen(
            [*command, "--json", str(result)], stdout=output, stderr=output, env=ENVIRONMENT
        )
    try:
        until(lambda: "round 1:" in log.read_text() or demo.poll() is not None, "the first round")
        killed = process_of(demo.pid, KILLED)
        assert killed is not None, log.read_text()
        os.kill(killed, signal.SIGKILL)
        code = demo.wait(240)
    finally:
        demo.kill()

    assert code == 0, log.read_text()
    assert "hospital-2.validator ended with -9; starting it again" in log.read_text()
    found = json.loads(result.read_text())
    assert len(found["validators"]) == 4
    assert len({(item["height"], item["state_root"]) for item in found["validators"]}) == 1
    assert [item["round"] for item in found["rounds"]] == list(range(1, ROUNDS + 1))
    rejected = [item for number in found["rounds"] for item in number["rejected"]]
    assert all(item["reason"] for item in rejected)
    poisoned = [item["member"] for item in rejected if item["code"] == "update.norm_bound"]
    assert poisoned == ["hospital-4.trainer"]
    assert len(rejected) <= 2  # of honest ones 3 in 1,008 fail on a holdout's rows
    assert found["audit"]["verified"]
    assert found["chain_reproduced"]
    assert {"alone", "federated", "pooled"} == set(found["auc"]) == set(found["auc_own"])
