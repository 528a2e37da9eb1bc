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
# Of one message, arrays among them: one for each 16 bytes. The densest that honest nodes send is
# made of votes, four items in 70 bytes and more. Without it a byte of the wire costs 60 of memory.
ITEMS_MAX = MESSAGE_BYTES_MAX // 16
# Not counted, for an item takes a byte at least; and however their arrays lie inside each other and
# whatever each says of its length, the decoder takes no more than 3 MiB for them.
UNCOUNTED_BYTES_MAX = 1024
PACKER_BYTES = 512  # that packing begins with, and doubles as needed; by itself it takes a mebibyte

_ARRAYS = {0xDC: 2, 0xDD: 4}  # bytes of the number of items, by first byte
_MAPS = {0xDE: 2, 0xDF: 4}
_STRINGS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes of the length
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}  # bytes of the length, without the type that follows
_FIXED = {
    **dict.fromkeys((0xCC, 0xD0), 2),
    **dict.fromkeys((0xCD, 0xD1), 3),
    **dict.fromkeys((0xCA, 0xCE, 0xD2), 5),
    **dict.fromkeys((0xCB, 0xCF, 0xD3), 9),
    **{0xD4 + power: 2 + 2**power for power in range(5)},
    **{0xA0 + length: 1 + length for length in range(32)},
}
_SIZES = tuple(  # of an item in bytes, by its first byte; 0 where more must be read to know
    0
    if 0x81 <= head <= 0x9F or head in {**_ARRAYS, **_MAPS, **_STRINGS, **_EXTENSIONS}
    else _FIXED.get(head, 1)
    for head in range(256)
)


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`. A value outside the subset is our own bug."""
    assert _in_subset(value), f"not an encodable value: {type(value).__name__}"
    return _pack(value)


def encode_checked(value: Value) -> bytes:
    """`encode` of what a codec or the types of a caller have confined to the subset already."""
    return _pack(value)


def decode(data: bytes, bytes_max: int = MESSAGE_BYTES_MAX, items_max: int = ITEMS_MAX) -> Value:
    """The value whose canonical encoding is `data`.

    It must encode to the same bytes again, which excludes longer forms.
    Raises `Refused` as `parse`, `check_subset` and `check_canonical` do.
    """
    value = parse(data, bytes_max, items_max)
    check_subset(value)
    check_canonical(value, data)
    return value


def parse(data: bytes, bytes_max: int, items_max: int) -> Value:
    """The msgpack value in `data`, in whatever form; it is not one of ours before two more checks.

    Items are counted, and lengths bounded by the length of `data` itself, before anything is
    allocated. Raises `Refused` with `encoding.too_large`, `.too_many` or `.malformed`.
    """
    if len(data) > bytes_max:
        raise Refused(
            "encoding.too_large", f"expected at most {bytes_max} bytes, found {len(data)}"
        )
    try:
        if len(data) > min(items_max, UNCOUNTED_BYTES_MAX) and _count(data, items_max) > items_max:
            raise Refused("encoding.too_many", f"expected at most {items_max} items, found more")
        # by itself it allows no text, bytes or array longer than `data`
        value: Value = msgpack.unpackb(data, use_list=False, max_map_len=0, max_ext_len=0)
    except (IndexError, ValueError, msgpack.UnpackException) as error:
        # Not the library's words: refusals stand in receipts, which must be alike everywhere.
        raise Refused(
            "encoding.malformed",
            f"expected one msgpack value, found {len(data)} bytes that are not",
        ) from error
    return value


def check_subset(value: Value) -> None:
    """Raise `Refused("encoding.subset")` for a type or a depth that we do not use."""
    if not _in_subset(value):
        raise Refused(
            "encoding.subset",
            "expected only nil, booleans, integers, text, bytes and arrays up to "
            f"{DEPTH_MAX} deep, found another type or more depth",
        )


def check_canonical(value: Value, data: bytes) -> None:
    """Raise `Refused("encoding.not_canonical")` if `data` is not the encoding of `value`."""
    if _pack(value) != data:
        raise Refused("encoding.not_canonical", "expected the shortest form, found a longer one")


def _count(data: bytes, items_max: int) -> int:
    """How many items the value in `data` has; no further than the array that passes `items_max`.

    Reads first bytes and lengths only. Raises IndexError or ValueError where bytes are missing;
    what else is wrong with them the decoder says.
    """
    count, due, at, end = 1, 1, 0, len(data)
    while due:
        head = data[at]
        size = _SIZES[head]
        due -= 1
        if size:
            at += size
            continue
        if head == 0xC4:  # short bytes: digests and keys are most of what we read
            at += 2 + data[at + 1]
            continue
        at, inside = _open(data, at, head)
        count += inside
        due += inside
        if due > end - at:  # an item takes a byte at least
            raise ValueError
        if count > items_max:
            return count
    return count


def _open(data: bytes, at: int, head: int) -> tuple[int, int]:
    """Where the item at `at`, of variable size, ends or its first item begins; items inside."""
    if head < 0x90:
        return at + 1, 2 * (head & 0x0F)
    if head < 0xA0:
        return at + 1, head & 0x0F
    for widths, items, more in (
        (_ARRAYS, 1, 0),
        (_MAPS, 2, 0),
        (_STRINGS, 0, 0),
        (_EXTENSIONS, 0, 1),
    ):
        if head in widths:
            start = at + 1 + widths[head]
            length = int.from_bytes(data[at + 1 : start], "big")
            return (start, items * length) if items else (start + length + more, 0)
    raise AssertionError(f"{head:#x} has a fixed size")


def _pack(value: Value) -> bytes:
    packed: bytes = msgpack.Packer(buf_size=PACKER_BYTES).pack(value)
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
