"""Records on the wire: every bound of every kind of field, filled and exceeded."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import shape
from vm.encoding import Value, encode
from vm.refusal import Refused
from vm.shape import Bytes, Int, Many, Text, from_value, pack, to_value, unpack


class Colour(StrEnum):
    """One of two."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Circle:
    """One of a union."""

    VERSION: ClassVar[int] = 1
    TAG: ClassVar[str] = "circle"

    radius: Annotated[int, Int(1, 9)]


@dataclass(frozen=True, slots=True)
class Square:
    """Another of the union, in its second version."""

    VERSION: ClassVar[int] = 2
    TAG: ClassVar[str] = "square"

    side: Annotated[int, Int(1, 9)]


@dataclass(frozen=True, slots=True)
class Chain7:
    """Level 7 of seven, each inside the one above."""

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Text(8)]
    more: Annotated[tuple[Circle, ...], Many(2)]


@dataclass(frozen=True, slots=True)
class Chain6:
    """Level 6 of seven, each inside the one above."""

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Text(8)]
    more: Annotated[tuple[Chain7, ...], Many(2)]


@dataclass(frozen=True, slots=True)
class Chain5:
    """Level 5 of seven, each inside the one above."""

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Text(8)]
    more: Annotated[tuple[Chain6, ...], Many(2)]


@dataclass(frozen=True, slots=True)
class Chain4:
    """Level 4 of seven, each inside the one above."""

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Text(8)]
    more: Annotated[tuple[Chain5, ...], Many(2)]


@dataclass(frozen=True, slots=True)
class Chain3:
    """Level 3 of seven, each inside the one above."""

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Text(8)]
    more: Annotated[tuple[Chain4, ...], Many(2)]


@dataclass(frozen=True, slots=True)
class Chain2:
    """Level 2 of seven, each inside the one above."""

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Text(8)]
    more: Annotated[tuple[Chain3, ...], Many(2)]


@dataclass(frozen=True, slots=True)
class Chain1:
    """Level 1 of seven, each inside the one above."""

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Text(8)]
    more: Annotated[tuple[Chain2, ...], Many(2)]


