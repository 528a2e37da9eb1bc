"""Vectors of what everything else stands on: bytes, digests, signatures, trees, certificates."""

from dataclasses import replace
from typing import Any

from tests.vectors import hostile
from tests.vectors.spelling import CHAIN, code_of, hexes, spelled
from vm import digest as digests
from vm import keys, sparse, tree
from vm import range as state_range
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest, verify_checkpoint
from vm.encoding import Value, decode, encode
from vm.keys import SigningKey
from vm.quorum import Validator, ValidatorSet
from vm.shape import pack


def encoding() -> dict[str, Any]:
    """Values with their bytes, and bytes that are no value."""
    values: tuple[Value, ...] = (
        *(None, False, True, "", "a", "é", "a" * 31, "a" * 32, b"", b"\x00\xff", (), ((),)),
        *(edge + step for edge in (0, 2**7, 2**8, 2**16, 2**32, 2**63) for step in (-1, 0, 1)),
        *(-edge + step for edge in (32, 2**7, 2**15, 2**31) for step in (-1, 0, 1)),
        *(-(2**63), 2**64 - 1, (None,) * 15, (None,) * 16, (1, "a", (b"b", (True, -5)))),
    )
    return {
        "encoded": [{"value": spelled(value), "bytes": encode(value).hex()} for value in values],
        "refused": [
            {"why": why, "bytes": data, "code": code_of(decode, bytes.fromhex(data))}
            for why, data in hostile.ENCODINGS
        ],
    }


def digest() -> dict[str, Any]:
    """Every tag over two inputs."""
    constants = (value for name, value in vars(digests).items() if name.isupper())
    tags = sorted(value for value in constants if isinstance(value, str))
    return {
        "digests": [
            {"tag": tag, "data": data.hex(), "digest": digests.digest(tag, data).hex()}
            for tag in tags
            for data in (b"", b"abc")
        ]
    }


def key() -> dict[str, Any]:
    """Signatures by fixed seeds, and hostile ones with the verdict on each."""
    signed = []
    for seed in (bytes(32), bytes(range(32)), b"\xff" * 32):
        for message in (b"", b"a", bytes(32)):
            own = SigningKey(seed)
            signed.append(
                {
                    "seed": seed.hex(),
                    "public": own.public.hex(),
                    "message": message.hex(),
                    "signature": own.sign(message).hex(),
                }
            )
    judged = [
        {
            "why": why,
            "public": public.hex(),
            "message": message.hex(),
            "signature": signature.hex(),
            "verifies": keys.verify(public, message, signature),
        }
        for why, public, message, signature in hostile.signatures()
    ]
    return {"signed": signed, "judged": judged}


def history() -> dict[str, Any]:
    """Roots of the first n of 9 leaves, and paths between them, as RFC 6962 has them."""
    leaves = [bytes(range(n)) for n in range(9)]
    nodes: dict[tuple[int, int], bytes] = {}
    frontier = tree.EMPTY
    for leaf in leaves:
        frontier, completed = tree.append(frontier, leaf)
        nodes |= {(level, index): node for level, index, node in completed}

    def read(level: int, index: int) -> bytes:
        return nodes[level, index]

    sizes = range(1, len(leaves) + 1)
    return {
        "leaves": [leaf.hex() for leaf in leaves],
        "roots": [tree.root(leaves[:size]).hex() for size in range(len(leaves) + 1)],
        "nodes": [
            {"level": level, "index": index, "digest": node.hex()}
            for (level, index), node in sorted(nodes.items())
        ],
        "inclusion": [
            {"index": index, "size": size, "path": hexes(tree.inclusion_path(leaves[:size], index))}
            for size in sizes
            for index in range(size)
        ],
        "consistency": [
            {"old": old, "new": new, "path": hexes(tree.consistency_path_at(read, old, new))}
            for new in sizes
            for old in range(1, new + 1)
        ],
    }


