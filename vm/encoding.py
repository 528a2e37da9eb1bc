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
DEPTH_MAX = 32  # arrays around an item; a new-view with its certificates needs about half


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`. A value outside the subset is our own bug."""
    assert _in_subset(value), f"not an encodable value: {type(value).__name__}"
    return _pack(value)


def decode(data: bytes, bytes_max: int = MESSAGE_BYTES_MAX) -> Value:
    """The value whose canonical encoding is `data`.

    Lengths are bounded by the length of `data` itself before anything is allocated, and the value
    must encode to the same bytes again, which excludes longer forms. Raises `Refused` with
    `encoding.too_large`, `.malformed`, `.subset` (a type or a depth that we do not use) or
    `.not_canonical`.
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
    except (ValueError, msgpack.UnpackException) as error:
        # Not the library's words: refusals stand in receipts, which must be alike everywhere.
        raise Refused(
            "encoding.malformed",
            f"expected one msgpack value, found {len(data)} bytes that are not",
        ) from error
    if not _in_subset(value):
        raise Refused(
            "encoding.subset",
            "expected only nil, booleans, integers, text, bytes and arrays up to "
            f"{DEPTH_MAX} deep, found another type or more depth",
        )
    if _pack(value) != data:
        raise Refused("encoding.not_canonical", "expected the shortest form, found a longer one")
    return value


def _pack(value: Value) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _in_subset(value: object) -> bool:
    """Whether `value` may be encoded; level by level, for its depth may come from the wire."""
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        inside: list[object] = []
        for item in level:
            if type(item) is tuple:  # not a subclass: msgpack's own extension type is one
                inside.extend(item)
            elif isinstance(item, int):
                if not INT_MIN <= item <= INT_MAX:
                    return False
            elif item is not None and not isinstance(item, (str, bytes)):
                return False
        if not inside:
            return True
        level = inside
    return False