@dataclass(frozen=True, slots=True)
class Ring:
    """A class that takes the tag of another."""

    VERSION: ClassVar[int] = 1
    TAG: ClassVar[str] = "circle"


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A union that could not be read back."""

    VERSION: ClassVar[int] = 1

    figure: Circle | Ring


@dataclass(frozen=True, slots=True)
class Everything:
    """A field of each kind."""

    VERSION: ClassVar[int] = 3

    number: Annotated[int, Int(-2, 5)]
    text: Annotated[str, Text(4)]
    blob: Annotated[bytes, Bytes(1, 3)]
    flag: bool
    colour: Colour
    nested: Circle
    figure: Circle | Square
    maybe: Annotated[int, Int(0, 1)] | None
    figure_or_none: Circle | Square | None
    many: Annotated[tuple[Annotated[int, Int(0, 9)], ...], Many(3, low=1)]


@dataclass(frozen=True, slots=True)
class Aliases:
    """A field of each ready-made type."""

    VERSION: ClassVar[int] = 1

    digest: shape.Digest
    public_key: shape.PublicKey
    signature: shape.Signature
    height: shape.Height
    name: shape.Name
    code: shape.Code
    note: shape.Note
    address: shape.Address


WHOLE: tuple[Value, ...] = (
    3,
    5,
    "abcd",
    b"abc",
    True,
    "red",
    (1, 9),
    ("square", (2, 9)),
    None,
    None,
    (0, 9, 9),
)
ALIASES: tuple[Value, ...] = (
    1,
    bytes(32),
    bytes(32),
    bytes(64),
    shape.HEIGHT_MAX,
    "a" + "-" * 62 + "b",
    "a." * 23 + "aa",
    "n" * 200,
    "b" + "a" * 58,
)

everything = st.builds(
    Everything,
    number=st.integers(-2, 5),
    text=st.text("ab", max_size=4),
    blob=st.binary(min_size=1, max_size=3),
    flag=st.booleans(),
    colour=st.sampled_from(Colour),
    nested=st.builds(Circle, st.integers(1, 9)),
    figure=st.builds(Circle, st.integers(1, 9)) | st.builds(Square, st.integers(1, 9)),
    maybe=st.none() | st.integers(0, 1),
    figure_or_none=st.none() | st.builds(Square, st.integers(1, 9)),
    many=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
)


def changed(whole: tuple[Value, ...], place: int, value: Value) -> tuple[Value, ...]:
    """`whole` with one item replaced."""
    return (*whole[:place], value, *whole[place + 1 :])


def refusal(cls: type, value: Value) -> Refused:
    """The refusal that reading `value` as a `cls` ends in."""
    with pytest.raises(Refused) as refused:
        unpack(cls, encode(value))
    return refused.value


@given(item=everything)
def test_a_record_reads_back_as_it_was(item: Everything) -> None:
    """Reading is the inverse of writing, for every kind of field."""
    assert unpack(Everything, pack(item)) == item


def test_a_record_is_an_array_that_begins_with_its_version() -> None:
    """The bytes are positional: version, then fields in order; a union adds its tag."""
    item = Everything(
        5, "abcd", b"abc", True, Colour.RED, Circle(9), Square(9), None, None, (0, 9, 9)
    )

    assert to_value(item) == WHOLE
    assert pack(item) == encode(WHOLE)
    assert from_value(Everything, WHOLE) == item


@pytest.mark.parametrize(
    ("place", "good"),
    [
        (1, -2),
        (1, 5),
        (2, ""),
        (2, "éé"),  # four bytes
        (3, b"a"),
        (3, b"abc"),
        (4, False),
        (5, "blue"),
        (6, (1, 1)),
        (7, ("circle", (1, 1))),
        (8, 0),
        (8, 1),
        (9, ("circle", (1, 1))),
        (10, (0,)),
        (10, (1, 2, 3)),
    ],
)
def test_every_bound_can_be_filled(place: int, good: Value) -> None:
    """A value that lies on its bound is read."""
    item = from_value(Everything, changed(WHOLE, place, good))

    assert to_value(item) == changed(WHOLE, place, good)


@pytest.mark.parametrize(
    "value",
    [
        changed(WHOLE, 0, 3.0),  # type: ignore[arg-type]
        changed(WHOLE, 6, (1.0, 9)),  # type: ignore[arg-type]
        changed(WHOLE, 7, ("circle", (1.0, 9))),  # type: ignore[arg-type]
        changed(WHOLE, 0, True),
    ],
)
def test_a_version_is_an_integer(value: Value) -> None:
    """3.0 equals 3 and encodes to other bytes: what is signed would have a second encoding."""
    data: bytes = msgpack.packb(value)

    with pytest.raises(Refused, match=r"^(encoding\.subset|shape\.version)"):
        unpack(Everything, data)


def test_nothing_is_read_twice_to_say_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a value that lies deep would be read twice for each level above it."""
    read: list[str] = []

    def fits(text: str, bytes_max: int) -> bool:
        read.append(text)
        return len(text) <= bytes_max

    monkeypatch.setattr(shape, "_fits", fits)
    inner: Value = (1, "in", ())
    bad: Value = (1, "bad" * 9, ())
    for _ in range(6):
        bad = (1, "out", (inner, bad))

    with pytest.raises(Refused, match=r"^shape\.text: Chain1(\.more\[1\]){6}\.name: "):
        from_value(Chain1, bad)

    assert len(read) == 6 + 6 + 1


@pytest.mark.parametrize(
    ("place", "bad", "code"),
    [
        (0, 2, "shape.version"),
        (0, 4, "shape.version"),
        (0, None, "shape.version"),
        (0, b"\x03", "shape.version"),
        (1, -3, "shape.integer"),
        (1, 6, "shape.integer"),
        (1, True, "shape.integer"),
        (1, "5", "shape.integer"),
        (1, None, "shape.integer"),
        (2, "abcde", "shape.text"),
        (2, "ééa", "shape.text"),  # five bytes
        (2, b"abc", "shape.text"),
        (2, None, "shape.text"),
        (3, b"", "shape.bytes"),
        (3, b"abcd", "shape.bytes"),
        (3, "abc", "shape.bytes"),
        (4, 1, "shape.type"),
        (4, None, "shape.type"),
        (5, "green", "shape.choice"),
        (5, "RED", "shape.choice"),
        (5, 0, "shape.choice"),
        (6, (1, 10), "shape.integer"),
        (6, (2, 9), "shape.version"),
        (6, (1,), "shape.length"),
        (6, (1, 9, 9), "shape.length"),
        (6, 9, "shape.length"),
        (6, None, "shape.length"),
        (7, ("triangle", (1, 9)), "shape.tag"),
        (7, ("circle", (2, 9)), "shape.version"),
        (7, ("square", (2, 0)), "shape.integer"),
        (7, ("square", (2, 9), 0), "shape.tag"),
        (7, ("square",), "shape.tag"),
        (7, (b"square", (2, 9)), "shape.tag"),
        (7, None, "shape.tag"),
        (7, (2, 9), "shape.tag"),
        (8, 2, "shape.integer"),
        (8, False, "shape.integer"),
        (9, (), "shape.tag"),
        (10, (), "shape.length"),
        (10, (1, 2, 3, 4), "shape.length"),
        (10, (1, 10), "shape.integer"),
        (10, b"\x01", "shape.length"),
        (10, None, "shape.length"),
    ],
)
def test_every_bound_is_held(place: int, bad: Value, code: str) -> None:
    """A value one step beyond its bound, or of another type, is refused, naming the field."""
    refused = refusal(Everything, changed(WHOLE, place, bad))

    assert refused.code == code
    assert refused.message.startswith("Everything")
    assert "expected" in refused.message
    assert "found" in refused.message