def state() -> dict[str, Any]:
    """Three heights of writes with all nodes, then paths and attacks under the last root."""
    batches = [
        {b"record %d" % i: b"value %d at %d" % (i, height) for i in range(height, 12, height + 1)}
        for height in range(3)
    ]
    store: dict[sparse.NodeKey, bytes] = {}
    root, heights = sparse.EMPTY, []
    for height, writes in enumerate(batches):
        update = sparse.update(store.__getitem__, root, height, writes)
        store, root = store | update.nodes, update.root
        heights.append(
            {
                "height": height,
                "writes": [{"key": k.hex(), "value": v.hex()} for k, v in sorted(writes.items())],
                "root": pack(root).hex(),
                "digest": root.digest.hex(),
                "nodes": {node.hex(): data.hex() for node, data in sorted(update.nodes.items())},
                "stale": sorted(node.hex() for node in update.stale),
            }
        )
    accepted, refused = [], []
    for name in (b"record 0", b"record 5", b"record 11", b"absent", b"absent 2"):
        path = sparse.prove(store.__getitem__, root, name)
        value = sparse.get(store.__getitem__, root, name)
        accepted.append(state_claim(path, name, value))
        for why, attack, claimed in hostile.state_paths(path, name, value):
            code = code_of(sparse.verify, attack, root.digest, name, claimed)
            refused.append({"why": why, "code": code, **state_claim(attack, name, claimed)})
    return {"heights": heights, "accepted": accepted, "refused": refused}


def ranges() -> dict[str, Any]:
    """A tree of forty records, its ranges from end to end, and ranges that lie."""
    writes = {b"record %d" % i: b"value %d" % i for i in range(40)}
    nothing: dict[sparse.NodeKey, bytes] = {}
    update = sparse.update(nothing.__getitem__, sparse.EMPTY, 0, writes)
    read, root = update.nodes.__getitem__, update.root
    accepted, refused = [], []
    start: bytes | None = state_range.FIRST_PATH
    stop = b"\xbf" + b"\xff" * 31
    while start is not None and start <= stop:
        part = state_range.prove_range(read, root, start, stop, 160)
        accepted.append(range_claim(start, stop, part))
        for why, attack in hostile.state_ranges(part):
            code = code_of(state_range.verify_range, root.digest, start, stop, attack)
            refused.append({"why": why, "code": code, **range_claim(start, stop, attack)})
        start = state_range.next_path(part.end)
    return {
        "writes": [{"key": k.hex(), "value": v.hex()} for k, v in sorted(writes.items())],
        "digest": root.digest.hex(),
        "accepted": accepted,
        "refused": refused,
    }


def range_claim(start: bytes, stop: bytes, part: state_range.StateRange) -> dict[str, Any]:
    """What was asked, and the packed range that answers."""
    return {"start": start.hex(), "stop": stop.hex(), "range": pack(part).hex()}


def state_claim(path: sparse.StatePath, key: bytes, value: bytes | None) -> dict[str, Any]:
    """A claim about one key: its value, or null for none, and the packed path that shows it."""
    return {
        "key": key.hex(),
        "value": None if value is None else value.hex(),
        "path": pack(path).hex(),
    }


def certificate() -> dict[str, Any]:
    """A checkpoint that four of five validators signed, and certificates that prove nothing."""
    signing = {f"v{i}": SigningKey(bytes((i,)) * 32) for i in range(5)}
    seats = (Validator(id, f"hospital-{id}", own.public) for id, own in signing.items())
    members = ValidatorSet(tuple(seats))
    header, height = b"\x11" * 32, 7
    message = checkpoint_digest(CHAIN, height, header)
    votes = tuple(Vote(id, own.sign(message)) for id, own in signing.items())
    good = CheckpointCertificate(height, header, votes[:4])
    verify_checkpoint(good, CHAIN, members)
    fewer = ValidatorSet(
        tuple(replace(seat, suspended=seat.id == "v3") for seat in members.validators)
    )
    return {
        "chain": CHAIN.hex(),
        "validators": pack(members).hex(),
        "header": header.hex(),
        "height": height,
        "signed": message.hex(),
        "accepted": pack(good).hex(),
        "refused": [
            {
                "why": why,
                "certificate": pack(attack).hex(),
                "code": code_of(verify_checkpoint, attack, CHAIN, members),
            }
            for why, attack in hostile.certificates(good, votes)
        ],
        "suspended": {
            "validators": pack(fewer).hex(),
            "code": code_of(verify_checkpoint, good, CHAIN, fewer),
        },
    }
