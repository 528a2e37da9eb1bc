"""The journal's bytes: what a replica must remember of its own promises, and how it is framed.

A frame is

    length of body (4 bytes, big-endian) || CRC-32 of those 4 bytes || CRC-32 of body || body || a5

and the body is the canonical encoding of one entry. The length has its own checksum, so that a
damaged length in the middle cannot pass for a short tail; the last byte is never zero, so that a
complete frame cannot pass for a zero-filled one. Damage is judged by a rule: a short or zero-filled
tail was never synced, so nothing that relied on it was sent, and it is cut off. Any other damage
means that promises may be lost, and is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias
from zlib import crc32

from consensus.message import (
    ENVELOPE_BYTES_MAX,
    CommitCertificate,
    Envelope,
    Payload,
    PreparedCertificate,
)
from vm.certificate import CheckpointCertificate
from vm.refusal import Refused
from vm.shape import Count, Height, pack, unpack

FRAME_HEADER_BYTES = 12
FRAME_END = b"\xa5"  # no single flipped bit makes it zero
FRAME_BYTES_MAX = ENVELOPE_BYTES_MAX  # the largest entry is an envelope or a payload


@dataclass(frozen=True, slots=True)
class Said:
    """A message: our own before it is sent, or another's proposal or new view that we accepted."""

    TAG: ClassVar[str] = "said"
    VERSION: ClassVar[int] = 1

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Held:
    """A payload that other entries name by digest, the newest of them for `sequence`."""

    TAG: ClassVar[str] = "held"
    VERSION: ClassVar[int] = 1

    sequence: Height
    payload: Payload


@dataclass(frozen=True, slots=True)
class Stable:
    """The newest stable checkpoint: everything up to its height may be forgotten."""

    TAG: ClassVar[str] = "stable"
    VERSION: ClassVar[int] = 1

    certificate: CheckpointCertificate


@dataclass(frozen=True, slots=True)
class Section:
    """What follows, up to the next section, was written in this epoch."""

    TAG: ClassVar[str] = "section"
    VERSION: ClassVar[int] = 1

    epoch: Count


Entry: TypeAlias = Said | Held | Stable | Section | PreparedCertificate | CommitCertificate


@dataclass(frozen=True, slots=True)
class _Record:
    """An entry as the body of a frame."""

    VERSION: ClassVar[int] = 1

    entry: Entry


def frame(entry: Entry) -> bytes:
    """The bytes to append for one entry."""
    body = pack(_Record(entry))
    assert len(body) <= FRAME_BYTES_MAX, f"an entry of {len(body)} bytes breaks its bound"
    length = len(body).to_bytes(4, "big")
    return b"".join((length, _checksum(length), _checksum(body), body, FRAME_END))


def read_frames(data: bytes) -> tuple[Sequence[Entry], int]:
    """The entries in `data`, oldest first, and the length up to which it is good.

    A length below `len(data)` means a torn tail: truncate the file there before appending. Raises
    `Refused("journal.damaged")` for damage that cannot be a torn write.
    """
    written = len(data.rstrip(b"\0"))
    entries: list[Entry] = []
    start = 0
    while start < written:
        body = _body(data, start, written)
        if body is None:
            break
        try:
            entries.append(unpack(_Record, body, FRAME_BYTES_MAX).entry)
        except Refused as refusal:
            raise _damaged(start, f"an entry, found {refusal}") from refusal
        start += FRAME_HEADER_BYTES + len(body) + len(FRAME_END)
    return entries, start


def _body(data: bytes, start: int, written: int) -> bytes | None:
    """The body of the frame at `start`, or None if torn; `written` ends the non-zero bytes."""
    body_start = start + FRAME_HEADER_BYTES
    if written < body_start:
        return None
    length_bytes = data[start : start + 4]
    if data[start + 4 : start + 8] != _checksum(length_bytes):
        raise _damaged(start, "a length with its checksum, found another")
    body_end = body_start + int.from_bytes(length_bytes, "big")
    if written <= body_end:
        return None
    body = data[body_start:body_end]
    if data[start + 8 : body_start] != _checksum(body):
        raise _damaged(start, "a body with its checksum, found another")
    if data[body_end : body_end + 1] != FRAME_END:
        raise _damaged(start, "the end of a frame, found another byte")
    return body


def _checksum(data: bytes) -> bytes:
    return crc32(data).to_bytes(4, "big")


def _damaged(start: int, what: str) -> Refused:
    return Refused("journal.damaged", f"at byte {start}: expected {what}")
