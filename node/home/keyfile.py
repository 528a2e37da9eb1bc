"""Secrets on disk, 32 bytes each: a header line that says what it is, and hexadecimal digits.

Ed25519 seeds (RFC 8032) sign; the secret of a hospital's rows salts their leaves and parts them.
A validator's key is made for one journal, the only one that knows what it has promised; a third
line names it.
"""

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from vm.keys import SEED_BYTES, SigningKey
from vm.refusal import Refused

SEED_HEADER = "concilium ed25519 seed v1"
ROWS_HEADER = "concilium rows secret v1"
JOURNAL_LINE = "journal "
FILE_BYTES_MAX = 256  # all three lines take 132; anything longer is another file
PRIVATE_MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class VotingKey:
    """A validator's key, and the identity of the journal that it was made for."""

    key: SigningKey
    journal: bytes


def create_key(path: Path) -> SigningKey:
    """Draw a new key and write it to `path`; raises `Refused("key.exists")`."""
    return SigningKey(_create(path, SEED_HEADER))


def create_voting_key(path: Path, journal: bytes) -> SigningKey:
    """Draw a new key that votes with `journal` only; raises `Refused("key.exists")`."""
    return SigningKey(_create(path, SEED_HEADER, f"{JOURNAL_LINE}{journal.hex()}\n"))


def read_key(path: Path) -> SigningKey:
    """Read the key at `path`, of a validator or not; raises `Refused` as `read_secret` does."""
    return SigningKey(_read(path, SEED_HEADER)[0])


def read_voting_key(path: Path) -> VotingKey:
    """Read a validator's key; raises `Refused` as `read_secret` does, and with `key.journal`."""
    secret, rest = _read(path, SEED_HEADER)
    try:
        journal = bytes.fromhex(rest.removeprefix(JOURNAL_LINE))
    except ValueError:
        journal = b""
    if not journal:
        raise Refused(
            "key.journal",
            f"{path}: expected the journal that the key was made for in line 3, found none: a "
            "validator's key is made by `concilium validator init` or `rotate`, never copied",
        )
    return VotingKey(SigningKey(secret), journal)


def create_secret(path: Path) -> bytes:
    """Draw the secret of a hospital's rows; raises `Refused("key.exists")`."""
    return _create(path, ROWS_HEADER)


def read_secret(path: Path) -> bytes:
    """Read the secret of a hospital's rows.

    Raises `Refused` with code `key.missing`, `key.unreadable`, `key.permission`, `key.format` or
    `key.length`. No message holds anything of the file's content.
    """
    return _read(path, ROWS_HEADER)[0]


def _create(path: Path, header: str, rest: str = "") -> bytes:
    secret = secrets.token_bytes(SEED_BYTES)
    write_private(path, f"{header}\n{secret.hex()}\n{rest}".encode())
    return secret


def _read(path: Path, header: str) -> tuple[bytes, str]:
    """The secret, and the line after it, which may be missing."""
    lines = read_private(path, FILE_BYTES_MAX).decode("ascii", "replace").splitlines()
    rest = "".join(lines[2:])
    named = header == SEED_HEADER and len(lines) == 3 and rest.startswith(JOURNAL_LINE)
    if lines[:1] != [header] or not (len(lines) == 2 or named):
        raise Refused("key.format", f'{path}: expected the line "{header}" and a line of digits')
    try:
        secret = bytes.fromhex(lines[1])
    except ValueError:
        raise Refused("key.format", f"{path}: expected hexadecimal digits in line 2") from None
    if len(secret) != SEED_BYTES:
        raise Refused("key.length", f"{path}: expected {SEED_BYTES} bytes, found {len(secret)}")
    return secret, rest


def write_private(path: Path, data: bytes) -> None:
    """Write a secret to a new file that only its owner may read; never overwrites."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    except FileExistsError:
        raise Refused("key.exists", f"{path}: expected no file, found one") from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)


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
