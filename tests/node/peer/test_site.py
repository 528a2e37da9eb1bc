"""A hospital's own data: read, held to what was registered, and not one cell in an error."""

from dataclasses import replace
from pathlib import Path

import pytest

from fl.dataset import leaves
from node.peer.site import check_data, load_data
from tests.fl.dialogue import TERMS
from tests.node.hospital import ROWS, SECRET, Town, table
from vm.record import Dataset
from vm.refusal import Refused
from vm.tree import root


def registered(folder: Path) -> tuple[Path, Dataset]:
    """Hospital 1's file and what it registered."""
    town = Town(folder)
    return town.path(1), town.chain.get(Dataset, "opt-1")


def test_registered_rows_are_recognised(tmp_path: Path) -> None:
    """Reading the same file again gives the root on the chain."""
    path, dataset = registered(tmp_path)

    data = load_data(path, TERMS.preprocessing, SECRET)

    assert len(data.table.rows) == ROWS
    assert root(leaves(data.table, SECRET)) == dataset.root
    data.require_root(dataset)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: (
            [*lines[:5], lines[5].replace("No", "Yes", 1), *lines[6:]]
            if "No" in lines[5]
            else [*lines[:5], lines[5].replace("Yes", "No", 1), *lines[6:]]
        ),
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    ],
    ids=["a cell", "a row less", "a row more", "two rows exchanged"],
)
def test_rows_that_changed_since_they_were_registered_are_refused(
    tmp_path: Path, change: object
) -> None:
    """A hospital cannot train on other rows than it committed to, not by one cell."""
    path, dataset = registered(tmp_path)
    assert callable(change)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    data = load_data(path, TERMS.preprocessing, SECRET)

    with pytest.raises(Refused, match=r"peer\.dataset_root: expected the rows registered as opt-1"):
        data.require_root(dataset)


def test_another_secret_is_another_root(tmp_path: Path) -> None:
    """Leaves are salted: who guesses a row cannot find it in the root without the secret."""
    path, dataset = registered(tmp_path)
    data = load_data(path, TERMS.preprocessing, bytes(32))

    with pytest.raises(Refused, match=r"peer\.dataset_root"):
        data.require_root(dataset)
    replace(data, secret=SECRET).require_root(dataset)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, or a folder."""
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(Refused, match=r"peer\.data: .*expected a readable CSV file, found"):
            check_data(path, TERMS.preprocessing)


@pytest.mark.parametrize("name", ["Müller", "Åse", "Zoë"])
def test_an_error_shows_nothing_of_the_data(tmp_path: Path, name: str) -> None:
    """Neither a name in another encoding nor one in a column of numbers reaches the message."""
    latin = tmp_path / "latin.csv"
    latin.write_bytes(table(1).replace("patient-4711", name).encode("latin-1"))
    shifted = tmp_path / "shifted.csv"
    shifted.write_text(f"Age,Smoker,Preterm\n{name},No,no\n", encoding="utf-8")

    with pytest.raises(Refused) as encoding:
        check_data(latin, TERMS.preprocessing)
    with pytest.raises(Refused) as number:
        load_data(shifted, TERMS.preprocessing, SECRET)

    assert (encoding.value.code, number.value.code) == ("peer.data", "dataset.problems")
    for message in (encoding.value.message, number.value.message):
        assert name not in message
        assert "0x" not in message
    assert encoding.value.__cause__ is None
    assert encoding.value.__suppress_context__


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    """Spreadsheets write one before a UTF-8 file; the rows are the same with it and without."""
    path, dataset = registered(tmp_path)
    names, *rows = [line.split(",") for line in path.read_text().splitlines()]
    first = names.index(TERMS.preprocessing.columns[0].name)
    turned = [[cells[first], *cells[:first], *cells[first + 1 :]] for cells in (names, *rows)]
    path.write_text("\ufeff" + "\n".join(",".join(cells) for cells in turned) + "\n")

    load_data(path, TERMS.preprocessing, SECRET).require_root(dataset)
