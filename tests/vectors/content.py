"""Vectors of content addresses."""

from hashlib import sha256
from typing import Any

from node.wire.cid import CHUNK_BYTES, Cid, Codec, Manifest, check_root, parse, split, summarise
from tests.vectors.spelling import code_of
from vm.shape import pack


def addresses() -> dict[str, Any]:
    """Addresses of short and long content, roots, and addresses that are none."""
    contents = (
        *(b"", b"a" * 3, b"\x00" * CHUNK_BYTES),
        *(b"\x00" * (CHUNK_BYTES + 1), b"\x01" * (2 * CHUNK_BYTES)),
    )
    return {
        "chunk_bytes": CHUNK_BYTES,
        "contents": [_content(content) for content in contents],
        "refused_addresses": [
            {"why": why, "address": text, "code": code_of(parse, text)}
            for why, text in _bad_addresses().items()
        ],
        "refused_roots": _bad_roots(),
    }


def _content(content: bytes) -> dict[str, Any]:
    """Content is one byte repeated, so that a megabyte need not stand here."""
    address, manifest = summarise(split(content))
    return {
        "repeated": content[:1].hex(),
        "size": len(content),
        "sha256": sha256(content).hexdigest(),
        "manifest": None if manifest is None else pack(manifest).hex(),
        "address": address,
    }


def _bad_addresses() -> dict[str, str]:
    good, _ = summarise([b"abc"])
    return {
        "no multibase": good[1:],
        "upper case": "B" + good[1:].upper(),
        "a character too few": good[:-1],
        "stray last bits": good[:-1] + chr(ord(good[-1]) + 1),
        "CIDv0": "QmY7Yh4UquoXHLPFo2XbhXkhBvFoPwmQUSa92pxnxjQuPU",
        "codec dag-pb": str(Cid(Codec.RAW, bytes(32))).replace("bafkrei", "bafybei"),
    }


def _bad_roots() -> list[dict[str, str]]:
    few = Manifest(3 * CHUNK_BYTES, CHUNK_BYTES, (bytes(32), bytes(32)))
    short, _ = summarise([b"abc"])
    cases = {
        "other bytes": (short, b"abd"),
        "a chunk too few for the size": (few.address, pack(few)),
        "no manifest": (str(Cid(Codec.MANIFEST, sha256(b"abc").digest())), b"abc"),
    }
    return [
        {
            "why": why,
            "address": text,
            "root": root.hex(),
            "code": code_of(check_root, parse(text), root),
        }
        for why, (text, root) in cases.items()
    ]
