"""The checklist of the paper: each rule names its tests, and each test stands under a rule.

The tests are in test_pbft_normal_case and test_pbft_commit (section 4.2),
test_pbft_garbage_collection (4.3), test_pbft_view_changes (4.4 and 4.5.1) and test_pbft_liveness
(4.5.2). What the paper leaves open, sending again what got lost, is in test_status: it is pulled,
as in Castro's thesis.
"""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

SECTIONS = ("normal_case", "commit", "garbage_collection", "view_changes", "liveness")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_rule_has_its_tests_and_every_test_its_rule(section: str) -> None:
    """No rule stands without a test, and none of the tests is left out of the list."""
    text = (Path(__file__).parent / f"test_pbft_{section}.py").read_text()
    module = ast.parse(text)
    tests = [item.name for item in module.body if isinstance(item, ast.FunctionDef)]
    _, *rules = (ast.get_docstring(module) or "").split("\n\n")[-1].split("\n")

    listed = [line.strip() for line in rules if line.startswith("    ")]

    assert set(listed) == {name for name in tests if name.startswith("test_")}
    unlisted = [
        line
        for line, following in pairwise(rules)
        if line.endswith(".") and not following.startswith("    ")
    ]
    assert unlisted == []
