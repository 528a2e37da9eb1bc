"""How other BFT systems broke, replayed on ours: a script for each row of the field notes' table A.

A script's first lines say what broke elsewhere and what must hold here; README.md explains the
language. `pytest tests/scenarios --rewrite` writes the transcripts anew: read the diff.
"""

from contextlib import closing
from pathlib import Path

import pytest

from tests.scenarios.interpreter import Interpreter
from tests.scenarios.named import check_named
from tests.scenarios.script import printing, read, text

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))
ROWS = 27  # of the table


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_scenario_goes_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    """Every command prints what the script says."""
    steps = read(path)

    with closing(Interpreter()) as world:
        played = tuple(printing(step, world.run(step)) for step in steps)

    if request.config.getoption("--rewrite", default=False):
        path.write_text(text(played))
    assert path.read_text() == text(played)


def test_every_row_has_its_script() -> None:
    """One each, which begins with the row's number and says what must hold here."""
    heads = [" ".join(read(path)[0].lines) for path in SCRIPTS]

    assert [int(path.name[:2]) for path in SCRIPTS] == list(range(1, ROWS + 1))
    for number, head in enumerate(heads, start=1):
        assert head.startswith(f"# A{number}. ")
        assert "# Here " in head


def test_a_named_test_must_be_there_and_run() -> None:
    """A script that names a test which is gone, or left out, is red."""
    check_named("tests/scenarios/test_scenarios.py::test_every_row_has_its_script")

    for absent in ("test_of_nothing", "check_named"):
        with pytest.raises(AssertionError, match="found no such test"):
            check_named(f"tests/scenarios/test_scenarios.py::{absent}")


def test_every_command_is_explained() -> None:
    """In the README, for whoever writes the next script."""
    explained = (Path(__file__).parent / "README.md").read_text()

    with closing(Interpreter()) as world:
        missing = [command for command in world.commands if f"`{command}" not in explained]

    assert missing == []
