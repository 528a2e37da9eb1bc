"""The ledger bench's large chain: genuine, and laid so that validators may start with it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from consensus.certificate import Verifier
from consensus.journal import Said, frame
from consensus.message import Commit, Envelope, Prepare
from node.home import config
from node.validator.journal import FOLDER as JOURNAL
from node.validator.journal import SEGMENT, Journal
from node.validator.keyring import Keyring
from node.validator.recover import check_journal
from node.validator.store import Store
from tests.bench.ledger.build import build, disk_bytes
from tests.bench.ledger.fleet import STORE, Fleet
from tests.bench.ledger.restart import voted
from vm.certificate import verify_checkpoint
from vm.genesis import check_genesis
from vm.record import Dataset

ME = "hospital-1.validator"
RECORDS, BLOCK_RECORDS = 25, 10


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four homes with a small chain in each; no process runs."""
    made = Fleet(tmp_path_factory.mktemp("chain") / "net")
    build(made, RECORDS, BLOCK_RECORDS)
    yield made
    made.close()


def test_every_block_has_its_certificates(fleet: Fleet) -> None:
    """Of commit and of header, each by a quorum of the validators' own keys."""
    epoch = check_genesis(fleet.genesis)
    verifier = Verifier(fleet.genesis.chain, epoch)

    with closing(Store(fleet.chain(2))) as store:
        for height in (1, 2, 3):
            block, header = store.block(height), store.header(height)
            certificate = store.certificate(height)
            assert block is not None
            assert header is not None
            assert certificate is not None
            verifier.committed(block.certificate)
            verify_checkpoint(certificate, fleet.genesis.chain, epoch.validators)
            assert certificate.header == header.digest


def test_the_state_has_every_record(fleet: Fleet) -> None:
    """Each transaction was applied, and wrote one dataset; the last block may be smaller."""
    applied = fleet.applied(3)

    with closing(Store(fleet.chain(3))) as store:
        datasets = list(store.keys(Dataset.KIND, (), 1))

    assert applied == {1: 10, 2: 10, 3: 5}
    assert len(datasets) == RECORDS
    assert disk_bytes(fleet.chain(3)) > RECORDS * 278


def test_each_home_accepts_its_chain(fleet: Fleet) -> None:
    """With its own journal, which has promised nothing yet, and with no other one."""
    for number in fleet.numbers:
        member = config.load(config.ValidatorConfig, fleet.home(number), {}).member
        folder = fleet.home(number) / STORE
        with Journal(folder / JOURNAL) as journal, closing(Store(fleet.chain(number))) as store:
            keyring = Keyring(member, folder, journal.identity)
            check_journal(keyring, journal.identity, journal.entries, store)
            assert keyring.signer(_public(fleet, number)) is not None


def _public(fleet: Fleet, number: int) -> bytes:
    name = f"hospital-{number}.validator"
    return next(one.public_key for one in fleet.genesis.members if one.id == name)


def test_votes_are_read_from_the_journal(tmp_path: Path) -> None:
    """The highest block of our own Prepare or Commit behind a place; others' votes are not ours."""
    bodies = ((ME, Prepare(0, 4, bytes(32))), (ME, Commit(0, 5, bytes(32))))
    frames = [
        frame(Said(Envelope(sender, 0, body, bytes(64), b"")))
        for sender, body in (*bodies, ("hospital-2.validator", Commit(0, 9, bytes(32))))
    ]
    journal = tmp_path / SEGMENT
    journal.write_bytes(b"".join(frames))

    assert voted(journal, 0, ME) == 5
    assert voted(journal, len(frames[0]) + len(frames[1]), ME) == 0
