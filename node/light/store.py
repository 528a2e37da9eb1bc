"""What an auditor's machine keeps of a chain: a folder of two files, and evidence of forks.

`trust` holds where the history begins and the steps that were followed, `newest` the newest
checkpoint. Each is replaced whole and synced, `trust` before a `newest` that needs it, so that a
process may be killed at any point. Whatever is read is verified again from genesis or the pin: a
file that was damaged or changed is refused, and never believed.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from node.audit.file import Anchor
from node.light.history import History, begin, follow
from node.wire.disk import replace_file
from vm.genesis import Genesis
from vm.inclusion import CertifiedHeader
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import Digest, Many, pack, unpack
from vm.succession import STEPS_MAX, Step
from vm.trust import Pin

TRUST = "trust"
NEWEST = "newest"
CONFLICTS = "conflicts"
LOCK = "lock"
TRUST_BYTES_MAX = 32 * 1024 * 1024  # STEPS_MAX steps of 64 seats, each with a key and a vote
TRUST_ITEMS_MAX = TRUST_BYTES_MAX // 16
NEWEST_BYTES_MAX = 64 * 1024  # a header and 64 votes take about 10 KiB
CONFLICTS_MAX = 256  # files of evidence; the first is already an alarm
APART = "apart-"  # how names of evidence begin that says nothing of the validators who rule
APART_MAX = 64  # of these files: who has retired keys makes forks as he likes


@dataclass(frozen=True, slots=True)
class _Trust:
    """The file `trust`."""

    VERSION: ClassVar[int] = 1

    chain: Digest
    pinned: CertifiedHeader | None
    epoch: Epoch | None
    steps: Annotated[tuple[Step, ...], Many(STEPS_MAX)]


class Store:
    """The store in `folder`; one process at a time writes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: _Trust | None = None  # what is in the file, as far as this process knows

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for writing; raises `Refused("store.locked" | "store.unwritable")`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    "store.locked",
                    f"{self.folder}: expected no other process, found one that follows with this "
                    "store: end it, or name another folder",
                ) from None
            yield
        finally:
            os.close(handle)

    def load(self, genesis: Genesis, pin: Pin | None) -> History | None:
        """What was followed, verified anew; None if nothing was.

        With a `pin` the store must begin there. Raises `Refused` with `store.chain`, `.pin`,
        `.damaged` or `.unreadable`.
        """
        data = self._read(TRUST, TRUST_BYTES_MAX)
        if data is None:
            return None
        try:
            kept = unpack(_Trust, data, TRUST_BYTES_MAX, TRUST_ITEMS_MAX)
        except Refused as refused:
            raise self._damaged(TRUST, refused) from refused
        if kept.chain != genesis.chain:
            raise Refused(
                "store.chain",
                f"{self.folder}: expected a store of chain {genesis.chain.hex()}, found one of "
                f"{kept.chain.hex()}: name another folder",
            )
        try:
            history = follow(_begin(genesis, kept), kept.steps)
            if history.start is not None:
                history = history.see(history.start.certified)  # others are shown it in files
        except Refused as refused:
            raise self._damaged(TRUST, refused) from refused
        if pin is not None and history.pin != pin:
            found = "genesis" if history.pin is None else str(history.pin)
            raise Refused(
                "store.pin",
                f"{self.folder}: expected a store that begins at {pin}, found one from "
                f"{found}: name another folder",
            )
        self._kept = kept
        return self._see(history)

    def save(self, history: History) -> None:
        """Keep a history; raises `Refused("store.unwritable")`."""
        pinned, epoch = history.start or (None, None)
        trust = _Trust(history.trust.chain, pinned, epoch, history.steps)
        if trust != self._kept:
            self._write(TRUST, pack(trust))
            self._kept = trust
        if history.newest is not None:
            self._write(NEWEST, pack(history.newest))

    def note(self, name: str, data: bytes, *, ruling: bool) -> Path | None:
        """Keep a file of evidence, unless it is there or there are too many; return its path.

        Of forks by the validators who rule what is held, and of others, each have their own room.
        """
        folder = self.folder / CONFLICTS
        name = name if ruling else APART + name
        path = folder / name
        if path.exists():
            return path
        names = [found.name for found in folder.iterdir()] if folder.is_dir() else []
        kept = sum(found.startswith(APART) is not ruling for found in names)
        if kept >= (CONFLICTS_MAX if ruling else APART_MAX):
            return None
        self._write(f"{CONFLICTS}/{name}", data)
        return path

    def _see(self, history: History) -> History:
        data = self._read(NEWEST, NEWEST_BYTES_MAX)
        if data is None:
            return history
        try:
            return history.see(unpack(CertifiedHeader, data, NEWEST_BYTES_MAX))
        except Refused as refused:
            raise self._damaged(NEWEST, refused) from refused

    def _read(self, name: str, bytes_max: int) -> bytes | None:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                data = file.read(bytes_max + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(
                "store.unreadable", f"{path}: expected a readable file, found: {error.strerror}"
            ) from error
        if len(data) > bytes_max:
            raise Refused(
                "store.damaged", f"{path}: expected at most {bytes_max} bytes, found more"
            )
        return data

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        try:
            replace_file(path, data)
        except OSError as error:
            raise _unwritable(path, error) from error

    def _damaged(self, name: str, refused: Refused) -> Refused:
        return Refused(
            "store.damaged",
            f"{self.folder / name}: expected what was followed earlier, found {refused.code}: "
            f"{refused.message}; move the folder away and sync again from your pin",
        )


def _begin(genesis: Genesis, kept: _Trust) -> History:
    if kept.pinned is None or kept.epoch is None:
        return begin(genesis)
    return begin(genesis, Anchor(kept.pinned, kept.epoch))


def _unwritable(path: Path, error: OSError) -> Refused:
    return Refused(
        "store.unwritable", f"{path}: expected to write, found: {error.strerror or error}"
    )
