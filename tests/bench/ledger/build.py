"""A chain with many records, made by the code that validators execute blocks with.

Every transaction is signed by its steward, every block has certificates of its commit and of its
header by validators' own keys, and the result is laid into their homes as state sync would: the
store is bound to each home's journal, which then need not know the certificates that were there
when the two met.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from consensus.message import CommitCertificate, commit_digest, payload_digest
from node.home import config
from node.home.keyfile import read_key, read_voting_key
from node.program import program
from node.validator.chain import Chain
from node.validator.journal import FOLDER as JOURNAL
from node.validator.journal import read_journal
from node.validator.store import Store
from tests.bench.ledger.fleet import STORE, Fleet
from tests.bench.ledger.purse import Sender, make
from vm.block import Header, Payload
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.keys import SigningKey
from vm.shape import Digest, pack, unpack
from vm.transaction import Transaction, Verified

LIFETIME_BLOCKS = 500  # of each transaction: any number that may stand


@dataclass(frozen=True, slots=True)
class Voter:
    """A validator, and what it votes with."""

    id: str
    key: SigningKey


def build(fleet: Fleet, records: int, block_records: int) -> None:
    """Execute blocks of `block_records` until there are `records`; lay the chain into all homes.

    No validator runs. With a bar on a terminal.
    """
    known: dict[bytes, Verified] = {}
    with closing(Store(fleet.chain(1))) as store:
        builder = _Builder(fleet, Chain(store, fleet.genesis, program(), known), known)
        steps = builder.grow(records, block_records)
        with Progress(console=Console(stderr=True), disable=not os.isatty(2)) as progress:
            for done in progress.track(steps, total=-(-records // block_records)):
                assert done, "each block writes records"
        store.sync()
    for number in fleet.numbers[1:]:
        shutil.copytree(fleet.chain(1), fleet.chain(number))
    for number in fleet.numbers:
        identity, _, _ = read_journal(fleet.home(number) / STORE / JOURNAL)
        with closing(Store(fleet.chain(number))) as store:
            store.bind_journal(identity)


def _as_verified(data: bytes) -> Verified:
    """A transaction as if its signature had been verified: it was made here."""
    made = unpack(Transaction, data)
    return Verified(made.intent, made.id, data)


def disk_bytes(folder: Path) -> int:
    """What the files of a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class _Builder:
    """Makes one block after the other."""

    def __init__(self, fleet: Fleet, chain: Chain, known: dict[bytes, Verified]) -> None:
        self._chain = chain
        self._known = known
        self._start_ms = fleet.genesis.time_ms
        homes = [fleet.home(number, "steward") for number in fleet.numbers]
        stewards = [config.load(config.OfficeConfig, home, {}).member for home in homes]
        self._senders = [Sender(member.id, read_key(member.key)) for member in stewards]
        voters = [
            config.load(config.ValidatorConfig, fleet.home(number), {}).member
            for number in fleet.numbers
        ]
        keys = {voter.id: read_voting_key(voter.key).key for voter in voters}
        seats = chain.epoch.validators
        self._voters = [Voter(seat.id, keys[seat.id]) for seat in seats.voters[: seats.quorum]]

    def grow(self, records: int, block_records: int) -> Iterator[int]:
        """After each block the number of its records."""
        for first in range(0, records, block_records):
            count = min(block_records, records - first)
            self._block(count)
            yield count

    def _block(self, count: int) -> None:
        height = self._chain.head.height + 1
        packed = tuple(self._transaction(place, height) for place in range(count))
        self._known.clear()
        self._known.update((data, _as_verified(data)) for data in packed)
        payload = pack(Payload(self._start_ms + height, packed))
        found = payload_digest(payload)
        votes = self._votes(commit_digest(self._chain.id, 0, 0, height, found))
        header = self._chain.execute(height, payload, CommitCertificate(0, height, found, votes))
        self._chain.store.write_certificate(self._certificate(header))

    def _transaction(self, place: int, height: int) -> bytes:
        sender = self._senders[place % len(self._senders)]
        return make(self._chain.id, sender, height + LIFETIME_BLOCKS)

    def _certificate(self, header: Header) -> CheckpointCertificate:
        message = checkpoint_digest(self._chain.id, header.height, header.digest)
        return CheckpointCertificate(header.height, header.digest, self._votes(message))

    def _votes(self, message: Digest) -> tuple[Vote, ...]:
        return tuple(Vote(voter.id, voter.key.sign(message)) for voter in self._voters)
