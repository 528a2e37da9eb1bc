"""The blob store: nothing is seen half written, and nothing that came is asked for again."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.wire.blobs import OURS, OWNER_BYTES_MAX, PARTIALS_MAX, PARTIALS_OF_OWNER_MAX, BlobStore
from node.wire.cid import CHUNK_BYTES, CHUNKS_MAX, Manifest, address, split, summarise
from vm.record import BLOB_BYTES_MAX
from vm.refusal import Refused
from vm.shape import pack

STORE_BYTES = 1024 * CHUNK_BYTES
LONG = b"".join(bytes([i]) * CHUNK_BYTES for i in range(3)) + b"tail"  # four chunks


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """An empty store."""
    return BlobStore(tmp_path / "blobs", STORE_BYTES)


def root_of(content: bytes) -> bytes:
    """The manifest's bytes, or the content if it is short."""
    manifest = summarise(split(content))[1]
    return content if manifest is None else pack(manifest)


def begin(store: BlobStore, content: bytes, owner: str = "trainer") -> tuple[int, ...]:
    """Begin an upload of `content`."""
    return store.begin(address(content), root_of(content), owner)


def long_content(number: int) -> bytes:
    """One of many contents that need a manifest."""
    return bytes(CHUNK_BYTES) + b"%d" % number


@contextmanager
def full_disk(bytes_max: int) -> Iterator[None]:
    """Have the operating system refuse to let any file grow past `bytes_max`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(folder: Path) -> list[str]:
    """The path of every file below `folder`."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("content", [b"", b"short", bytes(CHUNK_BYTES), LONG])
def test_what_is_stored_is_read_back(store: BlobStore, content: bytes) -> None:
    """Content of every sort comes back whole, under its address."""
    stored = store.add(content)

    assert stored == address(content)
    assert store.has(stored)
    assert store.size(stored) == len(content)
    assert b"".join(store.read(stored)) == content
    assert store.load(stored, len(content)) == content
    assert b"".join(store.chunk(stored, i) for i in range(len(split(content)))) == content


@pytest.mark.parametrize("content", [b"", b"short", LONG])
def test_a_file_is_stored_under_the_address_of_its_content(
    store: BlobStore, tmp_path: Path, content: bytes
) -> None:
    """A file is stored without being read into memory at once."""
    path = tmp_path / "weights"
    path.write_bytes(content)

    assert store.add_file(path) == address(content)
    assert store.load(address(content), len(content)) == content


