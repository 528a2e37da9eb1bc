"""`concilium learning calibrate`: what a steward learns before a task is opened."""

import json
from pathlib import Path

import pytest

from fl import calibrate
from fl.spec import logistic_regression
from node.cli import main
from node.commands.report import USAGE
from node.home.document import dump
from tests.fl.dialogue import TERMS


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that name a task and its model; one setting beside ours is enough here."""
    few = {name: calibrate.SETTINGS[name] for name in ("as it is", "all of these")}
    monkeypatch.setattr(calibrate, "SETTINGS", few)
    terms, spec = tmp_path / "terms.json", tmp_path / "spec.json"
    terms.write_text(json.dumps(dump(TERMS)))
    spec.write_text(json.dumps(dump(logistic_regression(2))))
    return [str(terms), "--spec", str(spec)]


def test_it_proposes_what_goes_into_the_terms(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exact replay of two segments, and digests to compare with other machines'."""
    assert main(["learning", "calibrate", *files, "--segments", "2", "--format", "json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["replay"] == {"segments": 2, "off_by_one_max": 0, "tolerance": 0}
    assert found["settings"] == {
        name: {"replays": 8, "differing": 0, "grid_steps": 0} for name in calibrate.SETTINGS
    }
    assert len(bytes.fromhex(found["weights"])) == len(bytes.fromhex(found["optimizer"])) == 32


def test_for_people_it_is_a_table(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each kind of machine, and the lines for the terms."""
    assert main(["learning", "calibrate", *files, "--segments", "1"]) == 0

    text = capsys.readouterr().out
    assert all(name in text for name in calibrate.SETTINGS)
    assert '{"replay": {"segments": 2, "off_by_one_max": 0, "tolerance": 0}}' in text


@pytest.mark.parametrize("wrong", [("--segments", "0"), ("--grid-bits", "25")])
def test_what_cannot_be_tried_is_said(files: list[str], wrong: tuple[str, str]) -> None:
    """No segment, or a grid that no model has, is a wrong command line."""
    assert main(["learning", "calibrate", *files, *wrong]) == USAGE
