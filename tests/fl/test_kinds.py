"""The table of kinds, and one chain that must be the same in every process."""

import os
import subprocess
import sys
from pathlib import Path

from fl.kinds import KINDS
from node.program import program
from vm.access import ACCESS

ROOT = Path(__file__).resolve().parents[2]

LIFE = """
import hashlib
from tests.fl.dialogue import TASK, aggregate, commits, failing, opened, proof, settled, speak
from tests.fl.dialogue import submitted
from vm.learning import Round

total = hashlib.sha256()
chain = opened()
block = chain.execute
def execute(*args, **kwargs):
    codes = block(*args, **kwargs)
    for key, value in chain.writes.items():  # in the order in which they were written
        total.update(key + value)
    return codes
chain.execute = execute
settled(submitted(chain))
chain.applied([aggregate(chain, n, result="b" + "a" * 58) for n in (4, 1, 2)])
chain.applied([proof(n, 2, base_version=1) for n in (3, 1, 2)] + commits(2))
chain.applied(time_ms=chain.get(Round, TASK, 2).deadline_ms)
codes = ("norm.bound", "score.worse", "trace.broken", "rows.odd")
said = {(j, 2): failing(codes[j - 1], f"by {j}") for j in (4, 3, 1)}
speak(chain, said, judges=(4, 2, 3, 1), round_number=2)
print(total.hexdigest(), chain.get(Round, TASK, 2).code)
"""


def test_every_kind_has_its_place_in_the_access_table() -> None:
    """No kind can be sent without a rule, and no rule is left without a kind."""
    assert set(program().kinds) == set(ACCESS)
    assert {kind.name for kind in KINDS} <= set(ACCESS)
    assert all(name == kind.name for name, kind in program().kinds.items())


def test_one_chain_has_equal_writes_under_any_hash_seed() -> None:
    """The life of a task writes the same bytes in the same order whatever PYTHONHASHSEED is."""
    results = {
        subprocess.run(
            [sys.executable, "-c", LIFE],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }

    (result,) = results
    assert result.endswith("round.too_few_accepted\n")


def test_base_install_is_enough_to_execute() -> None:
    """An auditor's install has neither numpy nor torch, and can read every kind."""
    script = "import sys, node.program; print(sorted({'numpy', 'torch'} & set(sys.modules)))"

    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, text=True
    )

    assert found.stdout == "[]\n"
