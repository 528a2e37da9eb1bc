"""Opaque cursors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.cursor import CURSOR_BYTES_MAX, read_cursor, write_cursor
from vm.refusal import Refused
from vm.sparse import KEY_BYTES_MAX


@given(query=st.text(max_size=40), after=st.binary(min_size=1, max_size=KEY_BYTES_MAX))
def test_a_cursor_reads_back_and_fits_its_bound(query: str, after: bytes) -> None:
    """Reading is the inverse of writing, for the longest key too."""
    text = write_cursor(query, after)
    assert len(text) <= CURSOR_BYTES_MAX
    assert read_cursor(query, text) == after


@given(st.text(max_size=60))
def test_a_made_up_cursor_is_refused(text: str) -> None:
    """Nothing but what was handed out is a cursor."""
    with pytest.raises(Refused, match=r"cursor\.invalid"):
        read_cursor("/v1/members", text)


def test_a_cursor_belongs_to_its_query() -> None:
    """Another list's cursor is refused."""
    cursor = write_cursor("/v1/members", b"key")
    with pytest.raises(Refused, match=r"cursor\.invalid"):
        read_cursor("/v1/datasets", cursor)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cursor_has_one_spelling(length: int) -> None:
    """The unused bits of base64's last character are not free."""
    text = write_cursor("/v1/members", b"k" * length)
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if last != text[-1]:
            with pytest.raises(Refused, match=r"cursor\.invalid"):
                read_cursor("/v1/members", text[:-1] + last)
