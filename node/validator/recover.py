"""What to do when a journal is lost: judge whether it is, and make the home fit to observe.

Whoever has lost its journal does not know what it has promised. Its key never votes again; the node
observes, and votes once its organisation has rotated the seat's key (besu-eth/besu#8307,
tendermint/tendermint#3295).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from consensus.journal import Entry
from node.home.config import ValidatorConfig
from node.validator import journal
from node.validator.journal import create_journal, hold, newest_stable, read_journal
from node.validator.keyring import Keyring, bar
from node.validator.store import FOLDER, Store
from node.wire.disk import sync_folder
from vm.refusal import Refused

ASIDE = "lost"  # folder, with a number, in which a journal that is no use is kept


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was done: keys that are barred now, and where the old journal is kept, if any was."""

    barred: tuple[bytes, ...]
    aside: Path | None


def check_journal(
    keyring: Keyring, identity: bytes, entries: Sequence[Entry], store: Store
) -> None:
    """Raise `Refused("journal.lost")` unless this journal knows all that its keys have promised.

    It must be the one that the keys were made for and the one that the store was used with, and no
    older copy of it: the store gets a certificate only after the journal has it on disk, so a
    newer certificate in the store proves that entries are missing.
    """
    keyring.check()
    check_entries(identity, entries, store)


def check_entries(identity: bytes, entries: Sequence[Entry], store: Store) -> None:
    """What `check_journal` says of journal and store, whatever the keys are."""
    bound = store.journal
    if bound is not None and bound.identity != identity:
        raise Refused(
            "journal.lost",
            f"expected the journal {bound.identity.hex()} that the store was used with, "
            f"found {identity.hex()}",
        )
    certified, known = store.certified(), newest_stable(entries)
    if bound is not None:
        known = max(known, bound.since)
    if certified is not None and certified.height > known:
        raise Refused(
            "journal.lost",
            f"expected a journal that knows the store's certificate of height {certified.height}, "
            f"found an older copy that ends at {known}",
        )


def recover(config: ValidatorConfig, *, restored: bool = False) -> Recovery:
    """Bar the home's keys, set its journal aside and make a new one; then it may observe.

    With `restored` even though the journal looks sound: a home that was put back whole from a copy
    has lost what it promised since, and nothing in it tells. Raises `Refused("journal.sound")` if
    nothing is wrong, `journal.locked` while the node runs, and `store.*`. What a crash leaves half
    done, another call completes.
    """
    folder = config.store.folder
    place = folder / journal.FOLDER
    place.mkdir(parents=True, exist_ok=True)
    with hold(place), ExitStack() as stack:
        store = None
        if (folder / FOLDER).exists():
            store = Store(folder / FOLDER)
            stack.callback(store.close)
        if not restored and _is_sound(config, store):
            raise Refused(
                "journal.sound",
                "expected a journal that is lost or damaged, found nothing wrong: nothing was "
                "changed. For a home that was put back from a copy, add --restored",
            )
        keys = Keyring(config.member, folder, b"").publics()
        bar(folder, *keys)
        aside = _set_aside(place)
        identity = create_journal(place)
        if store is not None:
            store.bind_journal(identity)
    return Recovery(keys, aside)


def _is_sound(config: ValidatorConfig, store: Store | None) -> bool:
    folder = config.store.folder
    try:
        identity, entries, _ = read_journal(folder / journal.FOLDER)
        keyring = Keyring(config.member, folder, identity)
        if store is None:
            keyring.check()
        else:
            check_journal(keyring, identity, entries, store)
    except Refused as refused:
        if refused.code not in ("journal.lost", "journal.damaged"):
            raise
        return False
    return True


def _set_aside(place: Path) -> Path | None:
    """Move what is left of the journal, all of it, into a folder of its own."""
    left = [
        path
        for name in (journal.IDENTITY, journal.SEGMENT, journal.FRESH)
        if (path := place / name).exists()
    ]
    if not left:
        return None
    aside = next(to for number in count(1) if not (to := place / f"{ASIDE}-{number}").exists())
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)
    sync_folder(aside)
    sync_folder(place)
    return aside
