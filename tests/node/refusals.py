"""What a command that is refused writes."""

import json

import pytest

from node.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int) -> tuple[str, str]:
    """Code and message of a refused command, equal in both formats; the exit code is equal too."""
    assert main([*arguments, "--format", "json"]) == exit_code
    out, err = capsys.readouterr()
    error = json.loads(err)["error"]
    assert out == ""

    assert main(list(arguments)) == exit_code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{error['code']}: {error['message']}\n")
    return error["code"], error["message"]