@pytest.mark.parametrize("value", [(), (3,), WHOLE[:-1], (*WHOLE, None), None, 3, "record", b""])
def test_a_record_of_another_length_is_refused(value: Value) -> None:
    """A field too few or too many, an empty array, or no array at all."""
    assert refusal(Everything, value).code == "shape.length"


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        (1, bytes(31)),
        (1, bytes(33)),
        (2, bytes(33)),
        (3, bytes(63)),
        (3, bytes(65)),
        (4, shape.HEIGHT_MAX + 1),
        (4, -1),
        (5, ""),
        (5, "a" * 65),
        (5, "A"),
        (5, "a b"),
        (5, "a/b"),
        (5, "a\n"),
        (5, "-a"),
        (5, "a."),
        (5, "ä"),
        (5, "٣"),  # an Arabic digit
        (6, "a" * 49),
        (6, "a..b"),
        (6, ".a"),
        (6, "a-b"),
        (7, "n" * 201),
        (7, "é" * 101),
        (7, "line\nbreak"),
        (7, "bell\x07"),
        (7, "\x7f"),
        (7, "\x9b31m"),
        (8, "b" + "a" * 57),
        (8, "b" + "a" * 59),
        (8, "b" + "A" * 58),
        (8, "z" + "a" * 58),
        (8, "b" + "0" * 58),
    ],
)
def test_the_ready_made_types_hold_their_bounds(place: int, bad: Value) -> None:
    """Digests, keys, heights, names, codes, notes and addresses: one step beyond is refused."""
    assert to_value(unpack(Aliases, encode(ALIASES))) == ALIASES

    refused = refusal(Aliases, changed(ALIASES, place, bad))

    assert refused.code in {"shape.bytes", "shape.integer", "shape.text"}


def test_half_a_surrogate_pair_is_no_text() -> None:
    """JSON can hold what UTF-8 cannot; it must be refused, not fail when it is written."""
    with pytest.raises(Refused) as refused:
        from_value(Aliases, changed(ALIASES, 7, "\ud800"))

    assert refused.value.code == "shape.text"


def test_a_refusal_shows_no_bytes_and_little_text() -> None:
    """What was found may be a key or a megabyte, so it is described, not repeated."""
    secret = refusal(Aliases, changed(ALIASES, 1, b"seed" * 9))
    long = refusal(Aliases, changed(ALIASES, 7, "word " * 1000))
    deep = refusal(Aliases, ((((((((1,),),),),),),),))

    assert secret.message == "Aliases.digest: expected 32 bytes, found 36 bytes"
    assert len(long.message) < 200
    assert deep.message == "Aliases: expected an array of 9, found an array of 1"


@pytest.mark.parametrize(
    "broken",
    [
        Everything(6, "", b"a", True, Colour.RED, Circle(1), Circle(1), None, None, (1,)),
        Everything(1, "abcde", b"a", True, Colour.RED, Circle(1), Circle(1), None, None, (1,)),
        Everything(1, "", b"", True, Colour.RED, Circle(1), Circle(1), None, None, (1,)),
        Everything(1, "", b"a", True, Colour.RED, Circle(0), Circle(1), None, None, (1,)),
        Everything(1, "", b"a", True, Colour.RED, Circle(1), Circle(1), None, None, ()),
        Everything(1, "", b"a", True, Colour.RED, Circle(1), Circle(1), None, None, (1,) * 4),
        Everything(1, "", b"a", 1, Colour.RED, Circle(1), Circle(1), None, None, (1,)),  # type: ignore[arg-type]
    ],
)
def test_writing_beyond_a_bound_is_our_own_bug(broken: Everything) -> None:
    """The writer asserts what the reader refuses, so that we never send what no one accepts."""
    with pytest.raises(AssertionError):
        pack(broken)


def test_two_classes_of_a_union_cannot_share_a_tag() -> None:
    """A union whose tags collide cannot be read back, so it is never built."""
    with pytest.raises(AssertionError, match="share a tag"):
        pack(Ambiguous(Circle(1)))
