"""Files that are made whole, and never over what another process has put there."""

import errno
import os
from pathlib import Path

import pytest

from node.wire.disk import create_file

NO_LINKS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS]  # what volumes without hard links say


def fail_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have every hard link refused."""

    def refuse(path: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "hardlink_to", refuse)


def test_a_file_is_made_once(tmp_path: Path) -> None:
    """Whoever comes second is told, and changes nothing."""
    path = tmp_path / "new" / "file"
    create_file(path, b"first")

    with pytest.raises(FileExistsError):
        create_file(path, b"second")

    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("code", NO_LINKS)
def test_a_volume_without_hard_links_takes_a_file_once_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """With the file and its name on disk, and nothing left beside it."""
    fail_links(monkeypatch, code)
    synced: list[str] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr("node.wire.disk.os.fsync", note)
    path = tmp_path / "file"
    create_file(path, b"first")

    with pytest.raises(FileExistsError):
        create_file(path, b"second")

    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert [name for name in synced if ".file." not in name] == [str(path), str(tmp_path)]


def test_a_disk_that_fails_is_not_taken_for_one_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is made there, and nothing is left."""
    fail_links(monkeypatch, errno.EIO)

    with pytest.raises(OSError, match="Input/output error"):
        create_file(tmp_path / "file", b"first")

    assert list(tmp_path.iterdir()) == []
