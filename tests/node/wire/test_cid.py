"""Content addresses: one content, one address, and no other text reads as one."""

import re
from base64 import b32encode
from hashlib import sha256
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.wire.cid import (
    CHUNK_BYTES,
    CHUNKS_MAX,
    MANIFEST_BYTES_MAX,
    Cid,
    Codec,
    Manifest,
    address,
    check_chunk,
    check_root,
    parse,
    summarise,
)
from vm.encoding import encode
from vm.record import BLOB_BYTES_MAX
from vm.refusal import Refused
from vm.shape import Address, pack

EMPTY = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
WORLD = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"

LONG = bytes(range(256)) * (CHUNK_BYTES // 256) + b"tail"


def long_manifest() -> Manifest:
    """The manifest of LONG, which has two chunks."""
    manifest = summarise([LONG[:CHUNK_BYTES], LONG[CHUNK_BYTES:]])[1]
    assert manifest is not None
    return manifest


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", EMPTY), (b"hello", HELLO), (b"hello world", WORLD)]
)
def test_a_short_content_has_the_address_that_ipfs_gives(content: bytes, expected: str) -> None:
    """The vectors are what `ipfs add --cid-version 1 --raw-leaves` prints."""
    assert address(content) == expected


def test_one_byte_over_a_chunk_needs_a_manifest() -> None:
    """Up to 1 MiB the address is of the content, above it of the manifest."""
    full, over = bytes(CHUNK_BYTES), bytes(CHUNK_BYTES + 1)

    assert parse(address(full)).codec is Codec.RAW
    assert parse(address(over)).codec is Codec.MANIFEST


def test_a_manifest_address_is_the_digest_of_its_bytes_as_messagepack() -> None:
    """The code 0x0201 tells it apart from any raw address, also of the manifest's own bytes."""
    manifest = long_manifest()
    data = b"\x01\x81\x04\x12\x20" + sha256(pack(manifest)).digest()

    assert address(LONG) == "b" + b32encode(data).decode().rstrip("=").lower()
    assert address(LONG).startswith("bagaqiera")
    assert address(LONG) != address(pack(manifest))


def test_a_chunk_has_the_raw_address_of_its_digest() -> None:
    """So a chunk of a manifest can be named and found by itself."""
    assert str(Cid(Codec.RAW, long_manifest().chunks[1])) == address(b"tail")


@given(st.binary(min_size=32, max_size=32), st.sampled_from(Codec))
def test_an_address_reads_back(digest: bytes, codec: Codec) -> None:
    """`parse` is the inverse of `str`."""
    cid = Cid(codec, digest)

    assert parse(str(cid)) == cid
    assert len(str(cid)) == {Codec.RAW: 59, Codec.MANIFEST: 61}[codec]


def test_records_accept_both_lengths_of_address() -> None:
    """The pattern of `vm.shape.Address` covers what this module writes."""
    pattern = get_args(Address)[1].pattern

    assert re.fullmatch(pattern, address(b"")) is not None
    assert re.fullmatch(pattern, address(LONG)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "hello",
        HELLO[:-1],
        HELLO + "a",
        HELLO.upper(),
        "B" + HELLO[1:],
        "z" + HELLO[1:],
        HELLO[:-1] + "r",  # the same bytes, with stray bits after the last
        HELLO[:-1] + "é",
        "bafybeidyxh2cyiwdzczgbn4bk6g2gfi6qiamoqogw5bxxl5p6wu57g2ahy",  # dag-pb
        "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN",  # version 0
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    """Two spellings of one address would be two keys for one blob."""
    with pytest.raises(Refused) as refused:
        parse(text)

    assert refused.value.code == "blob.address"


def test_a_root_of_another_address_is_refused() -> None:
    """The root is checked against the digest in the address."""
    with pytest.raises(Refused) as refused:
        check_root(parse(HELLO), b"hullo")

    assert refused.value.code == "blob.root"


def test_long_content_under_a_raw_address_is_refused() -> None:
    """A true digest does not excuse content that owes a manifest."""
    with pytest.raises(Refused) as refused:
        check_root(Cid(Codec.RAW, sha256(LONG).digest()), LONG)

    assert refused.value.code == "blob.root"


@pytest.mark.parametrize(
    ("size", "chunk_bytes", "chunks", "code"),
    [
        (CHUNK_BYTES, CHUNK_BYTES, 2, "shape.integer"),  # short content has a raw address
        (BLOB_BYTES_MAX + 1, CHUNK_BYTES, 2, "shape.integer"),
        (2 * CHUNK_BYTES, CHUNK_BYTES // 2, 4, "shape.integer"),
        (2 * CHUNK_BYTES, CHUNK_BYTES, 3, "blob.manifest"),
        (2 * CHUNK_BYTES + 1, CHUNK_BYTES, 2, "blob.manifest"),
        (2 * CHUNK_BYTES, CHUNK_BYTES, 1, "shape.length"),
        (BLOB_BYTES_MAX, CHUNK_BYTES, CHUNKS_MAX + 1, "shape.length"),
    ],
)
def test_a_manifest_that_is_not_the_one_of_any_content_is_refused(
    size: int, chunk_bytes: int, chunks: int, code: str
) -> None:
    """Sizes, chunk size and number of chunks have to agree, so content has one manifest."""
    root = encode((1, size, chunk_bytes, (bytes(32),) * chunks))

    with pytest.raises(Refused) as refused:
        check_root(Cid(Codec.MANIFEST, sha256(root).digest()), root)

    assert refused.value.code == code


def test_the_largest_manifest_is_within_its_bound() -> None:
    """4 GiB of content is addressable."""
    root = pack(Manifest(BLOB_BYTES_MAX, CHUNK_BYTES, (bytes(32),) * CHUNKS_MAX))

    assert len(root) <= MANIFEST_BYTES_MAX
    assert check_root(Cid(Codec.MANIFEST, sha256(root).digest()), root) is not None


@pytest.mark.parametrize(
    ("index", "chunk", "code"),
    [
        (0, LONG[: CHUNK_BYTES - 1], "blob.chunk"),
        (1, b"tail ", "blob.chunk"),
        (1, b"liat", "blob.chunk"),
        (2, b"tail", "blob.index"),
        (-1, b"tail", "blob.index"),
    ],
)
def test_a_wrong_chunk_is_refused(index: int, chunk: bytes, code: str) -> None:
    """A chunk is checked for its place, its length and its digest."""
    manifest = long_manifest()
    check_chunk(manifest, 1, b"tail")

    with pytest.raises(Refused) as refused:
        check_chunk(manifest, index, chunk)

    assert refused.value.code == code
