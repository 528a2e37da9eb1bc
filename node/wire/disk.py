"""What has to be said to a disk so that it keeps its word after a power loss."""

import errno
import os
from pathlib import Path

DISK_FREE_BYTES_MIN = 64 * 1024 * 1024  # below it a validator admits nothing: its journal needs it
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # said by a volume without hard links
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota or file-size limit reached


def is_full(error: OSError) -> bool:
    """Whether there is no room left; of LevelDB's errors only the system's words are known."""
    return error.errno in FULL or any(os.strerror(code) in str(error) for code in FULL)


def say(error: OSError) -> str:
    """What the system said, for people: LevelDB's errors hold it as bytes."""
    match error.args:
        case (bytes(text),):
            return text.decode(errors="replace")
    return str(error)


def sync_folder(folder: Path) -> None:
    """On return the names in `folder` are on disk: syncing a file does not sync its name."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """On return what was written to the file, by whomever, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """On return `path` holds `data` alone, on disk; no reader ever finds a part of it.

    Only its owner may read it. Its folder is made if it is not there.
    """
    _write_beside(path, data).rename(path)
    sync_folder(path.parent)


def create_file(path: Path, data: bytes) -> None:
    """As `replace_file`, but raises FileExistsError where something is at `path` by then.

    On a volume without hard links a part of `data` may be found there meanwhile, and after a crash:
    its reader has to tell that from the whole.
    """
    fresh = _write_beside(path, data)
    try:
        path.hardlink_to(fresh)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _write(path, data, os.O_EXCL)
    finally:
        fresh.unlink()
    sync_folder(path.parent)


def _write_beside(path: Path, data: bytes) -> Path:
    """A file in the same folder that holds `data`, on disk all but its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")  # two processes may write at once
    _write(fresh, data, os.O_TRUNC)
    return fresh


def _write(path: Path, data: bytes, flag: int) -> None:
    """Write a file that only its owner may read; on return it is on disk all but its name."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flag | os.O_CLOEXEC, 0o600)
    try:
        write_at(handle, data, 0)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_at(file: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`: the system may take less than it is offered."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written
