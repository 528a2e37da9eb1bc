"""A second reader, written from docs/protocol.md alone: it verifies proofs without our code.

It is no part of the product. Every rule is repeated here on purpose, as plainly as the document has
it, and with another Ed25519 library; whatever the document leaves open would show here first.
"""

import base64
import re
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Wrong(Exception):  # noqa: N818 - what the document calls refused
    """The bytes prove nothing."""


def expect(holds: bool) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise Wrong


# Encoding

SIZES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4}
UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


def decode(data: bytes) -> Any:
    """The value of canonical bytes."""
    value, end = item(data, 0, 0)
    expect(end == len(data) and encode(value) == data)
    return value


def item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """One value from `at`, inside so many arrays, and where it ends."""
    expect(at < len(data))
    head = data[at]
    if head <= 0x7F or head >= 0xE0:
        return (head if head <= 0x7F else head - 256), at + 1
    if head in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[head], at + 1
    if head in UNSIGNED or head in SIGNED:
        end = at + 1 + (UNSIGNED | SIGNED)[head]
        expect(end <= len(data))
        return int.from_bytes(data[at + 1 : end], "big", signed=head in SIGNED), end
    if 0x90 <= head <= 0xBF:
        size, start = head & (0x0F if head <= 0x9F else 0x1F), at + 1
    else:
        expect(head in SIZES)
        start = at + 1 + SIZES[head]
        size = int.from_bytes(data[at + 1 : start], "big")
    expect(start + size <= len(data))
    if 0x90 <= head <= 0x9F or head in (0xDC, 0xDD):
        expect(depth < 32)
        found = []
        for _ in range(size):
            value, start = item(data, start, depth + 1)
            found.append(value)
        return found, start
    if head in (0xC4, 0xC5, 0xC6):
        return data[start : start + size], start + size
    try:
        return data[start : start + size].decode(), start + size
    except UnicodeDecodeError:
        raise Wrong from None


def encode(value: Any) -> bytes:
    """The canonical bytes."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int() if value >= 0:
            return bytes([value]) if value <= 0x7F else shortest(value, UNSIGNED)
        case int():
            for head, size in SIGNED.items():
                if value >= -32:
                    return bytes([value + 256])
                if value >= -(2 ** (8 * size - 1)):
                    return bytes([head]) + value.to_bytes(size, "big", signed=True)
        case bytes():
            return shortest(len(value), {0xC4: 1, 0xC5: 2, 0xC6: 4}) + value
        case str():
            text = value.encode()
            short = bytes([0xA0 + len(text)]) if len(text) <= 31 else b""
            return (short or shortest(len(text), {0xD9: 1, 0xDA: 2, 0xDB: 4})) + text
        case list():
            short = bytes([0x90 + len(value)]) if len(value) <= 15 else b""
            inside = b"".join(encode(part) for part in value)
            return (short or shortest(len(value), {0xDC: 2, 0xDD: 4})) + inside
    raise AssertionError(f"no value: {value!r}")


def shortest(number: int, forms: dict[int, int]) -> bytes:
    """The number under the first head whose bytes hold it."""
    head, size = next((h, s) for h, s in forms.items() if number < 2 ** (8 * s))
    return bytes([head]) + number.to_bytes(size, "big")


# Digests and trees


def digest(name: str, data: bytes) -> bytes:
    """The domain-separated digest."""
    tag = f"concilium.{name}.v1".encode()
    return sha256(bytes([len(tag)]) + tag + data).digest()


def tree_root(leaves: list[bytes]) -> bytes:
    """The root over one leaf or more, as RFC 6962 defines it."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + tree_root(leaves[:split]) + tree_root(leaves[split:])).digest()


