"""A second reader, written from docs/protocol.md alone: it verifies proofs without our code.

It is no part of the product. Every rule is repeated here on purpose, as plainly as the document has
it, and with another Ed25519 library; whatever the document leaves open would show here first.
"""

import base64
import binascii
import json
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


def end_digest(key: bytes, value: bytes | None, depth: int, other: list[Any] | None) -> bytes:
    """What stands where a path ends: the key's own leaf, another one in its way, or nothing."""
    place = digest("state-key", key)
    expect(0 <= depth <= 256)
    if other is None:
        leaf = sha256(b"\x00" + place + digest("state-value", value or b"")).digest()
        return bytes(32) if value is None else leaf
    expect(value is None and other[1] != place)
    expect(bits(other[1])[:depth] == bits(place)[:depth])
    return sha256(b"\x00" + other[1] + other[2]).digest()


def state_root(path: list[Any], key: bytes, value: bytes | None) -> bytes:
    """The state root to which a StatePath leads."""
    _, siblings, other = path
    place = bits(digest("state-key", key))
    found = end_digest(key, value, len(siblings), other)
    for bit, sibling in zip(reversed(place[: len(siblings)]), siblings, strict=True):
        pair = sibling + found if bit == "1" else found + sibling
        found = sha256(b"\x01" + pair).digest()
    return found


def bits(place: bytes) -> str:
    """A place in the state tree, as the turns that lead to it."""
    return f"{int.from_bytes(place, 'big'):0256b}"


def end(record: list[Any]) -> tuple[int, bytes]:
    """Where an entry's path ends: its depth, and the digest that stands there."""
    _, key, value, depth, other = record
    return depth, end_digest(key, value, depth, other)


def subtree(ends: list[tuple[str, int, bytes]], depth: int, left: list[bytes]) -> bytes:
    """The digest of the subtree at `depth` in which all of `ends` lie; takes siblings in order."""
    if any(end[1] == depth for end in ends):
        expect(len({(end[1], end[2]) for end in ends}) == 1)
        return ends[0][2]
    halves = []
    for turn in "01":
        inside = [end for end in ends if end[0][depth] == turn]
        halves.append(subtree(inside, depth + 1, left) if inside else None)
    for half, found in enumerate(halves):
        if found is None:
            expect(bool(left))
            halves[half] = left.pop()
    return sha256(b"\x01" + b"".join(half for half in halves if half is not None)).digest()


def old_and_new(
    old: int, new: int, root: bytes, path: list[bytes], *, whole: bool
) -> tuple[bytes, bytes]:
    """Both roots that a consistency path leads to: SUBPROOF of RFC 6962, section 2.1.2, undone."""
    if old == new:
        if whole:
            return root, root
        expect(bool(path))
        found = path.pop(0)
        return found, found
    split = 1 << (new - 1).bit_length() - 1
    if old <= split:
        before, after = old_and_new(old, split, root, path, whole=whole)
        expect(bool(path))
        return before, sha256(b"\x01" + after + path.pop(0)).digest()
    before, after = old_and_new(old - split, new - split, root, path, whole=False)
    expect(bool(path))
    peer = path.pop(0)
    return sha256(b"\x01" + peer + before).digest(), sha256(b"\x01" + peer + after).digest()


# Proofs


class Auditor:
    """Holds the genesis and nothing else."""

    def __init__(self, genesis: bytes) -> None:
        self.chain, self.pin = digest("genesis", genesis), [-1, b""]
        seats = sorted(member for member in decode(genesis)[9] if member[3] == "validator")
        listed = [[1, member[1], member[2], member[4], False] for member in seats]
        self.epochs: list[list[Any]] = [[1, 0, 1, "concilium.1", [1, listed]]]

    @classmethod
    def pinned(cls, pin: str, certified: list[Any], epoch: list[Any]) -> "Auditor":
        """Holds a pin, and what a file brings of it."""
        found = certified[1]
        header = digest("header", encode(found))
        expect(pin == f"{found[2]}:{header.hex()}")
        expect(found[8] == digest("epoch", encode(epoch)))
        auditor = cls.__new__(cls)
        auditor.chain, auditor.pin, auditor.epochs = found[1], [found[2], header], [epoch]
        return auditor

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
        expect(signed[2] > self.pin[0] or certificate[1:3] == self.pin)
        known = self.until(signed[2])
        expect(bool(known) and signed[8] == digest("epoch", encode(known[-1])))
        self.votes(certificate, known[-1])
        if later is not None:
            leaf = digest("header", encode(header))
            expect(merkle_root(leaf, header[2], signed[2], later[2]) == signed[7])
        if earlier := self.until(header[2]):
            expect(header[8] == digest("epoch", encode(earlier[-1])))
        return list(header)

    def until(self, height: int) -> list[Any]:
        """The known epochs that have begun at a height; genesis is under the first."""
        return [epoch for epoch in self.epochs if epoch[2] <= max(height, 1)]

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

    def record_at(self, proof: list[Any], height: int) -> bytes | None:
        """The value that a RecordProof shows at this very height."""
        expect(proof[4][1][2] == height)
        return self.record(proof)

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
        """The records that a MultiProof shows; not whether they tell the whole story."""
        _, certified, records, siblings = proof
        header = self.header(certified)
        places = [digest("state-key", record[1]) for record in records]
        expect(bool(records) and places == sorted(set(places)))
        ends = [(bits(place), *end(record)) for place, record in zip(places, records, strict=True)]
        left = list(reversed(siblings))
        expect(subtree(ends, 0, left) == header[6] and not left)
        return {record[1]: record[2] for record in records}

    def records(self, proof: list[Any], keys: list[bytes]) -> None:
        """A MultiProof of exactly these keys."""
        expect(set(self.lineage(proof)) == set(keys))

    def block(self, proof: list[Any], height: int, under: int) -> list[Any]:
        """The header of a block under the checkpoint of another height, or its own."""
        _, certified = proof
        _, header, certificate, _ = certified
        expect(header[2] == height and certificate[1] == under)
        return self.header(certified)

    def consistency(self, proof: list[Any]) -> None:
        """Two headers of one history."""
        _, older, newer, inclusion, consistency = proof
        old, new = self.header(older), self.header(newer)
        expect(old[2] < new[2])
        leaf = digest("header", encode(old))
        expect(merkle_root(leaf, old[2], new[2], inclusion) == new[7])
        left = list(consistency)
        roots = old_and_new(old[2], new[2], old[7], left, whole=True)
        expect(roots == (old[7], new[7]) and not left)

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
        if len(found) == batch[9]:
            times, hour = [use[2] for use in found], 3_600_000
            first, last = min(times) // hour * hour, (max(times) + hour - 1) // hour * hour
            total = [sum(use[7] for use in found), first, last]
            expect(total == [batch[8], *batch[11:13]])
        return found


