"""One codec for every record and message: the annotation of a field is its bound.

A dataclass encodes as the array `[VERSION, field, field, ...]`. Field types are int, str, bytes and
bool with a bound from below, `X | None`, another dataclass, a `StrEnum`, a union of dataclasses
(encoded `[TAG, [...]]`), and `tuple[X, ...]` with `Many`. The reader and the writer of a class are
built once from its annotations. `unpack` raises `Refused("shape.*")` naming the field.
"""

import re
from collections.abc import Callable
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

from vm.encoding import ITEMS_MAX, MESSAGE_BYTES_MAX, Value, decode, encode
from vm.refusal import Refused

T = TypeVar("T")
Read = Callable[[Value, str], Any]
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
    return encode(to_value(item))


def unpack(
    cls: type[T], data: bytes, bytes_max: int = MESSAGE_BYTES_MAX, items_max: int = ITEMS_MAX
) -> T:
    """Read canonical bytes of a `cls`; raises `Refused("encoding.*" | "shape.*")`."""
    return from_value(cls, decode(data, bytes_max, items_max))


def to_value(item: object) -> Value:
    """The positional array of `item`."""
    return _dataclass_codec(cast(Any, type(item)))[1](item)


def from_value(cls: type[T], value: Value) -> T:
    """Read the positional array of a `cls`; raises `Refused("shape.*")`."""
    return cast(T, _dataclass_codec(cast(Any, cls))[0](value, cls.__name__))


def _refuse(code: str, where: str, expected: str, found: Value) -> Refused:
    """The words must not depend on the Python version, for they stand in receipts."""
    match found:
        case bytes():  # never shown: it may be a key, and it may be long
            text = f"{len(found)} bytes"
        case tuple():
            text = f"an array of {len(found)}"
        case str():
            text = ascii(found[:40])
        case _:
            text = repr(found)
    return Refused(f"shape.{code}", f"{where}: expected {expected}, found {text}")


@cache
def _dataclass_codec(cls: type) -> tuple[Read, Write]:
    assert is_dataclass(cls), f"{cls.__name__} is not a record"
    version: int = cls.VERSION  # type: ignore[attr-defined]
    hints = get_type_hints(cls, include_extras=True)
    names = tuple(field.name for field in fields(cls))
    codecs = tuple(_codec(hints[name]) for name in names)
    reads = tuple((name, read) for name, (read, _) in zip(names, codecs, strict=True))
    writes = tuple((name, write) for name, (_, write) in zip(names, codecs, strict=True))
    length = len(names) + 1

    def read(value: Value, where: str) -> Any:
        if not isinstance(value, tuple) or len(value) != length:
            raise _refuse("length", where, f"an array of {length}", value)
        if value[0] is not version and (value[0] != version or isinstance(value[0], bool)):
            raise _refuse("version", where, f"version {version}", value[0])
        return cls(
            *(
                read_field(item, f"{where}.{name}")
                for item, (name, read_field) in zip(value[1:], reads, strict=True)
            )
        )

    def write(item: Any) -> Value:
        return (version, *(write_field(getattr(item, name)) for name, write_field in writes))

    return read, write


def _codec(hint: Any) -> tuple[Read, Write]:
    """The reader and writer for one annotation."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, bound = get_args(hint)[:2]
        return _tuple_codec(base, bound) if isinstance(bound, Many) else _leaf_codec(bound)
    if origin in (Union, UnionType):
        return _union_codec(get_args(hint))
    if hint is bool:
        return _checked(lambda value: isinstance(value, bool), "true or false", "type")
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_codec(hint)
    assert is_dataclass(hint), f"no codec for {hint!r}: annotate the field with its bound"
    return _dataclass_codec(cast(type, hint))


def _checked(good: Callable[[Any], bool], expected: str, code: str) -> tuple[Read, Write]:
    def read(value: Value, where: str) -> Any:
        if not good(value):
            raise _refuse(code, where, expected, value)
        return value

    def write(item: Any) -> Value:
        assert good(item), (
            f"our own value breaks its bound: expected {expected}, found {item!r:.80}"
        )
        return cast(Value, item)

    return read, write


def _leaf_codec(bound: Int | Text | Bytes) -> tuple[Read, Write]:
    match bound:
        case Int(low, high):
            return _checked(
                lambda value: type(value) is int and low <= value <= high,
                f"an integer from {low} to {high}",
                "integer",
            )
        case Bytes(low, high):
            return _checked(
                lambda value: type(value) is bytes and low <= len(value) <= high,
                f"{low} to {high} bytes" if low != high else f"{low} bytes",
                "bytes",
            )
        case Text(bytes_max, pattern):
            matches = re.compile(pattern, re.ASCII).fullmatch if pattern else None
            return _checked(
                lambda value: (
                    isinstance(value, str)
                    and _fits(value, bytes_max)
                    and (matches is None or matches(value) is not None)
                ),
                f"text of at most {bytes_max} bytes" + (f" like {pattern}" if pattern else ""),
                "text",
            )


def _fits(text: str, bytes_max: int) -> bool:
    """Whether `text` has a UTF-8 form so short; half a surrogate pair, as in JSON, has none."""
    try:
        return len(text.encode()) <= bytes_max
    except UnicodeEncodeError:
        return False


def _enum_codec(cls: type[StrEnum]) -> tuple[Read, Write]:
    names = {member.value: member for member in cls}

    def read(value: Value, where: str) -> Any:
        if not isinstance(value, str) or value not in names:
            raise _refuse("choice", where, f"one of {', '.join(names)}", value)
        return names[value]

    return read, lambda item: cast(StrEnum, item).value


def _tuple_codec(hint: Any, bound: Many) -> tuple[Read, Write]:
    read_item, write_item = _codec(get_args(hint)[0])

    def read(value: Value, where: str) -> Any:
        if not isinstance(value, tuple) or not bound.low <= len(value) <= bound.high:
            expected = f"an array of {bound.low} to {bound.high} items"
            found = len(value) if isinstance(value, tuple) else value
            raise _refuse("length", where, expected, found)
        return tuple(read_item(item, f"{where}[{i}]") for i, item in enumerate(value))

    def write(items: Any) -> Value:
        assert bound.low <= len(items) <= bound.high, (
            f"our own tuple breaks its bound: {len(items)}"
        )
        return tuple(write_item(item) for item in items)

    return read, write


def _union_codec(choices: tuple[Any, ...]) -> tuple[Read, Write]:
    if NoneType in choices:
        rest = tuple(choice for choice in choices if choice is not NoneType)
        read_some, write_some = _codec(rest[0]) if len(rest) == 1 else _union_codec(rest)
        return (
            lambda value, where: None if value is None else read_some(value, where),
            lambda item: None if item is None else write_some(item),
        )
    by_tag: dict[str, Any] = {choice.TAG: choice for choice in choices}
    assert len(by_tag) == len(choices), "two classes of a union share a tag"

    def read(value: Value, where: str) -> Any:
        if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[0], str):
            raise _refuse("tag", where, "[tag, record]", value)
        if value[0] not in by_tag:
            raise _refuse("tag", where, f"one of {', '.join(by_tag)}", value[0])
        return _dataclass_codec(by_tag[value[0]])[0](value[1], f"{where}.{value[0]}")

    def write(item: Any) -> Value:
        assert by_tag.get(item.TAG) is type(item), f"{type(item).__name__} is not in the union"
        return (item.TAG, to_value(item))

    return read, write
