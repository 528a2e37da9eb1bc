"""Rows about sockets and disks, where a test reads better than a script: the script names it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("mark.skip", "mark.xfail")  # marks with which a test proves nothing


def check_named(test: str) -> None:
    """Demand that `tests/file.py::name` exists and is not left out."""
    path, name = test.split("::")
    for item in ast.parse((ROOT / path).read_text()).body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == name:
            marks = " ".join(map(ast.unparse, item.decorator_list))
            assert not any(mark in marks for mark in LEFT_OUT), f"{test} is left out: {marks}"
            return
    raise AssertionError(f"expected {test}, found no such test")
