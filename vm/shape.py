"""One codec for every record and message: the annotation of a field is its bound.

A dataclass encodes as the array `[VERSION, field, field, ...]`. Field types are int, str, bytes and
bool with a bound from below, `X | None`, another dataclass, a `StrEnum`, a union of dataclasses
(encoded `[TAG, [...]]`), and `tuple[X, ...]` with `Many`. The reader and the writer of a class are
built once from its annotations. `unpack` raises `Refused("shape.*")` naming the field.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from vm.encoding import (
    ITEMS_MAX,
    MESSAGE_BYTES_MAX,
    Value,
    check_canonical,
    check_subset,
    encode_checked,
    parse,
)
from vm.refusal import Refused

T = TypeVar("T")
Read = Callable[[Value], Any]
Write = Callable[[Any], Value]


@dataclass(frozen=True, slots=True)
class Int:
    """Bound of an integer, both ends included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Text:
    """Bound of a string in UTF-8 bytes, and the pattern that it matches whole."""

    bytes_max: int
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bound of a byte string's length, both ends included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Many:
    """Bound of a tuple's length, both ends included."""

    high: int
    low: int = 0


HEIGHT_MAX = 2**53  # exact in every JSON reader
NAME_BYTES_MAX = 64
CODE_BYTES_MAX = 48
NOTE_BYTES_MAX = 200
ADDRESS_BYTES_MAX = 64  # CIDv1, base32, sha2-256: 59 characters raw, 61 of a manifest

NAME = r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?"

