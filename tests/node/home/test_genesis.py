"""The genesis document of a home: read whole, checked, and every bad one named."""

import json
from pathlib import Path

import pytest

from node.home.document import dump
from node.home.genesis import GENESIS_BYTES_MAX, read_genesis
from tests.harness import genesis_of
from vm.refusal import Refused

GENESIS = genesis_of(4)
TEXT = json.dumps(dump(GENESIS), indent=2)


def code_of(path: Path) -> str:
    """The code with which a file is refused."""
    with pytest.raises(Refused) as refused:
        read_genesis(path)
    return refused.value.code


def test_a_genesis_is_read_back(tmp_path: Path) -> None:
    """The file is `dump` of it, indented for people."""
    path = tmp_path / "genesis.json"
    path.write_text(TEXT)

    assert read_genesis(path) == GENESIS


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nor is a folder a document."""
    assert code_of(tmp_path / "genesis.json") == "genesis.unreadable"
    assert code_of(tmp_path) == "genesis.unreadable"


def test_a_file_fills_its_bound_and_no_more(tmp_path: Path) -> None:
    """A file without end is not read into memory."""
    path = tmp_path / "genesis.json"
    path.write_text(TEXT + " " * (GENESIS_BYTES_MAX - len(TEXT)))
    assert read_genesis(path) == GENESIS

    path.write_text(TEXT + " " * (GENESIS_BYTES_MAX - len(TEXT) + 1))

    assert code_of(path) == "genesis.unreadable"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "document.json"),
        (TEXT[:-1], "document.json"),
        ("{}", "document.field"),
        (TEXT.replace('"window": 8', '"window": 0'), "document.bounds"),
        (TEXT.replace("concilium.1", "concilium.2"), "genesis.protocol"),
        (TEXT.replace('"id": "hospital-2.admin"', '"id": "hospital-1.admin"'), "genesis.members"),
    ],
)
def test_an_unsound_document_is_refused(tmp_path: Path, text: str, code: str) -> None:
    """Cut, empty, out of bounds, of another protocol, or breaking a rule of genesis."""
    path = tmp_path / "genesis.json"
    path.write_text(text)

    assert code_of(path) == code