def merkle_root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root to which an inclusion path leads, top down as RFC 6962 defines it."""
    expect(0 <= index < size)
    if size == 1:
        expect(not path)
        return sha256(b"\x00" + leaf).digest()
    expect(bool(path))
    split = 1 << (size - 1).bit_length() - 1
    if index < split:
        below = merkle_root(leaf, index, split, path[:-1])
        return sha256(b"\x01" + below + path[-1]).digest()
    below = merkle_root(leaf, index - split, size - split, path[:-1])
    return sha256(b"\x01" + path[-1] + below).digest()


def state_root(path: list[Any], key: bytes, value: bytes | None) -> bytes:
    """The state root to which a StatePath leads."""
    _, siblings, other = path
    place = f"{int.from_bytes(digest('state-key', key), 'big'):0256b}"
    if other is None and value is not None:
        found = sha256(b"\x00" + digest("state-key", key) + digest("state-value", value)).digest()
    elif other is None:
        found = bytes(32)
    else:
        expect(value is None and other[1] != digest("state-key", key))
        theirs = f"{int.from_bytes(other[1], 'big'):0256b}"
        expect(theirs[: len(siblings)] == place[: len(siblings)])
        found = sha256(b"\x00" + other[1] + other[2]).digest()
    for bit, sibling in zip(reversed(place[: len(siblings)]), siblings, strict=True):
        pair = sibling + found if bit == "1" else found + sibling
        found = sha256(b"\x01" + pair).digest()
    return found


# Proofs


class Auditor:
    """Holds the genesis and nothing else."""

    def __init__(self, genesis: bytes) -> None:
        self.chain = digest("genesis", genesis)
        seats = sorted(member for member in decode(genesis)[9] if member[3] == "validator")
        listed = [[1, member[1], member[2], member[4], False] for member in seats]
        self.epochs: list[list[Any]] = [[1, 0, 1, "concilium.1", [1, listed]]]

    def follow(self, step: list[Any]) -> None:
        """Learn the next epoch from a Step."""
        _, header, certificate, epoch = step
        known = self.epochs[-1]
        expect(header[1] == self.chain)
        expect(certificate[1:3] == [header[2], digest("header", encode(header))])
        expect(header[8] == digest("epoch", encode(known)))
        expect(header[9] == digest("epoch", encode(epoch)))
        expect(epoch[1:3] == [known[1] + 1, header[2] + 1])
        self.votes(certificate, known)
        self.epochs.append(epoch)

    def header(self, certified: list[Any]) -> list[Any]:
        """The header of a CertifiedHeader."""
        _, header, certificate, later = certified
        signed = header if later is None else later[1]
        expect(header[1] == signed[1] == self.chain)
        expect(certificate[1:3] == [signed[2], digest("header", encode(signed))])
        ruling = [epoch for epoch in self.epochs if epoch[2] <= max(signed[2], 1)][-1]
        expect(signed[8] == digest("epoch", encode(ruling)))
        self.votes(certificate, ruling)
        if later is not None:
            leaf = digest("header", encode(header))
            expect(merkle_root(leaf, header[2], signed[2], later[2]) == signed[7])
        return list(header)

    def votes(self, certificate: list[Any], epoch: list[Any]) -> None:
        """A quorum of distinct seats that may vote signed the certificate's header."""
        _, height, header, votes = certificate
        message = digest("checkpoint", encode([self.chain, height, header]))
        seats = epoch[4][1]
        keys = {id: key for _, id, _, key, suspended in seats if not suspended}
        ids = [vote[1] for vote in votes]
        expect(len(votes) >= (len(seats) + (len(seats) - 1) // 3 + 2) // 2)
        expect(ids == sorted(set(ids)) and set(ids) <= set(keys))
        for _, id, signature in votes:
            verify(keys[id], message, signature)

    def record(self, proof: list[Any]) -> bytes | None:
        """The value that a RecordProof shows."""
        _, key, value, path, certified = proof
        expect(state_root(path, key, value) == self.header(certified)[6])
        return value if value is None else bytes(value)

    def transaction(self, proof: list[Any]) -> bytes:
        """The id of the transaction that a TransactionProof shows."""
        _, packed, receipt, index, size, path, receipt_path, certified = proof
        header = self.header(certified)
        expect(merkle_root(packed, index, size, path) == header[4])
        expect(merkle_root(encode(receipt), index, size, receipt_path) == header[5])
        _, intent, signature = decode(packed)
        id = digest("transaction", encode(intent))
        expect(intent[1] == self.chain and receipt[1:3] == [id, header[2]])
        verify(intent[4], id, signature)
        return id

    def lineage(self, proof: list[Any]) -> dict[bytes, bytes | None]:
        """The records that a LineageProof shows; not whether they tell the whole story."""
        _, certified, records = proof
        header = self.header(certified)
        for _, key, value, path in records:
            expect(state_root(path, key, value) == header[6])
        found = {key: value for _, key, value, _ in records}
        expect(len(found) == len(records))
        return found

    def uses(self, proof: list[Any]) -> list[list[Any]]:
        """The uses that a UseProof shows."""
        _, record, (tag, opened) = proof
        value = self.record(record)
        expect(value is not None and decode(record[1])[0] == "use_batch")
        batch = decode(value or b"")
        expect(decode(record[1])[1:] == batch[1:4])
        if tag == "one":
            _, index, leaf, path = opened
            expect(merkle_root(leaf, index, batch[9], path) == batch[10])
            leaves = [leaf]
        else:
            leaves = opened[1]
            expect(len(leaves) == batch[9] and tree_root(leaves) == batch[10])
        found = [decode(leaf) for leaf in leaves]
        for use in found:
            expect(use[3:7] == [batch[1], *batch[5:8]])
            expect(batch[11] <= use[2] <= batch[12] and use[7] <= batch[8])
        if tag == "all":
            times = [use[2] for use in found]
            total = [sum(use[7] for use in found), min(times), max(times)]
            expect(total == [batch[8], *batch[11:13]])
        return found


# Statements of consensus


def stated(tag: str, body: list[Any]) -> tuple[str, int, int, bytes]:
    """Kind, view, number and content of what a signed message states."""
    match tag:
        case "pre-prepare" | "prepare" | "commit":
            return tag.removeprefix("pre-"), body[1], body[2], body[3]
        case "checkpoint":
            return tag, 0, body[1], body[2]
    return tag, body[1], 0, digest("message", encode(body))


def statement(chain: bytes, epoch: int, kind: str, view: int, number: int, content: bytes) -> bytes:
    """What the signature of a statement covers."""
    if kind == "checkpoint":
        return digest(kind, encode([chain, number, content]))
    return digest(kind, encode([chain, epoch, view, number, content]))


def contradiction(chain: bytes, keys: dict[str, bytes], evidence: list[Any]) -> None:
    """Two contents for one slot, by a validator that has this key in their epoch."""
    _, validator, epoch, (_, kind, view, number), *said = evidence
    expect(validator in keys and said[0][1] != said[1][1])
    for _, content, signature in said:
        covered = statement(chain, epoch, kind, view, number, content)
        verify(keys[validator], covered, signature)


def verify(key: bytes, message: bytes, signature: bytes) -> None:
    """Refuse what does not verify; honest keys alone, so that libraries agree."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        raise Wrong from None


def signed_request(method: str, url: str, headers: dict[str, str]) -> tuple[bytes, bytes]:
    """What the signature of a request covers, in RFC 9421's words, and the signature."""
    rest = url.partition("://")[2]
    authority, _, target = rest.partition("/")
    path, _, query = f"/{target}".partition("?")
    known = {
        "@method": method,
        "@authority": authority,
        "@path": path,
        "@query": f"?{query}",
        "content-digest": headers.get("Content-Digest", ""),
    }
    _, _, parameters = headers.get("Signature-Input", "").partition("=")
    names = re.findall(r'"([^"]*)"', parameters.partition(")")[0])
    lines = [f'"{name}": {known[name]}' for name in names]
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    text = headers.get("Signature", "").partition("=:")[2].rstrip(":")
    return base.encode(), base64.b64decode(text)
