"""The store on LevelDB: one batch per block, and every kind of damage refused instead of read."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import plyvel
import pytest

from node.validator import store as module
from node.validator.store import WRITE_BUFFER_BYTES, Binding, Store
from tests.harness import genesis_of
from tests.node.network import HOSPITALS, Network, open_network, register_dataset
from vm.certificate import CheckpointCertificate, Vote
from vm.record import Dataset, Member
from vm.refusal import Refused
from vm.shape import pack

BLOCKS = 20


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain at its genesis, in the folder `store`."""
    with open_network(tmp_path) as network:
        yield network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The closed store of a chain of some blocks, all still in LevelDB's log."""
    with open_network(tmp_path) as network:
        for _ in range(BLOCKS):
            network.block()
    return tmp_path / "store"


def flip(path: Path, place: float) -> None:
    """Flip one bit of a file, as far in as `place` of its length says."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def only(folder: Path, pattern: str) -> Path:
    """The one file of a kind that has something in it."""
    (path,) = [path for path in folder.glob(pattern) if path.stat().st_size]
    return path


def code_of(folder: Path) -> str:
    """The code with which a store is refused."""
    with pytest.raises(Refused) as refused:
        Store(folder)
    return refused.value.code


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    """Before genesis there is no head, block, row, certificate or place."""
    store = Store(tmp_path / "new" / "folder")

    assert store.head() is None
    assert (store.block(0), store.row(0), store.certificate(0)) == (None, None, None)
    assert store.certified() is None
    assert store.place(bytes(32)) is None
    store.close()


def test_a_block_leaves_all_its_rows(network: Network) -> None:
    """Payload, header, receipts with their places, state, history and head."""
    items = [register_dataset(network, hospital) for hospital in HOSPITALS]

    header = network.block(*items)

    store = network.chain.store
    row, head, block = store.row(1), store.head(), store.block(1)
    assert row is not None
    assert head is not None
    assert block is not None
    assert (row.header, head.header) == (header, header.digest)
    assert [receipt.transaction for receipt in row.receipts] == [item.id for item in items]
    for index, item in enumerate(items):
        place = store.place(item.id)
        assert place is not None
        assert (place.height, place.index) == (1, index)
    assert store.history_node(0, 1) == hashlib.sha256(b"\x00" + header.digest).digest()
    assert len([*store.keys(Dataset.KIND, (), 1)]) == len(HOSPITALS)


def test_blocks_are_read_in_order_as_far_as_there_are_any(network: Network) -> None:
    """A peer that asks for more than we have gets what we have; genesis has no payload."""
    for _ in range(3):
        network.block()
    store = network.chain.store

    expected = [store.block(2), store.block(3)]

    assert list(store.blocks(2, 99)) == expected
    assert list(store.blocks(2, 2)) == expected[:1]
    assert list(store.blocks(4, 9)) == []
    assert list(store.blocks(0, 9)) == []
    assert list(store.blocks(3, 2)) == []


def test_the_newest_certificate_is_found_up_to_a_height(network: Network) -> None:
    """Certificates come late and leave gaps."""
    headers = [network.block(certified=height in (1, 3)) for height in (1, 2, 3, 4)]
    store = network.chain.store

    found = [store.certified(height) for height in range(5)]

    assert [None if item is None else item.height for item in found] == [None, 1, 1, 3, 3]
    newest = store.certified()
    assert newest is not None
    assert newest.header == headers[2].digest
    assert store.certificate(2) is None


def test_keys_are_listed_by_kind_and_prefix_alone(network: Network) -> None:
    """A kind whose name another begins with, or an id that begins another's, is not listed."""
    store = network.chain.store

    members = list(store.keys(Member.KIND, (), 1))

    assert len(members) == len(network.genesis.members)
    assert members == sorted(members)
    assert list(store.keys("mem", (), 1)) == []
    assert len(list(store.keys(Member.KIND, ("hospital-1.admin",), 1))) == 1
    assert list(store.keys(Member.KIND, ("hospital-1",), 1)) == []
    assert list(store.keys(Member.KIND, (), 2)) == []


