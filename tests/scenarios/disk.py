"""A real journal in a folder: each command tells what it asks of the system, in order."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from consensus.journal import Held
from node.validator.journal import Journal, create_journal

Tell = Callable[[str], None]


class Disk:
    """`disk-create`, `disk-open`, `disk-append WORD`, `disk-sync`, `disk-replace WORD...`."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._folder = TemporaryDirectory()
        self._journal: Journal | None = None
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "disk-create": lambda _: self._traced(lambda: create_journal(self._place)),
            "disk-open": lambda _: self._traced(self._open),
            "disk-append": lambda words: self._open_journal.append(Held(1, words[0].encode())),
            "disk-sync": lambda _: self._traced(self._open_journal.sync),
            "disk-replace": lambda words: self._traced(
                lambda: self._open_journal.replace(Held(1, word.encode()) for word in words)
            ),
        }

    def close(self) -> None:
        """Give back what the journal holds."""
        if self._journal is not None:
            self._journal.close()
        self._folder.cleanup()

    @property
    def _open_journal(self) -> Journal:
        assert self._journal is not None, "expected disk-open first"
        return self._journal

    @property
    def _place(self) -> Path:
        return Path(self._folder.name) / "store" / "journal"

    def _open(self) -> None:
        self._journal = Journal(self._place)

    def _traced(self, work: Callable[[], object]) -> None:
        with asked_of_the_system(self._tell):
            work()


@contextmanager
def asked_of_the_system(tell: Tell) -> Iterator[None]:
    """Tell of each sync and rename while it is done."""

    def name(file: int) -> str:
        path = Path(f"/proc/self/fd/{file}").readlink()
        return f"the folder {path.name}" if path.is_dir() else path.name

    fsync, fdatasync, rename = os.fsync, os.fdatasync, Path.rename

    def tell_fsync(file: int) -> None:
        fsync(file)
        tell(f"fsync {name(file)}")

    def tell_fdatasync(file: int) -> None:
        fdatasync(file)
        tell(f"fdatasync {name(file)}")

    def tell_rename(path: Path, target: Path) -> Path:
        tell(f"rename {path.name} to {target.name}")
        return rename(path, target)

    with (
        patch.object(os, "fsync", tell_fsync),
        patch.object(os, "fdatasync", tell_fdatasync),
        patch.object(Path, "rename", tell_rename),
    ):
        yield
