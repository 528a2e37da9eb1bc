"""File descriptors: a validator that could run out of them does not start."""

import subprocess
import sys

from node.validator.descriptors import DESCRIPTORS_MIN

STARTS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
from node.validator.descriptors import require_descriptors
from vm.refusal import Refused
try:
    require_descriptors()
except Refused as refused:
    print(refused.code, refused.message)
else:
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def start(most: int) -> str:
    """What a process says whose limits are 256 files, and `most` if it asks for more."""
    command = [sys.executable, "-c", STARTS, str(most)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_validator_takes_all_the_files_that_it_may() -> None:
    """The usual 1,024 are what one full port uses."""
    assert start(DESCRIPTORS_MIN) == f"{DESCRIPTORS_MIN} {DESCRIPTORS_MIN}"


def test_too_few_files_are_refused_before_the_start() -> None:
    """With what to do about it."""
    told = start(DESCRIPTORS_MIN - 1)

    assert told.startswith(f"descriptors.few expected room for {DESCRIPTORS_MIN} open files, found")
    assert "LimitNOFILE=" in told
