"""Key files: what is written can be read by its owner alone, and bad files are refused by code."""

from pathlib import Path

import pytest

from node.home.keyfile import (
    SEED_HEADER,
    create_key,
    create_voting_key,
    read_key,
    read_private,
    read_voting_key,
    write_private,
)
from vm.refusal import Refused

SEED = bytes(range(32))


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """Write `text` to `path` with `mode`."""
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_created_key_is_read_back(tmp_path: Path) -> None:
    """The key that is read signs as the key that was created."""
    created = create_key(tmp_path / "a.key")

    read = read_key(tmp_path / "a.key")

    assert read.public == created.public


def test_only_the_owner_may_read_a_created_key(tmp_path: Path) -> None:
    """The file has mode 600 from its first byte on."""
    create_key(tmp_path / "a.key")

    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """Creating a key where one is refuses, and the old key stays."""
    first = create_key(tmp_path / "a.key")

    with pytest.raises(Refused) as refused:
        create_key(tmp_path / "a.key")

    assert refused.value.code == "key.exists"
    assert read_key(tmp_path / "a.key").public == first.public


def test_a_missing_key_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(Refused, match=r"absent\.key") as refused:
        read_key(tmp_path / "absent.key")

    assert refused.value.code == "key.missing"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A folder in the place of a key file is unreadable, also for root."""
    with pytest.raises(Refused) as refused:
        read_key(tmp_path)

    assert refused.value.code == "key.unreadable"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    """A key that group or others may read or write is no secret, whatever it holds."""
    path = write(tmp_path / "a.key", f"{SEED_HEADER}\n{SEED.hex()}\n", mode)

    with pytest.raises(Refused, match=f"{mode:o}") as refused:
        read_key(path)

    assert refused.value.code == "key.permission"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{SEED_HEADER}\n{SEED[:31].hex()}\n", "key.length"),
        (f"{SEED_HEADER}\n{SEED.hex()}00\n", "key.length"),
        (f"{SEED_HEADER}\n\n", "key.length"),
        (f"{SEED_HEADER}\n{SEED.hex()[:-1]}x\n", "key.format"),
        (f"{SEED.hex()}\n", "key.format"),
        (f"another header\n{SEED.hex()}\n", "key.format"),
        (f"{SEED_HEADER}\n{SEED.hex()}\nmore\n", "key.format"),
        ("", "key.format"),
        ("\u00e9" * 40, "key.format"),
        (f"{SEED_HEADER}\n{'0' * 256}", "key.length"),
    ],
)
def test_a_malformed_key_is_refused_without_showing_it(
    tmp_path: Path, text: str, code: str
) -> None:
    """The refusal says what was expected, and nothing of what the file holds."""
    path = write(tmp_path / "a.key", text)

    with pytest.raises(Refused) as refused:
        read_key(path)

    assert refused.value.code == code
    assert SEED.hex()[:8] not in refused.value.message


def test_a_secret_as_long_as_its_bound_is_read(tmp_path: Path) -> None:
    """The bound is inclusive; one byte more is refused."""
    write_private(tmp_path / "full", b"x" * 10)

    assert read_private(tmp_path / "full", 10) == b"x" * 10
    with pytest.raises(Refused, match="at most 9"):
        read_private(tmp_path / "full", 9)


def test_a_voting_key_names_its_journal(tmp_path: Path) -> None:
    """What was made for one journal is read with its identity, and as a plain key too."""
    created = create_voting_key(tmp_path / "a.key", b"journal")

    found = read_voting_key(tmp_path / "a.key")

    assert (found.key.public, found.journal) == (created.public, b"journal")
    assert read_key(tmp_path / "a.key").public == created.public


@pytest.mark.parametrize("line", ["", "journal \n", "journal xyz\n"])
def test_a_key_without_a_journal_does_not_vote(tmp_path: Path, line: str) -> None:
    """Nobody knows what such a key has promised."""
    path = write(tmp_path / "a.key", f"{SEED_HEADER}\n{SEED.hex()}\n{line}", 0o600)

    with pytest.raises(Refused, match="init") as refused:
        read_voting_key(path)

    assert refused.value.code == "key.journal"
