"""The state as it was at one certified height: what reads are served from."""

from collections.abc import Iterator
from typing import TypeVar

from node.validator.store import BlockRow, Store
from vm import sparse
from vm.certificate import CheckpointCertificate
from vm.shape import unpack
from vm.state import Record, state_key

R = TypeVar("R", bound=Record)


class View:
    """The state as it was at one certified height: what reads are served from.

    `certificate` is of that height, or of a later one whose history holds its header.
    """

    __slots__ = ("_store", "certificate", "row")

    def __init__(self, store: Store, certificate: CheckpointCertificate, row: BlockRow) -> None:
        self._store = store
        self.certificate = certificate
        self.row = row

    @property
    def height(self) -> int:
        """The height whose state it is."""
        return self.row.header.height

    def at(self, certificate: CheckpointCertificate, row: BlockRow) -> "View":
        """The state at another height of the same store."""
        return View(self._store, certificate, row)

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record of class `cls` under `key` at this height."""
        data = self._store.read(self.row.root, state_key(cls.KIND, key))
        return None if data is None else unpack(cls, data, sparse.VALUE_BYTES_MAX)

    def read(self, key: bytes) -> bytes | None:
        """The bytes of a state key at this height."""
        return self._store.read(self.row.root, key)

    def path(self, cls: type[R], *key: str | int) -> sparse.StatePath:
        """The inclusion or non-inclusion path of a record at this height."""
        return sparse.prove(self._store.node, self.row.root, state_key(cls.KIND, key))

    def list(self, cls: type[R], prefix: tuple[str | int, ...], arity: int) -> Iterator[R]:
        """Records of a class whose key of `arity` parts starts with `prefix`, in order of key."""
        for key in self._store.keys(cls.KIND, prefix, arity):
            data = self.read(key)
            if data is not None:  # else: written by a block not certified yet
                yield unpack(cls, data, sparse.VALUE_BYTES_MAX)
