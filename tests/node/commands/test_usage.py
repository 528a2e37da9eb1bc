"""`concilium usage` without a network: what is kept, what is listed, what is refused."""

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from node.cli import main
from node.commands import usage
from node.home.testnet import write_testnet

ONE = ("--model", "risk", "--version", "3", "--purpose", "care")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network that nothing is started from."""
    folder = tmp_path_factory.mktemp("usage") / "net"
    write_testnet(folder, now=datetime(2026, 3, 1, tzinfo=UTC))
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    """What a command says; of one that is refused, its exit code and error's code."""
    code = main([*map(str, arguments), "--format", "json"])
    out, err = capsys.readouterr()
    return json.loads(out) if code == 0 else (code, json.loads(err)["error"]["code"])


def test_uses_are_kept_and_listed(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one or as a list, by version and purpose; nobody is asked."""
    home = made / "hospital-1" / "steward"
    rows = '{"model": "risk", "version": 3, "purpose": "care"}\n' * 3
    assert answer(capsys, "usage", "add", home, *ONE, "--note", "list 7") == {"kept": 1}
    monkeypatch.setattr(sys, "stdin", io.StringIO(rows))
    assert answer(capsys, "usage", "add", home, "--read", "ndjson") == {"kept": 3}

    listed = answer(capsys, "usage", "list", home)

    assert listed["batches"] == []
    assert [(item["name"], item["waiting"]) for item in listed["waiting"]] == [
        ("risk 3 care inference", 4)
    ]
    assert main(["usage", "list", str(home)]) == 0
    assert "4 uses of risk 3 care inference wait" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("add", *ONE[:4]), (2, "usage.subject")),
        (("add", *ONE, "--read", "csv"), (2, "usage.subject")),
        (("add", *ONE[:5], "cure"), (3, "use.purpose")),
        (("add", *ONE, "--count", "0"), (3, "use.fields")),
        (("add", *ONE, "--at", "2001-01-01T00:00:00Z"), (3, "use.old")),
        (("list", "--batch", "1"), (3, "use.batch_missing")),
    ],
)
def test_what_makes_no_sense_is_refused(
    made: Path,
    arguments: tuple[str, ...],
    refusal: tuple[int, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing of it is kept."""
    command, *rest = arguments
    home = made / "hospital-4" / "steward"

    assert answer(capsys, "usage", command, home, *rest) == refusal
    assert answer(capsys, "usage", "list", home) == {"batches": [], "waiting": [], "late": []}


def test_a_folder_that_is_no_home_gets_no_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped path makes no second journal that nobody sends."""
    assert answer(capsys, "usage", "add", tmp_path, *ONE) == (3, "config.missing")
    assert list(tmp_path.iterdir()) == []


def test_a_long_send_has_a_bar_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person sees how far it is; a log is not filled with bars."""
    monkeypatch.setenv("TERM", "xterm")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown)
        with usage._bar() as on_batch:
            on_batch(65_536, 200_000)

        assert ("65536/200000" in capsys.readouterr().err) == terminal
