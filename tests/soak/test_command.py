"""The command: its exit codes, what it prints, and what it leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak import command
from tests.soak.soak import NotStarted, Report

GOOD = Report({"kill": 2, "isolate": 1}, 120, {"client.unreachable": 3}, 77, ())
BAD = Report({"kill": 2}, 120, {}, 77, ("validator 2 shows None where ... was acknowledged",))
OPTIONS = ["--seconds", "20", "--seed", "7", "--validators", "5"]
REPEAT = "scripts/soak --seconds 20 --seed 7 --validators 5"

Soak = Callable[[Report | Exception], None]


@pytest.fixture
def soaked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Soak:
    """Lets a soak end with a report or an exception at once; its folder is under `tmp_path`."""

    def end(result: Report | Exception) -> None:
        async def soak(
            seed: int, seconds: float, size: int, folder: Path, tell: Callable[[str, float], None]
        ) -> Report:
            assert (seed, seconds, size) == (7, 20, 5)
            tell("kill 2 for 1.0 s", 3.0)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(command, "soak", soak)

    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: made(tmp_path / prefix))
    return end


def made(folder: Path) -> str:
    """A folder that exists."""
    folder.mkdir()
    return str(folder)


def test_a_good_soak_tells_what_it_did_and_leaves_nothing(
    soaked: Soak, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0."""
    soaked(GOOD)

    assert command.main(OPTIONS, "help") == 0

    told = capsys.readouterr()
    assert told.err == "kill 2 for 1.0 s\n"
    assert told.out.splitlines() == [
        "struck: 1 isolate, 2 kill",
        "refused: 3 client.unreachable",
        "acknowledged: 120 transactions up to height 77",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_promise_keeps_the_folder_and_says_how_to_repeat(
    soaked: Soak, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and the last line repeats the run."""
    soaked(BAD)

    assert command.main(OPTIONS, "help") == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == f"broken: {BAD.broken[0]}"
    assert lines[-1] == f"repeat: {REPEAT}"
    assert Path(lines[-2].removeprefix("folder: ")).is_dir()


@pytest.mark.parametrize(("report", "code"), [(GOOD, 0), (BAD, 1)])
def test_json_is_one_document(
    soaked: Soak, capsys: pytest.CaptureFixture[str], report: Report, code: int
) -> None:
    """With the same exit codes, and nothing else on either stream."""
    soaked(report)

    assert command.main([*OPTIONS, "--format", "json"], "help") == code

    told = capsys.readouterr()
    found = json.loads(told.out)
    assert told.err == ""
    assert found["acknowledged"] == 120
    assert found.get("repeat") == (REPEAT if report.broken else None)


def test_a_network_that_does_not_start_is_another_exit_code(
    soaked: Soak, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3: nothing was soaked, so nothing was found."""
    soaked(NotStarted("expected validator 1 ready within 60.0 s"))

    assert command.main(OPTIONS, "help") == 3

    assert "expected validator 1 ready" in capsys.readouterr().err


def test_a_bug_of_the_soak_keeps_the_folder_too(
    soaked: Soak, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it had found is not thrown away."""
    soaked(ZeroDivisionError("a bug"))

    with pytest.raises(ZeroDivisionError):
        command.main(OPTIONS, "help")

    assert f"repeat: {REPEAT}" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--validators", "3"], ["--seed", "x"], ["now"]])
def test_wrong_usage_is_told(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2."""
    with pytest.raises(SystemExit) as left:
        command.main(options, "help")

    assert left.value.code == 2
    assert "usage: scripts/soak" in capsys.readouterr().err
