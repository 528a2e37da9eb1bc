"""Secrets on disk, 32 bytes each: a header line that says what it is, and hexadecimal digits.

Ed25519 seeds (RFC 8032) sign; the secret of a hospital's rows salts their leaves and parts them.
"""

import os
import secrets
import stat
from pathlib import Path

from vm.keys import SEED_BYTES, SigningKey
from vm.refusal import Refused

SEED_HEADER = "concilium ed25519 seed v1"
ROWS_HEADER = "concilium rows secret v1"
FILE_BYTES_MAX = 256  # header and seed take 91; anything longer is another file
PRIVATE_MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def create_key(path: Path) -> SigningKey:
    """Draw a new key and write it to `path`; raises `Refused("key.exists")`."""
    return SigningKey(_create(path, SEED_HEADER))


def read_key(path: Path) -> SigningKey:
    """Read the key at `path`; raises `Refused` as `read_secret` does."""
    return SigningKey(_read(path, SEED_HEADER))


def create_secret(path: Path) -> bytes:
    """Draw the secret of a hospital's rows; raises `Refused("key.exists")`."""
    return _create(path, ROWS_HEADER)


def read_secret(path: Path) -> bytes:
    """Read the secret of a hospital's rows.

    Raises `Refused` with code `key.missing`, `key.unreadable`, `key.permission`, `key.format` or
    `key.length`. No message holds anything of the file's content.
    """
    return _read(path, ROWS_HEADER)


def _create(path: Path, header: str) -> bytes:
    secret = secrets.token_bytes(SEED_BYTES)
    write_private(path, f"{header}\n{secret.hex()}\n".encode())
    return secret


def _read(path: Path, header: str) -> bytes:
    lines = read_private(path, FILE_BYTES_MAX).decode("ascii", "replace").splitlines()
    if len(lines) != 2 or lines[0] != header:
        raise Refused("key.format", f'{path}: expected the line "{header}" and a line of digits')
    try:
        secret = bytes.fromhex(lines[1])
    except ValueError:
        raise Refused("key.format", f"{path}: expected hexadecimal digits in line 2") from None
    if len(secret) != SEED_BYTES:
        raise Refused("key.length", f"{path}: expected {SEED_BYTES} bytes, found {len(secret)}")
    return secret


def write_private(path: Path, data: bytes) -> None:
    """Write a secret to a new file that only its owner may read; never overwrites."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    except FileExistsError:
        raise Refused("key.exists", f"{path}: expected no file, found one") from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def read_private(path: Path, bytes_max: int) -> bytes:
    """Read a secret of at most `bytes_max` bytes that only its owner may read.

    Raises `Refused` with code `key.missing`, `key.unreadable`, `key.permission` or `key.length`.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise Refused("key.missing", f"{path}: expected a key file, found none") from None
    except OSError as error:
        raise Refused(
            "key.unreadable", f"{path}: expected a readable key file, found: {error.strerror}"
        ) from error
    if mode & OTHERS:
        raise Refused(
            "key.permission",
            f"{path}: expected mode 600 (its owner alone), found {stat.S_IMODE(mode):o}",
        )
    if len(data) > bytes_max:
        raise Refused("key.length", f"{path}: expected at most {bytes_max} bytes, found more")
    return data
