"""What has to be said to a disk so that it keeps its word after a power loss."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """On return the names in `folder` are on disk: syncing a file does not sync its name."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
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
