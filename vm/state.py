"""The state as records: reads fall through to what is stored, writes gather until they are kept."""

from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Protocol, TypeVar

from vm.encoding import encode_checked
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.sparse import VALUE_BYTES_MAX


class Record(Protocol):
    """What the state holds: a packable dataclass that knows its kind and key."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int]

    @property
    def key(self) -> tuple[str | int, ...]:
        """What tells it from others of its kind."""
        ...


R = TypeVar("R", bound=Record)

DECODED_MAX = 512  # records kept decoded: a task of 256 columns takes 10 ms to read, and is frozen
READS_MAX = 4_096  # records that one overlay remembers: of a full block, two for each transaction
DECODED_BYTES_MAX = 64 * 1024  # of a record that is kept: 32 MiB of packed bytes at most


def state_key(kind: str, key: tuple[str | int, ...]) -> bytes:
    """The bytes under which the state tree holds a record."""
    return encode_checked((kind, *key))


class State:
    """Records over `read`, which gives the stored bytes of a state key or None.

    What is stored does not change under it, so the first `READS_MAX` records read are remembered.
    Writes since construction are in `writes`. `mark` and `rewind` undo the writes of a transaction
    that failed.
    """

    __slots__ = ("_read", "_seen", "_undo", "writes")

    def __init__(self, read: Callable[[bytes], bytes | None]) -> None:
        self._read = read
        self._seen: dict[bytes, bytes | None] = {}
        self.writes: dict[bytes, bytes] = {}
        self._undo: list[tuple[bytes, bytes | None]] = []

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record of class `cls` under `key`, if there is one."""
        name = state_key(cls.KIND, key)
        data = self.writes.get(name)
        if data is None:
            data = self._stored(name)
        return None if data is None else _decode(cls, data)

    def _stored(self, name: bytes) -> bytes | None:
        if name in self._seen:
            return self._seen[name]
        data = self._read(name)
        if len(self._seen) < READS_MAX:
            self._seen[name] = data
        return data

    def require(self, cls: type[R], *key: str | int) -> R:
        """The record under `key`; raises `Refused("state.missing")`."""
        record = self.get(cls, *key)
        if record is None:
            label = " ".join(str(part) for part in key)
            raise Refused("state.missing", f"expected {cls.KIND} {label[:120]}, found none")
        return record

    def put(self, record: Record) -> None:
        """Write `record`, in place of the one with its key."""
        name = state_key(record.KIND, record.key)
        self._undo.append((name, self.writes.get(name)))
        self.writes[name] = pack(record)

    def mark(self) -> None:
        """Everything written so far stays."""
        self._undo.clear()

    def rewind(self) -> None:
        """Undo what was written since the mark."""
        while self._undo:
            name, before = self._undo.pop()
            if before is None:
                del self.writes[name]
            else:
                self.writes[name] = before


def _decode(cls: type[R], data: bytes) -> R:
    return _remember(cls, data) if len(data) <= DECODED_BYTES_MAX else _unpack(cls, data)


def _unpack(cls: type[R], data: bytes) -> R:
    return unpack(cls, data, VALUE_BYTES_MAX)


_remember = lru_cache(maxsize=DECODED_MAX)(_unpack)
