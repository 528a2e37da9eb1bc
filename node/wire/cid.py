"""Content addresses: CIDv1 of plain SHA-256, in base32 (multiformats.io, RFC 4648 section 6).

Content of up to one chunk is addressed under the codec `raw`. Longer content is addressed by the
digest of its manifest, under `messagepack`: the standard's code for what a manifest is, so that
foreign tools read it and no address can be taken for one of the other sort. The bytes that an
address is the digest of are called its root: the content itself or the manifest.
"""

from base64 import b32decode, b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Annotated, ClassVar

from vm.record import BLOB_BYTES_MAX
from vm.refusal import Refused
from vm.shape import Digest, Int, Many, pack, unpack

CHUNK_BYTES = 1024 * 1024  # little enough to resend after a broken connection
CHUNKS_MAX = BLOB_BYTES_MAX // CHUNK_BYTES
MANIFEST_BYTES_MAX = CHUNKS_MAX * 34 + 64  # each digest takes 34 bytes as msgpack
ADDRESS_CHARACTERS_MAX = 61  # "b", and 37 bytes in base32

VERSION_1 = b"\x01"
SHA2_256 = b"\x12\x20"  # multihash: the function's code and the digest's length


class Codec(IntEnum):
    """Multicodec codes: what the root of an address is."""

    RAW = 0x55
    MANIFEST = 0x0201  # messagepack


PREFIXES = {
    Codec.RAW: VERSION_1 + b"\x55" + SHA2_256,
    Codec.MANIFEST: VERSION_1 + b"\x81\x04" + SHA2_256,  # 0x0201 as a varint takes two bytes
}


@dataclass(frozen=True, slots=True)
class Cid:
    """A parsed address: the sort of its root, and the root's SHA-256."""

    codec: Codec
    digest: bytes

    def __str__(self) -> str:
        """The address as text."""
        text = b32encode(PREFIXES[self.codec] + self.digest).decode().rstrip("=")
        return "b" + text.lower()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The chunks of content that is longer than one chunk; all but the last are full.

    Chunk digests are plain SHA-256, so each chunk by itself has the raw address of that digest.
    """

    VERSION: ClassVar[int] = 1

    size: Annotated[int, Int(CHUNK_BYTES + 1, BLOB_BYTES_MAX)]
    chunk_bytes: Annotated[int, Int(CHUNK_BYTES, CHUNK_BYTES)]
    chunks: Annotated[tuple[Digest, ...], Many(CHUNKS_MAX, 2)]

    @property
    def address(self) -> str:
        """The address of the content."""
        return str(Cid(Codec.MANIFEST, sha256(pack(self)).digest()))

    def length(self, index: int) -> int:
        """Bytes in chunk `index`."""
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)


def parse(address: str) -> Cid:
    """Read an address; raises `Refused("blob.address")` for any text but the one form of it."""
    try:
        data = b32decode(_padded(address[1:].upper()))
    except ValueError:
        data = b""
    for codec, prefix in PREFIXES.items():
        if data.startswith(prefix) and len(data) == len(prefix) + 32:
            cid = Cid(codec, data[len(prefix) :])
            if str(cid) == address:  # upper case and stray last bits decode too
                return cid
    raise Refused(
        "blob.address",
        "expected a CIDv1 in lower-case base32 of a SHA-256 digest, raw or messagepack, "
        f"found {address[:ADDRESS_CHARACTERS_MAX]!r}",
    )


def address(content: bytes) -> str:
    """The address of `content`."""
    return summarise(split(content))[0]


def split(content: bytes) -> list[bytes]:
    """The chunks of `content`; none if it is empty."""
    return [content[start : start + CHUNK_BYTES] for start in _starts(len(content))]


def summarise(chunks: Iterable[bytes]) -> tuple[str, Manifest | None]:
    """The address of content given in full chunks, and the manifest if it needs one.

    Raises `Refused("blob.too_large")`.
    """
    size, digests = 0, list[bytes]()
    for chunk in chunks:
        assert size == len(digests) * CHUNK_BYTES, "only the last chunk may be short"
        size += len(chunk)
        digests.append(sha256(chunk).digest())
        if size > BLOB_BYTES_MAX:
            raise Refused("blob.too_large", f"expected at most {BLOB_BYTES_MAX} bytes, found more")
    if size <= CHUNK_BYTES:
        return str(Cid(Codec.RAW, digests[0] if digests else sha256().digest())), None
    manifest = Manifest(size, CHUNK_BYTES, tuple(digests))
    return manifest.address, manifest


def check_root(cid: Cid, root: bytes) -> Manifest | None:
    """Check that `root` is what `cid` is the digest of; return the manifest if it is one.

    Raises `Refused` with code `blob.root`, `blob.manifest`, `encoding.*` or `shape.*`.
    """
    found = sha256(root).digest()
    if found != cid.digest:
        raise Refused(
            "blob.root",
            f"{cid}: expected bytes of digest {cid.digest.hex()}, found {len(root)} bytes of "
            f"digest {found.hex()}",
        )
    if cid.codec is Codec.RAW:
        if len(root) > CHUNK_BYTES:
            raise Refused(
                "blob.root",
                f"{cid}: expected a manifest for content of more than {CHUNK_BYTES} bytes, "
                f"found {len(root)} raw bytes",
            )
        return None
    manifest = unpack(Manifest, root, MANIFEST_BYTES_MAX)
    if len(manifest.chunks) != len(_starts(manifest.size)):
        raise Refused(
            "blob.manifest",
            f"{cid}: expected {len(_starts(manifest.size))} chunks for {manifest.size} bytes, "
            f"found {len(manifest.chunks)}",
        )
    return manifest


def check_chunk(manifest: Manifest, index: int, chunk: bytes) -> None:
    """Check that `chunk` is number `index`; raises `Refused("blob.chunk" | "blob.index")`."""
    require_index(manifest, index)
    if len(chunk) != manifest.length(index) or sha256(chunk).digest() != manifest.chunks[index]:
        raise Refused(
            "blob.chunk",
            f"chunk {index}: expected {manifest.length(index)} bytes of digest "
            f"{manifest.chunks[index].hex()}, found {len(chunk)} bytes of digest "
            f"{sha256(chunk).hexdigest()}",
        )


def require_index(manifest: Manifest, index: int) -> None:
    """Raise `Refused("blob.index")` for a chunk that the content has not."""
    if not 0 <= index < len(manifest.chunks):
        raise Refused(
            "blob.index", f"expected a chunk from 0 to {len(manifest.chunks) - 1}, found {index}"
        )


def _starts(size: int) -> range:
    return range(0, size, CHUNK_BYTES)


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 8)
