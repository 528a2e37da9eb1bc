"""Files of commands: bounded reading, and writing that never overwrites."""

from pathlib import Path

import pytest

from node.commands.files import check_absent, read_file, write_new
from vm.refusal import Refused


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    """A byte more is refused."""
    (tmp_path / "file").write_bytes(b"1234")

    assert read_file(tmp_path / "file", 4) == b"1234"
    with pytest.raises(Refused) as refused:
        read_file(tmp_path / "file", 3)

    assert refused.value.code == "file.too_large"


@pytest.mark.parametrize("name", ["none", "."])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """A missing file and a folder alike."""
    with pytest.raises(Refused, match="expected a readable file") as refused:
        read_file(tmp_path / name)

    assert refused.value.code == "file.unreadable"
    assert str(tmp_path / name) in refused.value.message


def test_a_new_file_is_written_once(tmp_path: Path) -> None:
    """The second attempt leaves the first one's content."""
    write_new(tmp_path / "file", b"first")

    with pytest.raises(Refused) as refused:
        write_new(tmp_path / "file", b"second")

    assert refused.value.code == "file.exists"
    assert (tmp_path / "file").read_bytes() == b"first"


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """Its folder is missing."""
    with pytest.raises(Refused) as refused:
        write_new(tmp_path / "none" / "file", b"")

    assert refused.value.code == "file.unwritable"


def test_a_place_is_looked_at_before_the_work(tmp_path: Path) -> None:
    """An empty place passes; a file is refused before anything was fetched for it."""
    check_absent(tmp_path / "file")
    (tmp_path / "file").touch()

    with pytest.raises(Refused) as refused:
        check_absent(tmp_path / "file")

    assert refused.value.code == "file.exists"
