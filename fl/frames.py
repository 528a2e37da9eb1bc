"""What a site's own training loop and its training peer say to each other: frames of messages.

A frame is four bytes of length and the canonical encoding of one message, of bounded size. Arrays
follow the message that announces them, in `Part`s, as little-endian numbers whose count both sides
know. Pure: `fl.loop` has the script's end of the socket, `node.peer.loop` the peer's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from vm.record import ModelSpec
from vm.refusal import Refused
from vm.shape import Bytes, Code, Count, Digest, Name, Note, pack, unpack
from vm.terms import Training

LENGTH_BYTES = 4
PART_BYTES_MAX = 1024 * 1024
FRAME_BYTES_MAX = 2 * PART_BYTES_MAX  # the spec of the deepest model takes far less
STATES_MAX = 4  # numbers of optimizer state for each parameter; Adam with AMSGrad has three


@dataclass(frozen=True, slots=True)
class Join:
    """A script asks for the next round of a task; it names itself and its environment by digests.

    `scored`: it will hand over an update alone, without snapshots on the way.
    """

    TAG: ClassVar[str] = "join"
    VERSION: ClassVar[int] = 1

    task: Name
    script: Digest
    environment: Digest
    scored: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """A round to train. Follow: weights (int32), inputs (float64), labels (int64) of its rows.

    `last`: the task is done when this round closes. `inputs` are the numbers in one row.
    """

    TAG: ClassVar[str] = "offer"
    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    last: bool
    beacon: Digest
    spec: ModelSpec
    grid_bits: Count
    training: Training
    rows: Count
    inputs: Count


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an array."""

    TAG: ClassVar[str] = "part"
    VERSION: ClassVar[int] = 1

    data: Annotated[bytes, Bytes(1, PART_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot after segment `index`. Follow: weights, then `state` numbers, int32 both."""

    TAG: ClassVar[str] = "kept"
    VERSION: ClassVar[int] = 1

    index: Count
    state: Count


@dataclass(frozen=True, slots=True)
class Taken:
    """The peer has the snapshot; `done` says that it has the whole update."""

    TAG: ClassVar[str] = "taken"
    VERSION: ClassVar[int] = 1

    done: bool


@dataclass(frozen=True, slots=True)
class Turned:
    """The peer refuses, and says why; it closes the connection."""

    TAG: ClassVar[str] = "turned"
    VERSION: ClassVar[int] = 1

    code: Code
    reason: Note


Message: TypeAlias = Join | Offer | Part | Kept | Taken | Turned


@dataclass(frozen=True, slots=True)
class _Envelope:
    VERSION: ClassVar[int] = 1

    message: Join | Offer | Part | Kept | Taken | Turned


def frame(message: Message) -> bytes:
    """The bytes of one message on the socket."""
    data = pack(_Envelope(message))
    assert len(data) <= FRAME_BYTES_MAX, f"{len(data)} bytes in a frame"
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def length(head: bytes) -> int:
    """How many bytes follow the first four; raises `Refused("loop.frame")`."""
    size = int.from_bytes(head, "big")
    if len(head) != LENGTH_BYTES or not 0 < size <= FRAME_BYTES_MAX:
        raise Refused(
            "loop.frame", f"expected a frame of 1 to {FRAME_BYTES_MAX} bytes, found {size}"
        )
    return size


def message(data: bytes) -> Message:
    """The message in a frame; raises `Refused("encoding.*" | "shape.*")`."""
    return unpack(_Envelope, data, FRAME_BYTES_MAX).message


def parts(data: bytes) -> Iterator[bytes]:
    """The frames of an array's bytes."""
    for start in range(0, len(data), PART_BYTES_MAX):
        yield frame(Part(data[start : start + PART_BYTES_MAX]))


class Array:
    """An array of `size` bytes that comes in parts."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: list[bytes] = []
        self._missing = size

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return self._missing

    def add(self, found: Message) -> None:
        """Take the next part; raises `Refused("loop.part")` for one too long and for no part."""
        if not isinstance(found, Part) or len(found.data) > self._missing:
            raise Refused(
                "loop.part", f"expected {self._missing} more bytes of an array, found another"
            )
        self._parts.append(found.data)
        self._missing -= len(found.data)

    def bytes(self) -> bytes:
        """All of it."""
        assert not self._missing, f"{self._missing} bytes are missing"
        return b"".join(self._parts)


def expect(found: Message, wanted: type[Taken] | type[Offer]) -> Message:
    """`found` if it is of the wanted kind; raises what the peer refused, or `loop.message`."""
    match found:
        case Turned(code, reason):
            raise Refused(code, reason)
    if not isinstance(found, wanted):
        raise Refused("loop.message", f"expected {wanted.TAG}, found {found.TAG}")
    return found
