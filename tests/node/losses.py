"""How journals are lost, and how a validator opens what is left."""

import shutil
from collections.abc import Callable
from pathlib import Path

from consensus.journal import Stable
from node.home.config import ValidatorConfig
from node.validator.journal import FOLDER, IDENTITY, SEGMENT, Journal, create_journal
from node.validator.keyring import Keyring
from node.validator.recover import check_journal
from node.validator.store import FOLDER as CHAIN
from node.validator.store import Store
from vm.certificate import CheckpointCertificate, Vote

VOTES = tuple(Vote(f"v{number}", bytes(64)) for number in range(3))


def stable(height: int) -> CheckpointCertificate:
    """A certificate of this height."""
    return CheckpointCertificate(height, bytes(32), VOTES)


def certify(config: ValidatorConfig, *heights: int) -> None:
    """What a running validator leaves behind of these heights."""
    folder = config.store.folder
    store = Store(folder / CHAIN)
    with Journal(folder / FOLDER) as journal:
        store.bind_journal(journal.identity)
        for height in heights:
            journal.append(Stable(stable(height)))
            journal.sync()
            store.write_certificate(stable(height))
    store.close()


def start(config: ValidatorConfig) -> bool:
    """Open everything as a validator does; whether its key may vote. Raises `Refused`."""
    folder = config.store.folder
    store = Store(folder / CHAIN)
    try:
        with Journal(folder / FOLDER) as journal:
            keys = Keyring(config.member, folder, journal.identity)
            check_journal(keys, journal.identity, journal.entries, store)
            store.bind_journal(journal.identity)
            return keys.signer(keys.publics()[0]) is not None
    finally:
        store.close()


def cut(journal: Path) -> None:
    """Keep the first entry alone, as a copy that was made then."""
    segment = journal / SEGMENT
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 3])


def flip(journal: Path) -> None:
    """Damage one bit in the middle."""
    segment = journal / SEGMENT
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)


def replace(journal: Path) -> None:
    """Another journal in its place."""
    shutil.rmtree(journal)
    create_journal(journal)


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the folder is gone": (shutil.rmtree, "journal.lost"),
    "the entries are gone": (lambda folder: (folder / SEGMENT).unlink(), "journal.lost"),
    "the identity is gone": (lambda folder: (folder / IDENTITY).unlink(), "journal.lost"),
    "it was emptied": (lambda folder: (folder / SEGMENT).write_bytes(b""), "journal.lost"),
    "it is an older copy": (cut, "journal.lost"),
    "it is another one": (replace, "journal.lost"),
    "a bit has flipped": (flip, "journal.damaged"),
}
