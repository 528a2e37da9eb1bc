"""Blobs on disk under their content address: whole ones, and uploads that are under way.

    whole/<address>/root      the bytes that the address is the digest of: content or manifest
    whole/<address>/content   the content, where the root is a manifest
    partial/<address>/        the same, with holes, and the `owner` who promised the content

A blob becomes whole by renaming its folder, so none is ever seen half written. Which chunks a
partial holds is not written down: what verifies is held. So there is no second record that a
crash could part from the first. All methods block: callers on the loop use `asyncio.to_thread`.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from node.wire.cid import (
    CHUNK_BYTES,
    Manifest,
    check_chunk,
    check_root,
    parse,
    require_index,
    split,
    summarise,
)
from node.wire.disk import is_full, sync_folder, write_at
from vm.record import BLOB_BYTES_MAX
from vm.refusal import Refused
from vm.shape import pack

PARTIALS_MAX = 64  # uploads under way; past it the one longest untouched is dropped
PARTIALS_OF_OWNER_MAX = 8  # so that no member's uploads push out all the others'
OWNER_BYTES_MAX = 2 * BLOB_BYTES_MAX  # promised in the partials of one owner; so one always fits
OURS = ""  # owner of what the node itself fetches; no member has this id

WHOLE, PARTIAL = "whole", "partial"
ROOT, CONTENT, OWNER = "root", "content", "owner"


@dataclass(slots=True)
class _Partial:
    owner: str
    manifest: Manifest
    held: set[int] | None  # None until the content on disk has been verified


class BlobStore:
    """Blobs of at most `bytes_max` bytes in all, the promised bytes of partial ones included."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        """Open, keeping what earlier runs left; raises `Refused("blob.disk_full")`."""
        self._folder = folder
        self._bytes_max = bytes_max
        self._lock = RLock()  # held while anything changes; reading whole blobs needs none
        self._whole: dict[str, int] = {}  # address to bytes on disk
        self._partials: dict[str, _Partial] = {}  # longest untouched first
        with _disk(folder):
            for name in (WHOLE, PARTIAL):
                (folder / name).mkdir(parents=True, exist_ok=True)
            for path in (folder / WHOLE).iterdir():
                self._whole[path.name] = _bytes_in(path)
            for path in sorted((folder / PARTIAL).iterdir(), key=lambda item: item.stat().st_mtime):
                self._reopen(path)

    def has(self, address: str) -> bool:
        """Whether the blob is whole here."""
        return address in self._whole

    def addresses(self) -> tuple[str, ...]:
        """All blobs that are here, whole or partial."""
        with self._lock:
            return (*self._whole, *self._partials)

    def held(self, address: str) -> int:
        """How many chunks of a blob under way are here; 0 of any other, a whole one too."""
        with self._lock, _disk(self._folder):
            return len(self._held(address)) if address in self._partials else 0

    def promised(self, owner: str) -> int:
        """Bytes of content in partial uploads that `owner` began."""
        with self._lock:
            return sum(p.manifest.size for p in self._partials.values() if p.owner == owner)

    # Writing

    def add(self, content: bytes) -> str:
        """Store `content`; return its address. Raises `Refused` as `begin` does."""
        return self._add(split(content))

    def add_file(self, path: Path) -> str:
        """Store the content of a file; return its address. The file must not change meanwhile."""
        return self._add(FileChunks(path))

    def begin(self, address: str, root: bytes, owner: str) -> tuple[int, ...]:
        """Take the root of a blob: its content, or the manifest of chunks that will follow.

        Returns the numbers of the chunks that are missing: none when the blob is whole. Asking
        again resumes. Raises `Refused` with code `blob.address`, `blob.root`, `blob.manifest`,
        `blob.store_full` or `blob.disk_full`.
        """
        manifest = check_root(parse(address), root)
        with self._lock, _disk(self._folder):
            if address in self._whole:
                return ()
            if manifest is None:
                self._require_room(len(root))
                self._create(address, {ROOT: root})
                self._complete(address)
                return ()
            if address not in self._partials:
                self._drop_partials_for(owner, manifest.size)
                self._require_room(manifest.size)
                self._create(address, {ROOT: root, OWNER: owner.encode(), CONTENT: b""})
                self._partials[address] = _Partial(owner, manifest, set())
            return self._progress(address)

    def put(self, address: str, index: int, chunk: bytes) -> bool:
        """Take chunk `index` of a blob that was begun; return whether the blob is whole now.

        Raises `Refused` with code `blob.not_begun`, `blob.index`, `blob.chunk` or
        `blob.disk_full`; after any of them the chunk is as missing as before.
        """
        with self._lock, _disk(self._folder):
            if address in self._whole:
                return True
            if address not in self._partials:
                raise Refused(
                    "blob.not_begun",
                    f"{address}: expected its root before chunk {index}: send that (again)",
                )
            partial = self._partials[address]
            check_chunk(partial.manifest, index, chunk)
            held = self._held(address)
            if index not in held:
                with _opened(self._path(PARTIAL, address) / CONTENT, os.O_WRONLY) as file:
                    write_at(file, chunk, index * CHUNK_BYTES)
                    os.fsync(file)
                held.add(index)
            return not self._progress(address)

    def delete(self, address: str) -> None:
        """Forget a blob, whole or partial, if it is here."""
        with self._lock, _disk(self._folder):
            if self._whole.pop(address, None) is not None:
                # Without a root it is no blob any more, so a crash here leaves nothing half read.
                doomed = self._path(PARTIAL, address)
                shutil.rmtree(doomed, ignore_errors=True)
                self._path(WHOLE, address).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                sync_folder(self._folder / WHOLE)
            elif self._partials.pop(address, None) is not None:
                shutil.rmtree(self._path(PARTIAL, address), ignore_errors=True)

    # Reading

    def root(self, address: str) -> bytes:
        """The content of a short blob, the manifest of a long one.

        Raises `Refused` with code `blob.absent` or `blob.corrupt`.
        """
        return self._root(address)[0]

    def size(self, address: str) -> int:
        """Bytes of content; raises as `root` does."""
        root, manifest = self._root(address)
        return len(root) if manifest is None else manifest.size

    def chunk(self, address: str, index: int) -> bytes:
        """Chunk `index` of the content, verified; raises as `root` does and `blob.index`."""
        root, manifest = self._root(address)
        if manifest is None:
            if index != 0:
                raise Refused("blob.index", f"expected chunk 0 of a short blob, found {index}")
            return root
        return self._read_chunk(address, manifest, index)

    def head(self, address: str, size: int) -> bytes | None:
        """The first `size` bytes of content, as they were verified on arrival; None if absent."""
        if address not in self._whole:
            return None
        path = self._path(WHOLE, address)
        for name in (CONTENT, ROOT):  # of a short blob the root is the content
            try:
                with _opened(path / name, os.O_RDONLY) as file:
                    return os.pread(file, size, 0)
            except FileNotFoundError:
                continue
        return None

    def read(self, address: str) -> Iterator[bytes]:
        """The content in chunks, each verified before it is given; raises as `root` does."""
        root, manifest = self._root(address)
        if manifest is None:
            yield root
            return
        for index in range(len(manifest.chunks)):
            yield self._read_chunk(address, manifest, index)

    def load(self, address: str, bytes_max: int) -> bytes:
        """The content at once; raises as `root` does and `Refused("blob.too_large")`."""
        size = self.size(address)
        if size > bytes_max:
            raise Refused(
                "blob.too_large", f"{address}: expected at most {bytes_max} bytes, found {size}"
            )
        return b"".join(self.read(address))

    def _root(self, address: str) -> tuple[bytes, Manifest | None]:
        if address not in self._whole:
            raise Refused("blob.absent", f"{address}: expected a stored blob, found none")
        try:
            root = (self._path(WHOLE, address) / ROOT).read_bytes()
            return root, check_root(parse(address), root)
        except (OSError, Refused) as error:
            raise self._corrupt(address, error) from error

    def _read_chunk(self, address: str, manifest: Manifest, index: int) -> bytes:
        require_index(manifest, index)
        try:
            with _opened(self._path(WHOLE, address) / CONTENT, os.O_RDONLY) as file:
                chunk = os.pread(file, CHUNK_BYTES, index * CHUNK_BYTES)
            check_chunk(manifest, index, chunk)
        except (OSError, Refused) as error:
            raise self._corrupt(address, error) from error
        return chunk

    def _corrupt(self, address: str, error: OSError | Refused) -> Refused:
        if address not in self._whole:  # deleted since the reader began
            return Refused("blob.absent", f"{address}: expected a stored blob, found none")
        found = error.message if isinstance(error, Refused) else error.strerror
        return Refused(
            "blob.corrupt",
            f"{self._path(WHOLE, address)} is damaged: {found}. Delete that folder, check the "
            "disk, and start the node: the blob is fetched from other validators again",
        )

    # Inside the lock

    def _add(self, chunks: Iterable[bytes]) -> str:
        address, manifest = summarise(chunks)
        if manifest is None:
            self.begin(address, b"".join(chunks), OURS)
            return address
        missing = set(self.begin(address, pack(manifest), OURS))
        for index, chunk in enumerate(chunks):
            if index in missing:
                self.put(address, index, chunk)
        return address

    def _reopen(self, path: Path) -> None:
        """Take up a partial that an earlier run left; one without a valid root is removed."""
        try:
            manifest = check_root(parse(path.name), (path / ROOT).read_bytes())
            owner = (path / OWNER).read_text()
        except (OSError, Refused):
            manifest = None
        if manifest is None or not (path / CONTENT).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            self._partials[path.name] = _Partial(owner, manifest, None)

    def _progress(self, address: str) -> tuple[int, ...]:
        """The numbers of a partial's missing chunks; it is whole as soon as there are none."""
        partial = self._partials.pop(address)
        self._partials[address] = partial  # now the last one touched
        held = self._held(address)
        missing = tuple(i for i in range(len(partial.manifest.chunks)) if i not in held)
        if not missing:
            (self._path(PARTIAL, address) / OWNER).unlink(missing_ok=True)
            self._complete(address)
            del self._partials[address]
        return missing

    def _held(self, address: str) -> set[int]:
        """The chunks that a partial holds, by what is on disk when it is first asked for."""
        partial = self._partials[address]
        if partial.held is None:
            partial.held = set()
            with _opened(self._path(PARTIAL, address) / CONTENT, os.O_RDONLY) as file:
                for index in range(-(-os.fstat(file).st_size // CHUNK_BYTES)):
                    try:
                        chunk = os.pread(file, CHUNK_BYTES, index * CHUNK_BYTES)
                        check_chunk(partial.manifest, index, chunk)
                    except Refused:
                        continue
                    partial.held.add(index)
        return partial.held

    def _require_room(self, size: int) -> None:
        used = sum(self._whole.values())
        used += sum(partial.manifest.size for partial in self._partials.values())
        if used + size > self._bytes_max:
            raise Refused(
                "blob.store_full",
                f"expected room for {size} bytes, found {self._bytes_max - used} of "
                f"{self._bytes_max} left: raise the store's bound or delete blobs",
            )

    def _drop_partials_for(self, owner: str, size: int) -> None:
        """Make way for a partial of `size` bytes, at the cost of its own owner where possible."""
        own = [address for address, partial in self._partials.items() if partial.owner == owner]
        promised = self.promised(owner)
        while len(own) >= PARTIALS_OF_OWNER_MAX or promised + size > OWNER_BYTES_MAX:
            promised -= self._partials[own[0]].manifest.size
            self.delete(own.pop(0))
        if len(self._partials) >= PARTIALS_MAX:
            self.delete(next(iter(self._partials)))

    def _create(self, address: str, files: dict[str, bytes]) -> None:
        """Write the folder of a partial; nothing of it stays if the disk is full."""
        path = self._path(PARTIAL, address)
        shutil.rmtree(path, ignore_errors=True)
        try:
            path.mkdir()
            for name, data in files.items():
                with _opened(path / name, os.O_WRONLY | os.O_CREAT) as file:
                    write_at(file, data, 0)
                    os.fsync(file)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def _complete(self, address: str) -> None:
        path = self._path(PARTIAL, address)
        sync_folder(path)
        whole = path.rename(self._path(WHOLE, address))
        sync_folder(self._folder / WHOLE)
        self._whole[address] = _bytes_in(whole)

    def _path(self, part: str, address: str) -> Path:
        return self._folder / part / address


class FileChunks:
    """A file's content in chunks, as often as it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*"))


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn a full disk into a refusal; any other failure of the disk stops the caller."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise Refused(
            "blob.disk_full",
            f"{folder}: expected room on the disk, found none ({error.strerror}): free some and "
            "send again; what was stored before is intact",
        ) from error
