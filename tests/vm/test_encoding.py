"""Canonical msgpack: one value, one encoding, and no hostile bytes that do harm."""

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.encoding import (
    DEPTH_MAX,
    INT_MAX,
    INT_MIN,
    ITEMS_MAX,
    MESSAGE_BYTES_MAX,
    Value,
    decode,
    encode,
)
from vm.refusal import Refused

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(INT_MIN, INT_MAX),
    st.text(max_size=40),
    st.binary(max_size=40),
)
items = st.recursive(scalars, lambda inner: st.lists(inner, max_size=20).map(tuple), max_leaves=30)


def refusal_of(data: bytes, bytes_max: int = MESSAGE_BYTES_MAX, items_max: int = ITEMS_MAX) -> str:
    """The code with which `data` is refused, or "" if it is read."""
    try:
        decode(data, bytes_max, items_max)
    except Refused as refused:
        return refused.code
    return ""


def count_items(value: Value) -> int:
    """The items of `value`: itself, and what stands in it."""
    return 1 + sum(map(count_items, value)) if isinstance(value, tuple) else 1


@given(value=items)
def test_a_value_reads_back_as_it_was(value: Value) -> None:
    """Decoding is the inverse of encoding, types included: True is not 1, text is not bytes."""
    data = encode(value)

    again = decode(data)

    assert again == value
    assert repr(again) == repr(value)


@given(data=st.binary(max_size=60))
def test_only_bytes_that_encode_to_themselves_are_read(data: bytes) -> None:
    """Any bytes are either refused or exactly the encoding of what they say."""
    refused = refusal_of(data)

    assert refused.startswith("encoding.") or encode(decode(data)) == data


@given(value=items, data=st.data())
def test_a_damaged_encoding_never_reads_as_the_same_value(
    value: Value, data: st.DataObject
) -> None:
    """One byte changed, cut off or added gives another value or a refusal."""
    whole = encode(value)
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytes((whole[place] ^ data.draw(st.integers(1, 255)),))

    for damaged in (whole[:place] + flipped + whole[place + 1 :], whole[:place], whole + b"\xc0"):
        try:
            again = decode(damaged)
        except Refused:
            continue
        assert repr(again) != repr(value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("c0", None),
        ("c2", False),
        ("c3", True),
        ("00", 0),
        ("7f", 127),
        ("cc80", 128),
        ("ccff", 255),
        ("cd0100", 256),
        ("cdffff", 2**16 - 1),
        ("ce00010000", 2**16),
        ("ceffffffff", 2**32 - 1),
        ("cf0000000100000000", 2**32),
        ("cfffffffffffffffff", 2**64 - 1),
        ("ff", -1),
        ("e0", -32),
        ("d0df", -33),
        ("d080", -128),
        ("d1ff7f", -129),
        ("d18000", -(2**15)),
        ("d2ffff7fff", -(2**15) - 1),
        ("d280000000", -(2**31)),
        ("d3ffffffff7fffffff", -(2**31) - 1),
        ("d38000000000000000", -(2**63)),
        ("a0", ""),
        ("bf" + "61" * 31, "a" * 31),
        ("d920" + "61" * 32, "a" * 32),
        ("d9ff" + "61" * 255, "a" * 255),
        ("da0100" + "61" * 256, "a" * 256),
        ("c400", b""),
        ("c4ff" + "61" * 255, b"a" * 255),
        ("c50100" + "61" * 256, b"a" * 256),
        ("90", ()),
        ("9f" + "c0" * 15, (None,) * 15),
        ("dc0010" + "c0" * 16, (None,) * 16),
    ],
)
def test_the_shortest_form_of_each_kind(data: str, value: Value) -> None:
    """At each border between two forms of msgpack, the shorter one is written and read."""
    assert encode(value).hex() == data
    assert repr(decode(bytes.fromhex(data))) == repr(value)


@pytest.mark.parametrize(
    "data",
    [
        "cc7f",  # 127 in two bytes
        "cd00ff",
        "ce0000ffff",
        "cf00000000ffffffff",
        "d000",  # 0 as signed
        "d07f",
        "d0e0",  # -32 in two bytes
        "d1ff80",
        "d100ff",
        "d2ffff8000",
        "d3ffffffff80000000",
        "d90161",  # "a" with a length byte
        "da000161",
        "db0000000161",
        "c5000161",  # b"a" with two length bytes
        "c60000000161",
        "dc0000",
        "dc000f" + "c0" * 15,
        "dd0000000100",
        "91cc7f",  # inside an array
    ],
)
def test_a_longer_form_is_refused(data: str) -> None:
    """The same value in more bytes would give it a second digest."""
    assert refusal_of(bytes.fromhex(data)) == "encoding.not_canonical"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", "encoding.malformed"),
        ("c1", "encoding.malformed"),  # never used by msgpack
        ("c0c0", "encoding.malformed"),  # trailing
        ("92c0", "encoding.malformed"),  # cut off
        ("a261", "encoding.malformed"),
        ("c4ff61", "encoding.malformed"),
        ("a1ff", "encoding.malformed"),  # not UTF-8
        ("a3eda080", "encoding.malformed"),  # half a surrogate pair
        ("a2c080", "encoding.malformed"),  # an overlong NUL
        ("81a16101", "encoding.malformed"),  # a map
        ("de0001a16101", "encoding.malformed"),
        ("80", "encoding.subset"),  # an empty map
        ("9180", "encoding.subset"),
        ("ca3f800000", "encoding.subset"),  # 1.0
        ("cb3ff0000000000000", "encoding.subset"),
        ("cb7ff8000000000000", "encoding.subset"),  # not a number
        ("d40500", "encoding.malformed"),  # an extension
        ("d6ff00000000", "encoding.malformed"),  # a timestamp
        ("c70005", "encoding.subset"),  # an empty extension, to Python a tuple
        ("91c70005", "encoding.subset"),
        ("c700ff", "encoding.malformed"),
    ],
)
def test_what_is_no_canonical_value_is_refused(data: str, code: str) -> None:
    """Maps, floats, extensions, torn and trailing bytes are refused, each with its code."""
    assert refusal_of(bytes.fromhex(data)) == code


