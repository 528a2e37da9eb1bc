"""Opaque positions in a list: base64url of canonical bytes, sealed to the query they came from.

The seal is no secret: a position is not a privilege. It keeps clients from building cursors, and
finds one that was cut, altered or brought to another list.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm.digest import digest
from vm.encoding import encode
from vm.refusal import Refused
from vm.shape import Bytes, Digest, pack, unpack
from vm.sparse import KEY_BYTES_MAX

TAG = "concilium.cursor.v1"
CURSOR_BYTES_MAX = 512  # of text: a key of 256 bytes and the seal take 390


@dataclass(frozen=True, slots=True)
class Cursor:
    """After which key to go on, and the digest of query and key."""

    VERSION: ClassVar[int] = 1

    after: Annotated[bytes, Bytes(1, KEY_BYTES_MAX)]
    seal: Digest


def write_cursor(query: str, after: bytes) -> str:
    """The cursor of the list `query` (its path and filters) after the item `after`."""
    data = pack(Cursor(after, _seal(query, after)))
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def read_cursor(query: str, text: str) -> bytes:
    """The key after which to go on; raises `Refused("cursor.invalid")`."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = unpack(Cursor, data, CURSOR_BYTES_MAX)
    except (Refused, ValueError, binascii.Error):
        raise _invalid() from None
    if write_cursor(query, cursor.after) != text:
        raise _invalid()
    return cursor.after


def _seal(query: str, after: bytes) -> Digest:
    return digest(TAG, encode((query, after)))


def _invalid() -> Refused:
    return Refused(
        "cursor.invalid",
        "expected a cursor that this list gave out as `next`, found another; begin without one",
    )