# Files

MEMBERS = {"format", "kind", "chain", "from", "steps", "subject", "proof"}
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
NAMED = (  # kinds of records with the parts of their keys: t for a name, n for a number
    "access_log:t audit:tntt commitment:tnt dataset:t decline:tnt endpoint:t fault:t holdout:t "
    "member:t member_keys:t model:tn model_head:t model_mark:t model_usage:t organisation:t "
    "proposal:t reputation:t round:tn site_approval:tt task:t update:tnt use_batch:ttn "
    "verdict:tntt visit:tntt"
)


def read_file(text: str, genesis: bytes, pin: str | None) -> None:
    """Verify a proof file from the genesis, or from a pin alone."""
    file = json.loads(text, object_pairs_hook=once)
    expect(set(file) == MEMBERS and file["format"] == "concilium.proof.v2")
    auditor, start = Auditor(genesis), file["from"]
    if start is not None:
        certified, epoch = unwrap(start["certified"]), unwrap(start["epoch"])
        said = f"{start['height']}:{start['header']}"
        expect(set(start) == {"height", "header", "certified", "epoch"})
        brought = Auditor.pinned(said, certified, epoch)
        auditor = auditor if pin is None else Auditor.pinned(pin, certified, epoch)
        expect(brought.chain == auditor.chain)
    else:
        expect(pin is None)
    expect(file["chain"] == auditor.chain.hex())
    begin = 0 if start is None else unwrap(start["epoch"])[1]
    expect(begin == auditor.epochs[0][1] and len(file["steps"]) <= 1024)
    for number, step in enumerate(map(unwrap, file["steps"]), begin + 1):
        expect(step[3][1] == number)
        auditor.follow(step)
    judge(auditor, file["kind"], file["subject"], unwrap(file["proof"]))


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each member of which stands once."""
    expect(len(dict(pairs)) == len(pairs))
    return dict(pairs)


def named(key: bytes) -> list[Any]:
    """The kind and the parts of a record's key."""
    kind, *parts = decode(key)
    expect(f"{kind}:{''.join('tn'[type(part) is int] for part in parts)}" in NAMED.split())
    expect(all(NAME.fullmatch(str(part)) for part in parts))
    return [kind, *parts]


def judge(auditor: Auditor, kind: str, subject: dict[str, Any], proof: list[Any]) -> None:
    """Verify what a file says of its proof."""
    match kind:
        case "record":
            auditor.record(proof)
            expect(subject == {"record": named(proof[1])})
        case "records":
            auditor.lineage(proof)
            expect(subject == {"records": [named(entry[1]) for entry in proof[2]]})
        case "transaction":
            expect(subject == {"transaction": auditor.transaction(proof).hex()})
        case "block":
            expect(set(subject) == {"block", "under"} and {*map(type, subject.values())} == {int})
            auditor.block(proof, subject["block"], subject["under"])
        case "consistency":
            auditor.consistency(proof)
            expect(subject == {"older": proof[1][1][2], "newer": proof[2][1][2]})
        case "use":
            auditor.uses(proof)
            expect(subject == {"batch": named(proof[1][1])})
        case _:
            raise Wrong


def unwrap(text: str) -> list[Any]:
    """The array in base64."""
    try:
        found = decode(base64.b64decode(text, validate=True))
    except binascii.Error:
        raise Wrong from None
    expect(isinstance(found, list))
    return list(found)


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
