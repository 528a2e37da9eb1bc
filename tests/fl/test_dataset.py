"""What a hospital publishes of its rows commits to them and tells none of them."""

from hypothesis import given
from hypothesis import strategies as st

from fl.dataset import BAND_COUNTS, band, describe, leaves, salt, weight
from fl.preprocess import Table
from fl.trial import PREPROCESSING
from vm.digest import ROW, digest
from vm.encoding import encode
from vm.record import Band
from vm.registry import CELL_MIN
from vm.shape import pack
from vm.terms import WEIGHT_MAX
from vm.tree import inclusion_path, root, verify_inclusion

SECRET = bytes(range(32))
TABLE = Table(((1, 2), (3, 4), (1, 2)), (0, 1, 0))


def test_a_leaf_is_the_salted_digest_of_its_row() -> None:
    """Written down as docs/protocol.md has it."""
    expected = digest(ROW, salt(SECRET, 1) + encode((3, 4, 1)))

    assert leaves(TABLE, SECRET)[1] == expected


def test_equal_rows_have_different_leaves() -> None:
    """Else one hospital's leaf would tell of another woman with the same answers."""
    found = leaves(TABLE, SECRET)

    assert TABLE.rows[0] == TABLE.rows[2]
    assert found[0] != found[2]


def test_guessing_a_row_needs_the_secret() -> None:
    """Who tries all possible rows finds none: under another secret every leaf is another."""
    tried = leaves(TABLE, bytes(32))

    assert not set(tried) & set(leaves(TABLE, SECRET))


def test_a_row_can_be_shown_later() -> None:
    """The hospital derives the leaves again from its one secret, and a path proves each."""
    found = leaves(TABLE, SECRET)

    path = inclusion_path(found, 2)

    assert verify_inclusion(leaves(TABLE, SECRET)[2], 2, 3, path, root(found))


@given(st.integers(0, 10**6))
def test_a_band_holds_its_count_and_suppresses_small_cells(count: int) -> None:
    """A count under 10 is published as the same band as 24."""
    found = band(count)

    assert found.low <= count <= found.high
    assert found.high - found.low + 1 == BAND_COUNTS >= CELL_MIN
    if count < CELL_MIN:
        assert found == band(24)


def test_the_weight_comes_from_what_is_public() -> None:
    """The low end of the band, at least 1 and at most WEIGHT_MAX."""
    assert weight(Band(0, 24)) == 1
    assert weight(Band(225, 249)) == 225
    assert weight(Band(WEIGHT_MAX * 2, WEIGHT_MAX * 2 + 24)) == WEIGHT_MAX


def test_the_registration_tells_no_row() -> None:
    """Of three women neither the number nor the answers are in the bytes that go out."""
    width = len(PREPROCESSING.columns)
    table = Table(((777_777_777,) * width,) * 3, (0, 1, 0))

    body = describe(
        id="opt-mn",
        title="OPT",
        table=table,
        secret=SECRET,
        preprocessing=PREPROCESSING,
        conditions=("DUO:0000006",),
        region="US-MN",
        opening=False,
        scores_max=0,
    )

    assert encode(777_777_777) not in pack(body)
    assert SECRET not in pack(body)
    assert (body.rows, body.positives) == (Band(0, 24), Band(0, 24))
    assert body.root == root(leaves(table, SECRET))
