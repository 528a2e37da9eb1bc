"""What a hospital commits to and says of its rows: salted leaves, a root, banded counts.

The chain learns that a row was there when training began and can be shown so later; it cannot
learn a row, since each leaf holds a salt of its own (design, section 5).
"""

from collections.abc import Sequence

from fl.preprocess import Table
from vm.digest import PART, ROW, SALT, digest
from vm.encoding import encode
from vm.record import Band, ColumnSchema
from vm.registry import CELL_MIN, RegisterDataset
from vm.shape import Digest
from vm.terms import WEIGHT_MAX, Preprocessing
from vm.tree import root

BAND_COUNTS = 25  # counts in one band: a count is known to within 25 people
assert BAND_COUNTS > CELL_MIN, "a cell under CELL_MIN shares its band with larger ones"


def salt(secret: bytes, row: int) -> Digest:
    """The salt of a row, from the secret of 32 bytes that the hospital keeps beside its data.

    Derived, so that the hospital can show any row later by keeping one secret only.
    """
    assert len(secret) == 32, f"expected a secret of 32 bytes, found {len(secret)}"
    return digest(SALT, secret + row.to_bytes(8, "big"))


def leaves(table: Table, secret: bytes) -> tuple[Digest, ...]:
    """Leaf i is digest(ROW, salt || canonical bytes of the preprocessed inputs and the label)."""
    rows = zip(table.rows, table.labels, strict=True)
    return tuple(
        digest(ROW, salt(secret, number) + encode((*inputs, label)))
        for number, (inputs, label) in enumerate(rows)
    )


def part_digest(leaves: Sequence[Digest]) -> Digest:
    """Commits to the training rows, by their leaves in order: digest(PART, all of them)."""
    return digest(PART, b"".join(leaves))


def band(count: int) -> Band:
    """The band of `BAND_COUNTS` counts that holds `count`; 3 and 24 both read 0 to 24."""
    low = count - count % BAND_COUNTS
    return Band(low, low + BAND_COUNTS - 1)


def weight(rows: Band) -> int:
    """The weight of a dataset in an aggregate, from what is public: its band's lower end."""
    return min(max(rows.low, 1), WEIGHT_MAX)


def describe(
    *,
    id: str,
    title: str,
    table: Table,
    secret: bytes,
    preprocessing: Preprocessing,
    conditions: Sequence[str],
    region: str,
    opening: bool,
    scores_max: int,
) -> RegisterDataset:
    """The body of `dataset.register` for a hospital's table: the root and bands, never a row."""
    return RegisterDataset(
        id=id,
        title=title,
        root=root(leaves(table, secret)),
        schema=tuple(ColumnSchema(column.name, column.unit) for column in preprocessing.columns),
        outcome=preprocessing.outcome.name,
        rows=band(len(table.rows)),
        positives=band(sum(label > 0 for label in table.labels)),
        conditions=tuple(conditions),
        region=region,
        opening=opening,
        scores_max=scores_max,
    )
