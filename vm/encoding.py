"""Canonical msgpack: every value has exactly one encoding, and only that one is read.

The subset is None, bool, int, str, bytes and arrays. Maps, floats and extensions are refused, so
nothing depends on key order or on rounding. See docs/protocol.md, section "Encoding".
"""

from typing import TypeAlias

import msgpack

from vm.refusal import Refused

Value: TypeAlias = None | bool | int | str | bytes | tuple["Value", ...]

MESSAGE_BYTES_MAX = 8 * 1024 * 1024  # nothing that is decoded whole is larger; blobs are chunked
INT_MIN = -(2**63)  # what msgpack can carry
INT_MAX = 2**64 - 1


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`. A value outside the subset is our own bug."""
    assert _encodable(value), f"not an encodable value: {type(value).__name__}"
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def decode(data: bytes, bytes_max: int = MESSAGE_BYTES_MAX) -> Value:
    """The value whose canonical encoding is `data`; raises `Refused("encoding.*")`.

    Lengths are bounded by the length of `data` itself before anything is allocated, and the value
    must encode to the same bytes again, which excludes longer forms and trailing bytes.
    """
    if len(data) > bytes_max:
        raise Refused(
            "encoding.too_large", f"expected at most {bytes_max} bytes, found {len(data)}"
        )
    try:
        value: Value = msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            max_str_len=len(data),
            max_bin_len=len(data),
            max_array_len=len(data),
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise Refused("encoding.malformed", f"expected msgpack, found: {reason[:120]}") from error
    if not _encodable(value) or encode(value) != data:
        raise Refused("encoding.not_canonical", "expected the shortest canonical msgpack form")
    return value


def _encodable(value: object) -> bool:
    """Whether `value` lies in the subset, without recursing (depth comes from the wire)."""
    pending = [value]
    while pending:
        item = pending.pop()
        if item is None or isinstance(item, (bool, str, bytes)):
            continue
        if isinstance(item, int):
            if not INT_MIN <= item <= INT_MAX:
                return False
        elif isinstance(item, tuple):
            pending.extend(item)
        else:
            return False
    return True