@pytest.mark.parametrize("head", ["db", "c6", "dd", "df", "c9"])
def test_a_huge_declared_length_costs_nothing(head: str) -> None:
    """Four billion declared bytes or items, none of them there, are refused at once."""
    bomb = bytes.fromhex(head) + b"\xff" * 4

    assert refusal_of(bomb) == "encoding.malformed"
    assert refusal_of(bomb + bytes(100)) == "encoding.malformed"
    assert refusal_of((b"\xdd" + b"\xff" * 4) * 100) == "encoding.malformed"


def test_depth_is_bounded_for_reader_and_writer() -> None:
    """DEPTH_MAX arrays around an item are read; one more, or ten thousand, are refused."""
    deepest: Value = None
    for _ in range(DEPTH_MAX):
        deepest = (deepest,)

    assert decode(encode(deepest)) == deepest
    assert refusal_of(b"\x91" * DEPTH_MAX + b"\x90") == ""
    assert refusal_of(b"\x91" * (DEPTH_MAX + 1) + b"\xc0") == "encoding.subset"
    assert refusal_of(b"\x91" * 600 + b"\xc0") == "encoding.subset"
    assert refusal_of(b"\x91" * 10_000 + b"\xc0") == "encoding.malformed"
    with pytest.raises(AssertionError):
        encode((deepest,))


def test_size_is_bounded() -> None:
    """Exactly `bytes_max` bytes are read; one more is refused before it is looked at."""
    data = encode(b"x" * 100)

    assert refusal_of(data, len(data)) == ""
    assert refusal_of(data, len(data) - 1) == "encoding.too_large"
    assert refusal_of(b"\xc1" * (MESSAGE_BYTES_MAX + 1)) == "encoding.too_large"


@pytest.mark.parametrize(
    "value",
    [1.0, {}, [1], {1}, INT_MAX + 1, INT_MIN - 1, (1, (2.0,)), msgpack.ExtType(5, b""), object()],
)
def test_a_value_outside_the_subset_is_our_own_bug(value: object) -> None:
    """The writer asserts; nothing that cannot be read is ever written."""
    with pytest.raises(AssertionError, match="not an encodable value"):
        encode(value)  # type: ignore[arg-type]


def test_a_refusal_says_the_same_everywhere() -> None:
    """Refusals stand in receipts, so their words hold nothing of the msgpack library's."""
    with pytest.raises(Refused) as refused:
        decode(b"\xc1")

    assert refused.value.message == "expected one msgpack value, found 1 bytes that are not"


def test_items_are_counted_before_any_is_built() -> None:
    """A byte is an item at least: eight million of them, however nested, are refused by count."""
    many = MESSAGE_BYTES_MAX // 2 - 8
    flat = b"\xdd" + many.to_bytes(4, "big") + b"\xc0" * many
    pairs = b"\xdd" + many.to_bytes(4, "big") + b"\x91\x01" * many
    # each array would take room for its items before the first is read
    nested = (b"\xdd" + (many // 500).to_bytes(4, "big")) * 500 + b"\xc0" * many
    maps = b"\xdf" + many.to_bytes(4, "big") + b"\x80" * 2 * many

    tracemalloc.start()
    try:
        codes = [refusal_of(data) for data in (flat, pairs, nested, maps)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert codes == ["encoding.too_many"] * 4
    assert peak < 1024 * 1024


@pytest.mark.parametrize("size", [512, 1_024, 64 * 1024])
def test_nested_claims_take_no_memory_in_short_data(size: int) -> None:
    """Each array says that it fills the data, and the decoder takes room before it reads on."""
    head = b"\xdd" + size.to_bytes(4, "big")
    data = (head * (size // len(head)) + bytes(size))[:size]

    tracemalloc.start()
    try:
        code = refusal_of(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert code == "encoding.malformed"
    assert peak < 3 * 1024 * 1024


@given(value=items)
def test_every_item_counts_arrays_among_them(value: Value) -> None:
    """Exactly as many items as `items_max` are read; with one fewer allowed, none is."""
    data = encode(value)
    count = count_items(value)

    assert decode(data, items_max=count) == value
    with pytest.raises(Refused, match="items") as refused:
        decode(data, items_max=count - 1)
    assert refused.value.code == "encoding.too_many"


@pytest.mark.parametrize(("head", "more"), [("c4", 1), ("c5", 2), ("c6", 4), ("da", 2), ("db", 4)])
def test_what_stands_inside_a_string_is_no_item(head: str, more: int) -> None:
    """Bytes of text or of a byte string that look like arrays are not counted."""
    body = b"\x91" * 40
    text = bytes.fromhex(head) + len(body).to_bytes(more, "big") + body

    assert refusal_of(b"\x92" + text + b"\x90", items_max=3) != "encoding.too_many"
    assert refusal_of(b"\x92" + text + b"\x90", items_max=2) == "encoding.too_many"
