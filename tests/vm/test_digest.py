"""Digests of one kind of thing are never digests of another."""

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import digest


def test_the_layout_is_length_tag_data() -> None:
    """A digest is SHA-256 over the tag's length in one byte, the tag, and the data."""
    expected = sha256(b"\x14concilium.genesis.v1" + b"data").digest()

    assert digest.digest(digest.GENESIS, b"data") == expected


@given(st.lists(st.binary(max_size=8)))
def test_parts_are_digested_as_if_joined(parts: list[bytes]) -> None:
    """How a large thing is cut does not show in its digest."""
    found = digest.digest_parts(digest.WEIGHTS, map(memoryview, parts))

    assert found == digest.digest(digest.WEIGHTS, b"".join(parts))


@given(tag=st.text("abc", max_size=6), moved=st.text("abc", min_size=1, max_size=6))
def test_bytes_cannot_move_between_tag_and_data(tag: str, moved: str) -> None:
    """The attack: a longer tag over less data, where the bytes in a row are the same."""
    assert digest.digest(tag + moved, b"") != digest.digest(tag, moved.encode())


def test_every_tag_is_named_once_and_carries_a_version() -> None:
    """Two kinds of thing never share a tag, and each tag can be superseded by a new version."""
    tags = sorted(
        value for name, value in vars(digest).items() if name.isupper() and isinstance(value, str)
    )

    assert len(tags) > 10
    assert all(earlier != later for earlier, later in pairwise(tags))
    for tag in tags:
        prefix, _, version = tag.rpartition(".v")
        assert prefix.startswith("concilium.")
        assert version.isdigit()


def test_a_tag_of_another_alphabet_or_length_is_our_own_bug() -> None:
    """A tag's length is one byte and its letters are ASCII."""
    assert len(digest.digest("t" * 255, b"")) == digest.DIGEST_BYTES

    with pytest.raises(AssertionError):
        digest.digest("t" * 256, b"")
    with pytest.raises(UnicodeEncodeError):
        digest.digest("é", b"")