@pytest.mark.parametrize("size", [5, 3 * CHUNK_BYTES])
def test_a_blobs_head_is_read_alone(tmp_path: Path, size: int) -> None:
    """The first bytes of a short blob or a long one; nothing of one that is not whole here."""
    store = BlobStore(tmp_path, 8 * CHUNK_BYTES)
    content = bytes(range(1, 6)) * (size // 5)

    address = store.add(content)

    assert store.head(address, 4) == content[:4]
    store.delete(address)
    assert store.head(address, 4) is None


def test_a_store_opened_again_has_its_blobs(store: BlobStore, tmp_path: Path) -> None:
    """Blobs outlive the process, and still count towards the bound."""
    stored = [store.add(content) for content in (b"short", LONG)]

    again = BlobStore(tmp_path / "blobs", STORE_BYTES)

    assert all(again.has(item) for item in stored)
    assert again.load(address(LONG), len(LONG)) == LONG
    small = BlobStore(tmp_path / "blobs", len(LONG))
    with pytest.raises(Refused, match=r"blob\.store_full"):
        small.add(b"more")


@given(order=st.permutations(range(4)))
def test_chunks_may_come_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    """The blob is whole with the last missing chunk, and not before."""
    store = BlobStore(tmp_path_factory.mktemp("blobs"), STORE_BYTES)
    chunks = split(LONG)
    begin(store, LONG)

    whole = [store.put(address(LONG), index, chunks[index]) for index in order]

    assert whole == [False, False, False, True]
    assert store.load(address(LONG), len(LONG)) == LONG


def test_a_resumed_upload_misses_only_what_did_not_come(store: BlobStore, tmp_path: Path) -> None:
    """A killed process has lost no chunk that it accepted."""
    begin(store, LONG)
    store.put(address(LONG), 2, split(LONG)[2])
    store.put(address(LONG), 0, split(LONG)[0])

    again = BlobStore(tmp_path / "blobs", STORE_BYTES)

    assert begin(again, LONG) == (1, 3)
    assert not again.has(address(LONG))
    again.put(address(LONG), 3, split(LONG)[3])
    assert again.put(address(LONG), 1, split(LONG)[1])
    assert again.load(address(LONG), len(LONG)) == LONG


def test_a_chunk_torn_by_a_crash_is_missing_again(store: BlobStore, tmp_path: Path) -> None:
    """What verifies is held: a half written chunk does not."""
    begin(store, LONG)
    store.put(address(LONG), 0, split(LONG)[0])
    store.put(address(LONG), 1, split(LONG)[1])
    content = tmp_path / "blobs" / "partial" / address(LONG) / "content"
    with content.open("r+b") as file:
        file.truncate(2 * CHUNK_BYTES - 1)

    again = BlobStore(tmp_path / "blobs", STORE_BYTES)

    assert begin(again, LONG) == (1, 2, 3)


def test_a_crash_before_the_last_rename_costs_nothing(store: BlobStore, tmp_path: Path) -> None:
    """With every chunk on disk, asking what is missing completes the blob."""
    begin(store, LONG)
    for index in range(3):
        store.put(address(LONG), index, split(LONG)[index])
    with (tmp_path / "blobs" / "partial" / address(LONG) / "content").open("ab") as file:
        file.write(split(LONG)[3])

    again = BlobStore(tmp_path / "blobs", STORE_BYTES)

    assert begin(again, LONG) == ()
    assert again.load(address(LONG), len(LONG)) == LONG


@pytest.mark.parametrize(
    ("index", "chunk", "code"),
    [
        (0, split(LONG)[0][:-1], "blob.chunk"),
        (0, split(LONG)[0] + b"\0", "blob.chunk"),
        (0, split(LONG)[1], "blob.chunk"),
        (3, bytes(CHUNK_BYTES), "blob.chunk"),
        (4, b"", "blob.index"),
    ],
)
def test_a_chunk_that_is_not_the_promised_one_is_refused(
    store: BlobStore, index: int, chunk: bytes, code: str
) -> None:
    """Truncated, longer, exchanged and additional chunks leave the upload as it was."""
    begin(store, LONG)

    with pytest.raises(Refused) as refused:
        store.put(address(LONG), index, chunk)

    assert refused.value.code == code
    assert begin(store, LONG) == (0, 1, 2, 3)


def test_a_chunk_without_its_root_is_refused(store: BlobStore) -> None:
    """Nothing is stored that no manifest promised."""
    with pytest.raises(Refused) as refused:
        store.put(address(LONG), 0, split(LONG)[0])

    assert refused.value.code == "blob.not_begun"


def test_a_root_that_does_not_match_its_address_is_refused(store: BlobStore) -> None:
    """Nobody stores other bytes under an address."""
    with pytest.raises(Refused) as refused:
        store.begin(address(b"short"), b"other", OURS)

    assert refused.value.code == "blob.root"
    assert not store.has(address(b"short"))


def test_a_blob_that_is_not_here_is_refused(store: BlobStore) -> None:
    """Also a partial one is not here yet."""
    begin(store, LONG)

    for missing in (address(b"short"), address(LONG)):
        with pytest.raises(Refused) as refused:
            store.root(missing)
        assert refused.value.code == "blob.absent"


def test_the_store_promises_no_more_than_its_bound(tmp_path: Path) -> None:
    """Partial uploads count in full from the beginning, and stop counting when they go."""
    store = BlobStore(tmp_path, 2 * CHUNK_BYTES)
    begin(store, long_content(1))

    with pytest.raises(Refused) as refused:
        begin(store, long_content(2))

    assert refused.value.code == "blob.store_full"
    store.delete(address(long_content(1)))
    assert begin(store, long_content(2)) == (0, 1)


def test_content_over_the_readers_bound_is_refused(store: BlobStore) -> None:
    """Nobody loads more into memory than was asked for."""
    store.add(LONG)

    with pytest.raises(Refused) as refused:
        store.load(address(LONG), len(LONG) - 1)

    assert refused.value.code == "blob.too_large"


def test_an_owner_has_few_partials(store: BlobStore) -> None:
    """One too many drops the owner's own that was longest untouched, never another's."""
    begin(store, long_content(0), "other")
    for number in range(1, PARTIALS_OF_OWNER_MAX + 1):
        begin(store, long_content(number))
    store.put(address(long_content(1)), 1, b"1")

    begin(store, long_content(99))

    with pytest.raises(Refused, match=r"blob\.not_begun"):
        store.put(address(long_content(2)), 1, b"2")
    assert begin(store, long_content(1)) == (0,)
    assert begin(store, long_content(0), "other") == (0, 1)
    assert store.promised("trainer") == PARTIALS_OF_OWNER_MAX * len(long_content(1)) + 1


def test_an_owner_promises_few_bytes(tmp_path: Path) -> None:
    """Uploads of the largest size are under way two at a time; a third drops the first."""
    store = BlobStore(tmp_path, 4 * OWNER_BYTES_MAX)
    chunks = (bytes(32),) * (CHUNKS_MAX - 1)
    largest = [
        Manifest(BLOB_BYTES_MAX, CHUNK_BYTES, (*chunks, bytes([number]) * 32))
        for number in range(3)
    ]

    for manifest in largest:
        store.begin(manifest.address, pack(manifest), "trainer")

    assert store.promised("trainer") == OWNER_BYTES_MAX
    with pytest.raises(Refused, match=r"blob\.not_begun"):
        store.put(largest[0].address, 0, b"")


def test_there_are_few_partials_in_all(store: BlobStore) -> None:
    """One too many drops the one that was longest untouched, and its files."""
    for number in range(PARTIALS_MAX):
        begin(store, long_content(number), f"owner-{number}")

    begin(store, long_content(99), "late")

    assert store.promised("owner-0") == 0
    assert store.promised("owner-1") > 0
    assert store.promised("late") > 0


@pytest.mark.parametrize("content", [b"x" * CHUNK_BYTES, LONG])
def test_a_full_disk_leaves_nothing_half_visible(
    store: BlobStore, tmp_path: Path, content: bytes
) -> None:
    """The refusal is clear, what was stored stays readable, and the same upload works later."""
    store.add(b"before")
    before = files_in(tmp_path / "blobs" / "whole")

    with full_disk(CHUNK_BYTES // 2), pytest.raises(Refused) as refused:
        store.add(content)

    assert refused.value.code == "blob.disk_full"
    assert not store.has(address(content))
    assert files_in(tmp_path / "blobs" / "whole") == before
    assert all(path.startswith(address(LONG)) for path in files_in(tmp_path / "blobs" / "partial"))
    assert store.load(address(b"before"), 6) == b"before"
    assert store.add(content) == address(content)
    assert store.load(address(content), len(content)) == content


def test_a_full_disk_loses_no_chunk_that_was_taken(store: BlobStore) -> None:
    """An upload goes on, once there is room, with the chunk that found none."""
    chunks = split(LONG)
    begin(store, LONG)
    store.put(address(LONG), 0, chunks[0])

    with full_disk(CHUNK_BYTES + 1), pytest.raises(Refused):
        store.put(address(LONG), 1, chunks[1])

    assert begin(store, LONG) == (1, 2, 3)


@pytest.mark.parametrize(
    ("content", "file"), [(b"short", "root"), (LONG, "content"), (LONG, "root")]
)
@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_a_damaged_blob_is_not_handed_out(
    store: BlobStore, tmp_path: Path, content: bytes, file: str, damage: str
) -> None:
    """The refusal names the folder that is to be deleted; then the blob can come anew."""
    store.add(content)
    path = tmp_path / "blobs" / "whole" / address(content) / file
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-1])
        case "changed":
            path.write_bytes(b"?" + path.read_bytes()[1:])
        case "gone":
            path.unlink()

    with pytest.raises(Refused, match=str(path.parent)) as refused:
        store.load(address(content), len(content))

    assert refused.value.code == "blob.corrupt"
    store.delete(address(content))
    store.add(content)
    assert store.load(address(content), len(content)) == content


def test_a_deleted_blob_is_gone(store: BlobStore, tmp_path: Path) -> None:
    """Its files as well, also after a restart; deleting again does no harm."""
    store.add(LONG)
    begin(store, long_content(1))

    for content in (LONG, long_content(1), LONG):
        store.delete(address(content))

    assert not store.has(address(LONG))
    assert files_in(tmp_path / "blobs") == []
    assert not BlobStore(tmp_path / "blobs", STORE_BYTES).has(address(LONG))


def test_a_deletion_cut_short_is_finished_at_the_next_start(
    store: BlobStore, tmp_path: Path
) -> None:
    """A crash between the two steps of a deletion leaves no blob and, later, no files."""
    store.add(LONG)
    folder = tmp_path / "blobs"
    (folder / "whole" / address(LONG)).rename(folder / "partial" / address(LONG))

    again = BlobStore(folder, STORE_BYTES)

    assert not again.has(address(LONG))
    assert files_in(folder) == []
