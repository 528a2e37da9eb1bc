"""Any record or message, drawn from the bounds in its annotations."""

from dataclasses import fields
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from vm.quorum import VALIDATORS_MIN, Validator, ValidatorSet
from vm.shape import Bytes, Int, Many, Text

ITEMS_MAX = 2  # of a drawn tuple, unless its bound asks for more


def drawn(cls: type) -> st.SearchStrategy[Any]:
    """Any value of the record class `cls`."""
    if cls is ValidatorSet:
        return st.builds(_seats, st.integers(VALIDATORS_MIN, 9), st.booleans())
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{field.name: _of(hints[field.name]) for field in fields(cls)})


def _seats(n: int, suspended: bool) -> ValidatorSet:
    """A set that can be: its seats differ, and a quorum of them may vote."""
    seats = (Validator(f"v{i}", f"h{i}", bytes((i,)) * 32, i == 1 and suspended) for i in range(n))
    return ValidatorSet(tuple(seats))


def _of(hint: Any) -> st.SearchStrategy[Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        base, bound = get_args(hint)[:2]
        return _bounded(base, bound)
    if origin in (Union, UnionType):
        return st.one_of(*(_of(choice) for choice in get_args(hint)))
    if hint is NoneType:
        return st.none()
    if hint is bool:
        return st.booleans()
    if issubclass(hint, StrEnum):
        return st.sampled_from(list(hint))
    return drawn(cast(type, hint))


def _bounded(base: Any, bound: Int | Text | Bytes | Many) -> st.SearchStrategy[Any]:
    match bound:
        case Int(low, high):
            return st.integers(low, high)
        case Bytes(low, high):
            return st.binary(min_size=low, max_size=min(high, low + 40))
        case Many(high, low):
            item = _of(get_args(base)[0])
            most = max(low, min(high, ITEMS_MAX))
            return st.lists(item, min_size=low, max_size=most).map(tuple)
        case Text(bytes_max, None):
            return st.text(max_size=bytes_max // 4)
        case Text(bytes_max, str(pattern)):
            return st.from_regex(f"(?a){pattern}", fullmatch=True).filter(
                lambda text: _fits(text, bytes_max)
            )
    raise AssertionError(f"no strategy for {bound}")


def _fits(text: str, bytes_max: int) -> bool:
    try:
        return len(text.encode()) <= bytes_max
    except UnicodeEncodeError:
        return False