def test_headers_and_transactions_are_found_by_their_first_digits(network: Network) -> None:
    """By an even or odd number of them, in order, each with its place."""
    header = network.block(*(register_dataset(network, hospital) for hospital in HOSPITALS))
    store, digits = network.chain.store, header.digest.hex()
    row = store.row(1)
    assert row is not None
    ids = sorted(receipt.transaction for receipt in row.receipts)

    assert list(store.heights(digits)) == [(header.digest, 1)]
    assert list(store.heights(digits[:15])) == [(header.digest, 1)]
    assert list(store.heights("f" * 64)) == []
    assert [id for id, _ in store.places("")] == ids
    assert list(store.places(ids[0].hex()[:13])) == [(ids[0], store.place(ids[0]))]
    assert dict(store.places(ids[0].hex()[:1])).keys() == {
        id for id in ids if id.hex()[0] == ids[0].hex()[0]
    }


def test_a_store_of_before_finds_headers_by_digest_once_it_was_opened(folder: Path) -> None:
    """The rows that a release without this index has not written are written at the start."""
    store = Store(folder)
    header = store.header(7)
    assert header is not None
    for prefix in (module.DIGEST, module.DIGESTS):
        with (
            store.database.iterator(prefix=prefix, include_value=False) as rows,
            store.database.write_batch() as batch,
        ):
            for row in rows:
                batch.delete(row)
    assert list(store.heights(header.digest.hex())) == []
    store.close()

    store = Store(folder)

    assert list(store.heights(header.digest.hex())) == [(header.digest, 7)]
    assert len(list(store.heights(""))) == BLOCKS + 1
    store.close()


def test_a_store_that_is_closed_between_blocks_goes_on(tmp_path: Path) -> None:
    """A crash leaves the chain at a height, and the same next block has the same header."""
    with open_network(tmp_path / "steady") as steady:
        headers = [steady.block() for _ in range(4)]

    with open_network(tmp_path / "restarted") as network:
        first = [network.block() for _ in range(2)]
    with open_network(tmp_path / "restarted") as network:
        then = [network.block() for _ in range(2)]

    assert first + then == headers


def test_a_block_that_was_cut_off_never_was(folder: Path) -> None:
    """A crash in the middle of the last write leaves the chain whole at the block before."""
    log = only(folder, "*.log")
    for cut in (1, 100, 700):  # of certificate and block
        log.write_bytes(log.read_bytes()[:-cut])

    store = Store(folder)

    head = store.head()
    assert head is not None
    assert BLOCKS - 3 <= head.height < BLOCKS
    row = store.row(head.height)
    assert row is not None
    assert row.header.digest == head.header
    assert store.row(head.height + 1) is None
    assert all(store.read(head.root, key) for key in store.keys(Member.KIND, (), 1))
    store.close()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_log_is_refused(folder: Path, place: float) -> None:
    """LevelDB would skip the damage and open with blocks missing below the head."""
    flip(only(folder, "*.log"), place)

    assert code_of(folder) == "store.corrupt"


def forget(folder: Path, height: int) -> None:
    """Take away what one block left, as when the end of an older log never reached the disk."""
    with plyvel.DB(str(folder)) as db:
        for prefix in (module.HEADER, module.BLOCK, module.ROW):
            db.delete(prefix + module.at(height))


def test_a_block_that_is_missing_below_a_later_one_is_noticed(folder: Path) -> None:
    """After a power cut between two of LevelDB's logs; its state would be read as if it stood."""
    Store(folder).close()
    forget(folder, BLOCKS - 3)

    assert code_of(folder) == "store.corrupt"


class PowerCut(Exception):  # noqa: N818 - no error: the machine is gone
    """Nothing after this moment reaches the disk."""


