"""JSON for people: records as objects with named fields, byte strings in hex.

`load` is the inverse of `dump` for any class that `vm.shape` can pack (members of a union: inside
one), so that the genesis file is readable and still has one digest.
"""

import json
from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vm.refusal import Refused
from vm.shape import from_value, to_value

T = TypeVar("T")


def dump(item: Any) -> Any:
    """`item` as JSON values; a member of a union carries its tag under "type"."""
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, StrEnum):
        return item.value
    if isinstance(item, (tuple, list)):
        return [dump(part) for part in item]
    if is_dataclass(item) and not isinstance(item, type):
        tag = {"type": item.TAG} if hasattr(item, "TAG") else {}
        return tag | {field.name: dump(getattr(item, field.name)) for field in fields(item)}
    return item


def load(cls: type[T], text: str | bytes) -> T:
    """Read JSON written by `dump`; raises `Refused("document.*" | "shape.*")`."""
    return from_json(cls, parse(text))


def parse(text: str | bytes) -> Any:
    """JSON values; raises `Refused("document.json" | "document.repeat")`."""
    try:
        return json.loads(text, object_pairs_hook=_read_object)
    except (ValueError, RecursionError) as error:
        raise Refused("document.json", f"expected JSON, found: {error}") from error


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are distinct: else two readers may take it for two documents."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refused("document.repeat", "expected each field once, found one twice")
    return found


def from_json(cls: type[T], value: Any) -> T:
    """Read JSON values as a `cls`, with every bound of the class checked."""
    item = _read(cls, value, cls.__name__)
    try:
        return from_value(cls, to_value(item))
    except AssertionError as error:  # the writer asserts bounds; here they are a stranger's
        raise Refused("document.bounds", f"{cls.__name__}: {error}") from error


def _read(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        return _read(get_args(hint)[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _refuse(where, "a list", value)
        return tuple(_read(get_args(hint)[0], x, f"{where}[{i}]") for i, x in enumerate(value))
    if origin in (Union, UnionType):
        return _read_union(get_args(hint), value, where)
    if hint is bytes:
        return _read_hex(value, where)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if value not in [choice.value for choice in hint]:
            raise _refuse(where, " or ".join(choice.value for choice in hint), value)
        return hint(value)
    if is_dataclass(hint):
        return _read_record(cast(type, hint), value, where)
    if type(value) is not hint:
        raise _refuse(where, cast(type, hint).__name__, value)
    return value


def _read_hex(value: Any, where: str) -> bytes:
    try:
        found = bytes.fromhex(value)
    except (TypeError, ValueError) as error:
        raise _refuse(where, "hexadecimal digits", value) from error
    if found.hex() != value:  # `fromhex` takes blanks and capitals too
        raise _refuse(where, "lower-case hexadecimal digits alone", value)
    return found


def _read_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    rest = [choice for choice in choices if choice is not NoneType]
    if value is None and len(rest) < len(choices):
        return None
    if len(rest) == 1:
        return _read(rest[0], value, where)
    tag = value.get("type") if isinstance(value, dict) else None
    for choice in rest:
        if choice.TAG == tag:
            return _read_record(choice, {k: v for k, v in value.items() if k != "type"}, where)
    raise _refuse(where, '"type" of ' + ", ".join(choice.TAG for choice in rest), tag)


def _read_record(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _refuse(where, "an object", value)
    names = [field.name for field in fields(cls)]
    if set(value) != set(names):
        raise _refuse(where, f"exactly the fields {', '.join(names)}", ", ".join(value))
    hints = get_type_hints(cls, include_extras=True)
    return cls(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in names})


def _refuse(where: str, expected: str, found: object) -> Refused:
    return Refused("document.field", f"{where}: expected {expected}, found {str(found)[:80]}")
