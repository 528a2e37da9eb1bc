"""Bytes over one mutual TLS connection between two processes, nothing done with them.

Run as a program it is the one that receives: `python -m tests.bench.ledger.raw HOME BYTES`.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

from node.home import config
from node.home.testnet import HOST
from node.wire.cid import CHUNK_BYTES
from node.wire.tls import client_context, server_context

PART_BYTES = 256 * 1024  # that are received at a time


def seconds(
    sender: config.Identity, tls: config.Tls, receiver: Path, size: int
) -> tuple[float, str]:
    """Until all of `size` bytes have come to the validator's home `receiver`; and the cipher."""
    command = [sys.executable, "-P", "-m", "tests.bench.ledger.raw", str(receiver), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        part = memoryview(bytes(CHUNK_BYTES))
        context = client_context(tls.files(sender))
        with (
            socket.create_connection((HOST, port)) as plain,
            context.wrap_socket(plain) as connection,
        ):
            cipher = connection.cipher()
            assert cipher is not None, "the handshake is done"
            begun_s = time.perf_counter()
            for start in range(0, size, CHUNK_BYTES):
                connection.sendall(part[: min(CHUNK_BYTES, size - start)])
            assert connection.recv(1) == b"."
            return time.perf_counter() - begun_s, cipher[0]


def _receive(home: Path, size: int) -> None:
    settings = config.load(config.ValidatorConfig, home, {})
    context = server_context(settings.tls.files(settings.member))
    with socket.create_server((HOST, 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        plain, _ = listener.accept()
    part, left = bytearray(PART_BYTES), size
    with context.wrap_socket(plain, server_side=True) as connection:
        while left:
            left -= connection.recv_into(part, min(PART_BYTES, left))
        connection.sendall(b".")


if __name__ == "__main__":
    _receive(Path(sys.argv[1]), int(sys.argv[2]))
