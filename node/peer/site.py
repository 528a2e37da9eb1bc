"""A hospital's own data beside its training peer: read, checked, committed to, parted. It stays.

Nothing here sends anything. What leaves a hospital are the banded record of a dataset
(`concilium dataset register`), updates and verdicts.
"""

from dataclasses import dataclass
from pathlib import Path

from fl.dataset import leaves
from fl.preprocess import Report, Table, read
from vm.record import Dataset
from vm.refusal import Refused
from vm.terms import Preprocessing
from vm.tree import root


@dataclass(frozen=True, slots=True)
class LocalData:
    """Rows as the task's preprocessing reads them, and the secret that salts their leaves."""

    table: Table
    secret: bytes

    def require_root(self, dataset: Dataset) -> None:
        """Raise `Refused("peer.dataset_root")` unless these are the rows that were registered."""
        found = root(leaves(self.table, self.secret))
        if found != dataset.root:
            raise Refused(
                "peer.dataset_root",
                f"expected the rows registered as {dataset.id}, root {dataset.root.hex()}, found "
                f"rows of root {found.hex()}: register the changed rows as a new dataset",
            )


def check_data(path: Path, preprocessing: Preprocessing) -> Report:
    """Read a CSV file by a task's preprocessing; raises `Refused("peer.data")`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:  # spreadsheets write the mark
            return read(lines, preprocessing)
    except OSError as error:
        raise Refused(
            "peer.data", f"{path}: expected a readable CSV file, found: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:  # whose own words show a byte of the data
        raise Refused(
            "peer.data", f"{path}: expected UTF-8, found other bytes at {error.start}"
        ) from None


def load_data(path: Path, preprocessing: Preprocessing, secret: bytes) -> LocalData:
    """Read rows for training; raises `Refused("peer.data" | "dataset.problems")`."""
    return LocalData(check_data(path, preprocessing).require(), secret)