Digest: TypeAlias = Annotated[bytes, Bytes(32, 32)]
PublicKey: TypeAlias = Annotated[bytes, Bytes(32, 32)]
Signature: TypeAlias = Annotated[bytes, Bytes(64, 64)]
Height: TypeAlias = Annotated[int, Int(0, HEIGHT_MAX)]
Count: TypeAlias = Annotated[int, Int(0, HEIGHT_MAX)]
TimeMs: TypeAlias = Annotated[int, Int(0, HEIGHT_MAX)]
Name: TypeAlias = Annotated[str, Text(NAME_BYTES_MAX, NAME)]
Code: TypeAlias = Annotated[str, Text(CODE_BYTES_MAX, r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")]
Note: TypeAlias = Annotated[str, Text(NOTE_BYTES_MAX, r"[^\x00-\x1f\x7f-\x9f]*")]
Address: TypeAlias = Annotated[str, Text(ADDRESS_BYTES_MAX, r"b[a-z2-7]{58}(?:[a-z2-7]{2})?")]


def is_name(text: str) -> bool:
    """Whether a text may stand where a `Name` does."""
    return len(text) <= NAME_BYTES_MAX and re.fullmatch(NAME, text, re.ASCII) is not None


def pack(item: object) -> bytes:
    """The canonical bytes of a record or message; one that breaks its own bounds is our bug."""
    return encode_checked(to_value(item))


def unpack(
    cls: type[T], data: bytes, bytes_max: int = MESSAGE_BYTES_MAX, items_max: int = ITEMS_MAX
) -> T:
    """Read canonical bytes of a `cls`; raises `Refused("encoding.*" | "shape.*")`.

    A reader takes nothing outside the subset, so that is looked for only where one refuses: what
    is wrong with an encoding is said before what is wrong with a shape.
    """
    value = parse(data, bytes_max, items_max)
    try:
        item = from_value(cls, value)
    except Refused:
        check_subset(value)
        check_canonical(value, data)
        raise
    check_canonical(value, data)
    return item


def to_value(item: object) -> Value:
    """The positional array of `item`."""
    try:
        return _dataclass_codec(cast(Any, type(item)))[1](item)
    except _Misfit as misfit:
        raise AssertionError(f"our own value breaks its bound: {misfit.says()}") from misfit


def from_value(cls: type[T], value: Value) -> T:
    """Read the positional array of a `cls`; raises `Refused("shape.*")`."""
    try:
        return cast(T, _dataclass_codec(cast(Any, cls))[0](value))
    except _Misfit as misfit:
        where = cls.__name__ + "".join(reversed(misfit.path))
        raise Refused(f"shape.{misfit.code}", f"{where}: {misfit.says()}") from None


class _Misfit(Exception):  # noqa: N818 - it never leaves this module
    """A value that does not fit its bound; `path` grows from the field outwards."""

    def __init__(self, code: str, expected: str, found: Any) -> None:
        self.code = code
        self.expected = expected
        self.found = found
        self.path: list[str] = []

    def says(self) -> str:
        """The words must not depend on the Python version, for they stand in receipts."""
        match self.found:
            case bytes():  # never shown: it may be a key, and it may be long
                text = f"{len(self.found)} bytes"
            case tuple():
                text = f"an array of {len(self.found)}"
            case str():
                text = ascii(self.found[:40])
            case _:
                text = f"{self.found!r:.80}"
        return f"expected {self.expected}, found {text}"


@cache
def _dataclass_codec(cls: type) -> tuple[Read, Write]:
    assert is_dataclass(cls), f"{cls.__name__} is not a record"
    version: int = cls.VERSION  # type: ignore[attr-defined]
    hints = get_type_hints(cls, include_extras=True)
    names = tuple(field.name for field in fields(cls))
    places = tuple(f".{name}" for name in names)
    codecs = tuple(_codec(hints[name]) for name in names)
    reads = tuple(read for read, _ in codecs)
    writes = tuple(write for _, write in codecs)
    length = len(names) + 1

    def read(value: Value) -> Any:
        # an extension of msgpack's is a tuple too, but of a class of its own
        if type(value) is not tuple or len(value) != length:
            raise _Misfit("length", f"an array of {length}", value)
        if type(value[0]) is not int or value[0] != version:  # 1.0 and true equal 1
            raise _Misfit("version", f"version {version}", value[0])
        return cls(*_each(reads, value[1:], places))

    def write(item: Any) -> Value:
        return (version, *_each(writes, [getattr(item, name) for name in names], places))

    return read, write


def _each(
    codecs: Sequence[Callable[[Any], Any]], items: Sequence[Any], places: Sequence[str]
) -> list[Any]:
    """What each codec makes of its item; a misfit learns its place, and nothing is read twice."""
    made: list[Any] = []
    try:
        for codec, item in zip(codecs, items, strict=True):
            made.append(codec(item))
    except _Misfit as misfit:
        misfit.path.append(places[len(made)])
        raise
    return made


def _codec(hint: Any) -> tuple[Read, Write]:
    """The reader and writer for one annotation."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, bound = get_args(hint)[:2]
        if isinstance(bound, Many):
            return _tuple_codec(base, bound)
        leaf = _leaf(bound)
        return leaf, leaf
    if origin in (Union, UnionType):
        return _union_codec(get_args(hint))
    if hint is bool:
        return _flag, _flag
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_codec(hint)
    assert is_dataclass(hint), f"no codec for {hint!r}: annotate the field with its bound"
    return _dataclass_codec(cast(type, hint))


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _Misfit("type", "true or false", value)


def _leaf(bound: Int | Text | Bytes) -> Callable[[Any], Any]:
    """What gives back a value within the bound: it reads and writes alike."""
    match bound:
        case Int():
            return _int_leaf(bound)
        case Bytes():
            return _bytes_leaf(bound)
        case Text():
            return _text_leaf(bound)


def _int_leaf(bound: Int) -> Callable[[Any], Any]:
    low, high = bound.low, bound.high

    def leaf(value: Any) -> Any:
        if type(value) is int and low <= value <= high:
            return value
        raise _Misfit("integer", f"an integer from {low} to {high}", value)

    return leaf


def _bytes_leaf(bound: Bytes) -> Callable[[Any], Any]:
    low, high = bound.low, bound.high

    def leaf(value: Any) -> Any:
        if type(value) is bytes and low <= len(value) <= high:
            return value
        raise _Misfit("bytes", f"{low} to {high} bytes" if low != high else f"{low} bytes", value)

    return leaf


def _text_leaf(bound: Text) -> Callable[[Any], Any]:
    bytes_max, pattern = bound.bytes_max, bound.pattern
    matches = re.compile(pattern or r"[\s\S]*", re.ASCII).fullmatch

    def leaf(value: Any) -> Any:
        if isinstance(value, str) and _fits(value, bytes_max) and matches(value) is not None:
            return value
        like = f" like {pattern}" if pattern else ""
        raise _Misfit("text", f"text of at most {bytes_max} bytes{like}", value)

    return leaf


def _fits(text: str, bytes_max: int) -> bool:
    """Whether `text` has a UTF-8 form so short; half a surrogate pair, as in JSON, has none."""
    if text.isascii():
        return len(text) <= bytes_max
    try:
        return len(text.encode()) <= bytes_max
    except UnicodeEncodeError:
        return False


def _enum_codec(cls: type[StrEnum]) -> tuple[Read, Write]:
    names = {member.value: member for member in cls}

    def read(value: Value) -> Any:
        if not isinstance(value, str) or value not in names:
            raise _Misfit("choice", f"one of {', '.join(names)}", value)
        return names[value]

    return read, lambda item: cast(StrEnum, item).value


def _tuple_codec(hint: Any, bound: Many) -> tuple[Read, Write]:
    read_item, write_item = _codec(get_args(hint)[0])

    def read(value: Value) -> Any:
        if type(value) is not tuple or not bound.low <= len(value) <= bound.high:
            expected = f"an array of {bound.low} to {bound.high} items"
            raise _Misfit("length", expected, len(value) if type(value) is tuple else value)
        return _every(read_item, value)

    def write(items: Any) -> Value:
        assert bound.low <= len(items) <= bound.high, (
            f"our own tuple breaks its bound: {len(items)}"
        )
        return _every(write_item, items)

    return read, write


def _every(codec: Callable[[Any], Any], items: Sequence[Any]) -> tuple[Any, ...]:
    """What one codec makes of all items; a misfit learns its place."""
    made: list[Any] = []
    try:
        for item in items:
            made.append(codec(item))
    except _Misfit as misfit:
        misfit.path.append(f"[{len(made)}]")
        raise
    return tuple(made)


def _union_codec(choices: tuple[Any, ...]) -> tuple[Read, Write]:
    if NoneType in choices:
        rest = tuple(choice for choice in choices if choice is not NoneType)
        read_some, write_some = _codec(rest[0]) if len(rest) == 1 else _union_codec(rest)
        return (
            lambda value: None if value is None else read_some(value),
            lambda item: None if item is None else write_some(item),
        )
    by_tag: dict[str, Any] = {choice.TAG: choice for choice in choices}
    assert len(by_tag) == len(choices), "two classes of a union share a tag"

    def read(value: Value) -> Any:
        if type(value) is not tuple or len(value) != 2 or not isinstance(value[0], str):
            raise _Misfit("tag", "[tag, record]", value)
        if value[0] not in by_tag:
            raise _Misfit("tag", f"one of {', '.join(by_tag)}", value[0])
        try:
            return _dataclass_codec(by_tag[value[0]])[0](value[1])
        except _Misfit as misfit:
            misfit.path.append(f".{value[0]}")
            raise

    def write(item: Any) -> Value:
        assert by_tag.get(item.TAG) is type(item), f"{type(item).__name__} is not in the union"
        return (item.TAG, _dataclass_codec(by_tag[item.TAG])[1](item))

    return read, write
