"""The ledger's bench, run small: that it ends, and loses nothing. Its figures say nothing here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.network.running import ENVIRONMENT

pytestmark = pytest.mark.network

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
DEADLINE_S = 280  # 40 s on a machine with nothing else to do


@pytest.mark.timeout(DEADLINE_S + 20)
def test_the_ledger_is_measured(tmp_path: Path) -> None:
    """All parts run on real processes; what was admitted has receipts, or the bench fails."""
    file = tmp_path / "ledger.json"

    done = subprocess.run(
        [sys.executable, str(BENCH), "ledger", "--quick", "--json", str(file)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-4_000:]
    found = json.loads(file.read_text())
    assert {"bound_tps", "tps", "ratio", "latency_ms"} <= found.keys()
