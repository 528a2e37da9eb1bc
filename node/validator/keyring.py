"""A validator's keys: which may vote, which are barred for ever, and how one follows another.

A key votes only with the journal that it was made for, as only that one knows what it has promised.
A key whose journal was lost is barred: its name is written down beside the store, and whatever
journal comes later is not the one that it was made for. So no single file, wiped or put back, lets
it vote again.
"""

from collections.abc import Callable
from pathlib import Path

import structlog

from node.home.config import Voter
from node.home.keyfile import VotingKey, read_voting_key
from node.wire.disk import sync_file, sync_folder
from vm.keys import PUBLIC_KEY_BYTES, SigningKey
from vm.refusal import Refused

BARRED = "barred"  # file of a validator's store: public keys in hexadecimal, one a line
BARRED_BYTES_MAX = 64 * 1024  # a thousand lost journals

log = structlog.get_logger()


class Keyring:
    """The keys of one validator's home.

    Files are read anew at every question: a key that is made while the node runs counts at once.
    """

    def __init__(self, member: Voter, folder: Path, journal: bytes) -> None:
        """`folder` is the store's, `journal` the identity of the journal in use."""
        self._member = member
        self._folder = folder
        self._journal = journal

    def check(self) -> None:
        """Raise `Refused("journal.lost")` if a key that is not barred was made for another journal.

        Also raises what reading the files raises.
        """
        barred = read_barred(self._folder)
        for path, found in self._keys().items():
            if found.key.public not in barred and found.journal != self._journal:
                raise Refused(
                    "journal.lost",
                    f"expected the journal {found.journal.hex()} that {path} was made for, "
                    f"found {self._journal.hex()}",
                )

    def signer(self, public: bytes) -> Callable[[bytes], bytes] | None:
        """What signs the votes of a seat with this key; None if this node may not."""
        held = self._find(public)
        if held is None or held.journal != self._journal or public in read_barred(self._folder):
            return None
        return held.key.sign

    def held(self, public: bytes) -> SigningKey | None:
        """The key, barred or not: transactions promise nothing to a replica."""
        found = self._find(public)
        return None if found is None else found.key

    def publics(self) -> tuple[bytes, ...]:
        """The public keys of this home, the one in use first."""
        return tuple(found.key.public for found in self._keys().values())

    def bar(self, public: bytes) -> None:
        """Never let this key vote again."""
        bar(self._folder, public)

    def promote(self, public: bytes) -> None:
        """Put `next_key` in the place of `key` if a seat has it now."""
        following = self._keys().get(self._member.next_key)
        if following is not None and following.key.public == public:
            self._member.next_key.replace(self._member.key)
            sync_folder(self._member.key.parent)
            log.info("key.promoted", key=public.hex())

    def _find(self, public: bytes) -> VotingKey | None:
        found = (item for item in self._keys().values() if item.key.public == public)
        return next(found, None)

    def _keys(self) -> dict[Path, VotingKey]:
        found = {self._member.key: read_voting_key(self._member.key)}
        if self._member.next_key.exists():
            found[self._member.next_key] = read_voting_key(self._member.next_key)
        return found


def read_barred(folder: Path) -> frozenset[bytes]:
    """The public keys that must never vote again; raises `Refused("key.barred")` for damage."""
    path = folder / BARRED
    try:
        with path.open("rb") as file:
            data = file.read(BARRED_BYTES_MAX + 1)
    except FileNotFoundError:
        return frozenset()
    try:
        keys = [bytes.fromhex(line) for line in data.decode("ascii").splitlines()]
    except ValueError:
        keys = [b""]
    if len(data) > BARRED_BYTES_MAX or any(len(key) != PUBLIC_KEY_BYTES for key in keys):
        raise Refused("key.barred", f"{path}: expected public keys in hexadecimal, one a line")
    return frozenset(keys)


def bar(folder: Path, *keys: bytes) -> None:
    """Never let these public keys vote again; on return it is on disk."""
    barred = sorted(read_barred(folder).union(keys))
    fresh = folder / f"{BARRED}.new"
    fresh.write_text("".join(f"{key.hex()}\n" for key in barred))
    sync_file(fresh)
    fresh.rename(folder / BARRED)
    sync_folder(folder)
