"""The physical limit: signatures that all cores together verify in a second, doing nothing else.

Run as a program it is one of those cores' processes.
"""

import json
import secrets
import subprocess
import sys
import time
from itertools import cycle

from vm.keys import SigningKey, verify

SIGNATURES = 5_000  # distinct ones, gone through again and again: verifying takes no shortcuts
MESSAGE_BYTES = 32  # what is signed everywhere is a digest


def verified_per_s(cores: int, seconds: float) -> float:
    """Of all cores together, with a process on each."""
    command = [sys.executable, "-m", "tests.bench.ledger.bound", str(seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(cores)
    ]
    for worker in workers:  # all have signed before any begins
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return float(sum(json.loads(worker.communicate()[0]) for worker in workers))


def _work(seconds: float) -> float:
    key = SigningKey(secrets.token_bytes(32))
    messages = [secrets.token_bytes(MESSAGE_BYTES) for _ in range(SIGNATURES)]
    signed = [(message, key.sign(message)) for message in messages]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    begun_s = time.perf_counter()
    for done, (message, signature) in enumerate(cycle(signed)):
        passed_s = time.perf_counter() - begun_s
        if passed_s >= seconds:
            return done / passed_s
        assert verify(key.public, message, signature)
    raise AssertionError("a cycle has no end")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_work(float(sys.argv[1]))) + "\n")
