"""What commands print and exit with."""

import json

import pytest
from rich.console import Group
from rich.table import Table

from node.commands.report import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    OK,
    OUTDATED,
    REFUSED,
    UNREACHABLE,
    UNVERIFIED,
    USAGE,
    exit_code,
    show,
    show_halt,
    show_refusal,
)
from node.validator.halted import Halted
from vm.refusal import Refused


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("usage.arguments", USAGE),
        ("config.unknown", REFUSED),
        ("access.role", REFUSED),
        ("disk.full", REFUSED),
        ("client.unreachable", UNREACHABLE),
        ("blob.unavailable", UNREACHABLE),
        ("node.not_ready", UNREACHABLE),
        ("audit.chain", UNVERIFIED),
        ("audit.expired", REFUSED),
        ("audit.own", REFUSED),
        ("certificate.no_quorum", UNVERIFIED),
        ("lineage.excess", UNVERIFIED),
        ("state_path.root", UNVERIFIED),
        ("succession.certificate.no_quorum", UNVERIFIED),
        ("encoding.shortest", UNVERIFIED),
        ("lineage.missing", REFUSED),
    ],
)
def test_each_room_of_codes_has_its_exit_code(code: str, found: int) -> None:
    """A script tells a wrong input from nobody there, and both from a false proof."""
    assert exit_code(code) == found


def test_exit_codes_are_distinct_and_told() -> None:
    """The list that `--help` ends with names every one."""
    codes = (OK, FAILED, USAGE, REFUSED, UNREACHABLE, UNVERIFIED, OUTDATED, INTERRUPTED)

    told = [int(line.split()[0]) for line in EXIT_CODES.splitlines()[1:]]

    assert sorted(codes) == sorted(set(codes)) == told


def test_a_refusal_in_text_keeps_what_looks_like_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A message that quotes [section] key shows both, on one line however long."""
    message = "home/concilium.toml: [log] level: expected " + "words " * 40

    assert show_refusal(Refused("config.value", message), as_json=False) == REFUSED

    out, err = capsys.readouterr()
    assert (out, err) == ("", f"config.value: {message}\n")


def test_a_refusal_in_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, so that stdout holds results alone."""
    show_refusal(Refused("config.value", 'found "x"\n'), as_json=True)

    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert json.loads(err) == {"error": {"code": "config.value", "message": 'found "x"\n'}}


@pytest.mark.parametrize("as_json", [False, True])
def test_a_halt_says_what_to_keep(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """It is no refusal: the evidence must not be deleted by the next attempt."""
    assert show_halt(Halted("header 7 differs from a quorum's"), as_json) == FAILED

    err = capsys.readouterr().err
    assert "header 7 differs from a quorum's" in err
    assert "Keep this home as it is" in err
    assert err.startswith('{"error": {"code": "halted"' if as_json else "halted: ")


def test_a_result_is_either_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs parse the one, people read the other, with [brackets] as they are."""
    show("json", {"height": 7}, "[x] at height 7")
    show("text", {"height": 7}, "[x] at height 7")

    out = capsys.readouterr().out
    assert out == '{\n  "height": 7\n}\n[x] at height 7\n'


def test_what_a_file_quotes_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The attack: a kind that erases the refusal and writes that all was verified."""
    quoted = "\x1b[2K\x1b[1A\rverified\x9b8m \u202egood"

    show_refusal(Refused("file.kind", f"expected one of\n\trecord, found {quoted}"), False)
    show("text", None, quoted)

    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(text)
        assert "verified" in text
    assert "\n\trecord" in shown.err.expandtabs(8).replace(" " * 8, "\t")


def test_what_a_node_says_in_a_table_does_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The attack: `concilium status` of a node whose name erases what the others said."""
    table = Table("validator", "state")
    table.add_row("\x1b[2K\x1b[1A\rall agree\u2028\u202e", "00")

    show("text", None, Group(table, "\x1b[1A of a node that did not answer"))

    out = capsys.readouterr().out
    assert not {"\x1b", "\r", "\u2028", "\u202e"} & set(out)
    assert "all agree" in out
