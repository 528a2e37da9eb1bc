"""The codes that execution can put into receipts, found by walking the code from its entry points.

A function is followed through plain calls (`f(...)`, resolved by the module's own functions and its
imports) and through the methods of `State`. The decoder is not followed: execution gives
`transaction.body` for whatever it refuses.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

from node.program import program
from vm import execute
from vm.block import Result
from vm.refusal import Refused
from vm.shape import unpack
from vm.state import State

SPREAD = {"task.{role.value}": ("task.trainer", "task.verifier")}


def receipt_codes() -> set[str]:
    """Every code of a failed receipt, and the one of those that applied."""
    entry_points = [execute._apply, *(kind.apply for kind in program().kinds.values())]
    told: set[object] = set()
    found = {Result.APPLIED.value}
    for entry in entry_points:
        found |= set(_codes(entry, told))
    return found


def _codes(function: object, told: set[object]) -> Iterator[str]:
    module = inspect.getmodule(function)
    if function in told or function is unpack or module is None or not _ours(module):
        return
    told.add(function)
    source = inspect.cleandoc("\n" + inspect.getsource(function))  # type: ignore[arg-type]
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        called = _called(call, module)
        if called is Refused:
            code = ast.unparse(call.args[0]).removeprefix("f").strip("'\"")
            yield from SPREAD.get(code, (code,))
        elif called is not None:
            yield from _codes(called, told)


def _called(call: ast.Call, module: ModuleType) -> object:
    match call.func:
        case ast.Name(name):
            found = getattr(module, name, None)
            return found if found is Refused or inspect.isfunction(found) else None
        case ast.Attribute(ast.Name("state"), name):
            return getattr(State, name)
    return None


def _ours(module: ModuleType) -> bool:
    return module.__name__.split(".")[0] in ("vm", "fl", "consensus")


def stated(module: str, prefixes: tuple[str, ...]) -> set[str]:
    """The codes that stand in a module's text as literals with one of these prefixes."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {
        text
        for text in texts
        if isinstance(text, str) and " " not in text and text.startswith(prefixes)
    }