def test_a_sync_that_was_cut_off_vouches_for_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The height that it notes is on disk only after all that lies below it."""
    store = Store(folder)

    def cut(path: Path) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(module, "sync_file", cut)
        with pytest.raises(PowerCut):
            store.sync()
    store.close()
    forget(folder, BLOCKS - 3)

    assert code_of(folder) == "store.corrupt"


def test_a_start_looks_no_further_back_than_the_last_sync(folder: Path) -> None:
    """What was synced cannot have been lost, and a chain of years is not walked at every start."""
    store = Store(folder)
    store.sync()
    store.close()
    forget(folder, 2)

    Store(folder).close()


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
def test_damaged_indexes_are_refused(folder: Path, pattern: str) -> None:
    """The files by which LevelDB finds its tables."""
    flip(only(folder, pattern), 0.5)

    assert code_of(folder) == "store.corrupt"


def test_a_missing_table_is_refused(folder: Path) -> None:
    """Deleting a file does not silently empty the store."""
    compact(folder)
    only(folder, "*.ldb").unlink()

    assert code_of(folder) == "store.corrupt"


@pytest.mark.parametrize("place", [0.05, 0.3, 0.6])
def test_a_damaged_table_is_never_read_as_something_else(folder: Path, place: float) -> None:
    """Every read gives what was written or stops; LevelDB by itself gives back the flipped bit."""
    before = everything(folder)
    compact(folder)
    flip(only(folder, "*.ldb"), place)

    with pytest.raises(plyvel.CorruptionError):
        assert everything(folder) == before


def everything(folder: Path) -> list[object]:
    """What a walk over the whole chain reads."""
    store = Store(folder)
    try:
        head = store.head()
        found: list[object] = [head, store.certified()]
        for height in range(BLOCKS + 1):
            found += [store.row(height), store.block(height), store.certificate(height)]
            found += [store.history_node(0, height)]
        assert head is not None
        found += [store.read(head.root, key) for key in store.keys(Member.KIND, (), 1)]
        return found
    finally:
        store.close()


def compact(folder: Path) -> None:
    """Have LevelDB put everything into a table, as it does by itself once there is more."""
    db = plyvel.DB(str(folder))
    db.compact_range()
    db.close()


def test_a_store_in_use_is_refused(tmp_path: Path) -> None:
    """Neither this process nor another one opens it twice."""
    store = Store(tmp_path)
    program = (
        "import sys, pathlib\nfrom node.validator.store import Store\n"
        "from vm.refusal import Refused\n"
        "try:\n    Store(pathlib.Path(sys.argv[1]))\n"
        "except Refused as refused:\n    print(refused.code)\n"
    )

    other = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert code_of(tmp_path) == "store.locked"
    assert other.stdout.strip() == "store.locked", other.stderr
    store.close()
    Store(tmp_path).close()


def test_the_store_of_another_chain_is_refused(tmp_path: Path) -> None:
    """A genesis file that was exchanged does not go on with the old chain's blocks."""
    with open_network(tmp_path) as network:
        header = network.block()

    store = Store(tmp_path / "store")
    with pytest.raises(Refused, match=r"genesis\.mismatch"):
        Network(store, genesis_of(5))

    row = store.row(1)
    assert row is not None
    assert pack(row.header) == pack(header)
    store.close()


VOTES = tuple(Vote(f"v{number}", bytes(64)) for number in range(3))


def test_a_store_knows_the_journal_that_it_is_used_with(tmp_path: Path) -> None:
    """Also after a restart; a new one takes its place only where it is told so."""
    store = Store(tmp_path)
    before = store.journal
    store.bind_journal(b"1" * 16)
    store.write_certificate(CheckpointCertificate(7, bytes(32), VOTES))
    store.close()

    again = Store(tmp_path)
    again.bind_journal(b"1" * 16)
    bound = again.journal
    again.bind_journal(b"2" * 16)
    rebound = again.journal
    again.close()

    assert before is None
    assert bound == Binding(b"1" * 16, 0)
    assert rebound == Binding(b"2" * 16, 7)


def test_syncing_reaches_the_log_that_leveldb_has_just_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content may be in no table yet, and the journal that could bring it back goes next."""
    synced: set[str] = set()
    monkeypatch.setattr(module, "sync_file", lambda path: synced.add(path.name))
    store = Store(tmp_path)
    (tmp_path / "000001.log").write_bytes(b"")  # one that LevelDB does not write any more

    store.sync()
    logs = {path.name for path in tmp_path.glob("*.log")}
    store.close()

    assert synced == logs
    assert len(logs) == 2


def test_what_was_deleted_gives_its_room_back(tmp_path: Path) -> None:
    """LevelDB only marks rows as deleted; `compact` leaves at most what its buffer may hold."""
    store = Store(tmp_path / "chain")
    rows = [b"x%02d" % number for number in range(96)]
    for row in rows:
        store.database.put(row, os.urandom(WRITE_BUFFER_BYTES // 64))
    with store.database.write_batch() as batch:
        for row in rows:
            batch.delete(row)

    store.compact()
    store.close()

    assert sum(path.stat().st_size for path in (tmp_path / "chain").iterdir()) < 1024 * 1024
