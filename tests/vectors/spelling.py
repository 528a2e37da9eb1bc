"""How vectors are written: bytes in hex, integers with their type where JSON is vague."""

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

from vm.encoding import Value
from vm.refusal import Refused

P = ParamSpec("P")

CHAIN = bytes(range(32))


def code_of(check: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """The code with which `check` refuses its arguments."""
    try:
        check(*args, **kwargs)
    except Refused as refused:
        return refused.code
    raise AssertionError("a vector of refusals holds something that is accepted")


def spelled(value: Value) -> Any:
    """A value in JSON, with its type where JSON has none: {"int": "-1"}, {"bytes": "00"}."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return {"int": str(value)}
        case bytes():
            return {"bytes": value.hex()}
        case tuple():
            return [spelled(item) for item in value]


def hexes(items: Iterable[bytes]) -> list[str]:
    """Each item in hex."""
    return [item.hex() for item in items]
