"""A compact sparse Merkle tree over SHA-256, versioned by height: the state and its paths.

The tree has 2^256 places; a record's place is the digest of its key. An empty subtree's digest is
32 zero bytes, a subtree of one leaf is that leaf itself, and any other is an interior node; so the
root depends on what is stored, never on the order or the batches in which it was written. The
design is that of Diem's Jellyfish tree ("Jellyfish Merkle Tree", 2021) with two children to a node.

Nodes live in a store that the caller injects. A node is never overwritten: each height writes its
own, and names those of earlier heights that its root no longer reaches, which may be deleted once
no earlier root need be read. State never deletes, so neither does the tree.

A leaf is stored once, under its whole path, however deep it hangs; its parent's link names the
path. So a leaf that moves down when a neighbour arrives is not written again.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, ClassVar, NewType, TypeAlias

from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.refusal import Refused
from vm.shape import Digest, Height, Many

DEPTH_MAX = 256  # bits of a path
KEY_BYTES_MAX = 256  # a kind and a few names of at most 64 bytes
VALUE_BYTES_MAX = 1024 * 1024  # one record; anything larger is a blob

DIGEST_BYTES = 32
EMPTY_DIGEST = bytes(DIGEST_BYTES)
LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"

NodeKey = NewType("NodeKey", bytes)
# What a parent holds of a child, as it is stored: 0 if empty; 1, height, digest if interior;
# 2, height, path, digest of the value if a leaf. Heights, of who wrote it, have 8 bytes. Bytes and
# no record, for each level of each read takes a node apart and mostly looks at one field.
Link = NewType("Link", bytes)
ReadNode: TypeAlias = Callable[[NodeKey], bytes]  # raises for a node that is not there


class DamagedNode(Exception):  # noqa: N818 - it says what is wrong with the store
    """A stored node is not what was written: no input's fault, so not a `Refused`, but a stop."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a leaf's digest covers: the path of its key and the digest of its value."""

    VERSION: ClassVar[int] = 1

    path: Digest
    value: Digest


@dataclass(frozen=True, slots=True)
class Root:
    """Where a tree begins: the height that wrote its top node, and that node's digest.

    `leaf` is the only leaf if there is just one. An unchanged tree keeps its root, so `height` may
    be lower than the block's.
    """

    VERSION: ClassVar[int] = 1

    height: Height
    digest: Digest
    leaf: Leaf | None


EMPTY = Root(0, EMPTY_DIGEST, None)

NOTHING = Link(b"\x00")
INTERIOR, LEAF = 1, 2  # first byte of the other links
_LINK_BYTES = (1, 41, 73)  # by first byte
_DEPTHS = tuple(depth.to_bytes(2, "big") for depth in range(DEPTH_MAX + 1))
_BYTES = tuple(bytes((byte,)) for byte in range(256))
_PATH_BIT = 8 * 9  # where a path begins in the link to a leaf


@dataclass(frozen=True, slots=True)
class Update:
    """What one height changes: nodes to store, and nodes that no root from now on reaches."""

    root: Root
    nodes: dict[NodeKey, bytes]
    stale: tuple[NodeKey, ...]


@dataclass(frozen=True, slots=True)
class StatePath:
    """Siblings from the lowest up, and the other leaf at the end if absence is shown by one."""

    VERSION: ClassVar[int] = 1

    siblings: Annotated[tuple[Digest, ...], Many(DEPTH_MAX)]
    leaf: Leaf | None


def get(read: ReadNode, root: Root, key: bytes) -> bytes | None:
    """The value of `key` under `root`, or None. Raises `DamagedNode`, or as `read`."""
    path = digest(STATE_KEY, key)
    link, _ = descend(read, root, path)
    return read_leaf(read, link)[1] if leaf_path(link) == path else None


def prove(read: ReadNode, root: Root, key: bytes) -> StatePath:
    """The path that shows the value of `key` under `root`, or that it has none.

    Raises `DamagedNode`, or as `read`.
    """
    path = digest(STATE_KEY, key)
    link, siblings = descend(read, root, path)
    siblings.reverse()
    return StatePath(tuple(siblings), None if leaf_path(link) == path else leaf_of(link))


def verify(path: StatePath, root_digest: Digest, key: bytes, value: bytes | None) -> None:
    """Check that `key` has `value` under the root, or with None that it has none.

    Raises `Refused` with `state_path.bounds`, `.unexpected_leaf` (a value's path ends at its own
    leaf), `.leaf_is_key` (absence shown by the key's own leaf), `.leaf_elsewhere` (the other leaf
    does not stand in the key's way) or `.root` (the siblings do not lead to it).
    """
    check_bounds(path.siblings, (key,))
    place, depth = digest(STATE_KEY, key), len(path.siblings)
    found = end_digest(place, depth, value, path.leaf)
    bits = int.from_bytes(place, "big") >> DEPTH_MAX - depth
    for sibling in path.siblings:
        found = interior_digest(sibling, found) if bits & 1 else interior_digest(found, sibling)
        bits >>= 1
    if found != root_digest:
        raise Refused("state_path.root", f"expected root {root_digest.hex()}, found {found.hex()}")


def update(read: ReadNode, root: Root, height: int, writes: Mapping[bytes, bytes]) -> Update:
    """The tree at `height` with all of `writes` in it; every interior node is built once.

    A write that changes nothing leaves no trace. Each height takes one batch.
    Raises `DamagedNode`, or as `read`.
    """
    assert height > root.height or root == EMPTY, f"height {height} is already written"
    own, nodes, leaves = height.to_bytes(8, "big"), dict[NodeKey, bytes](), []
    for key, value in writes.items():
        assert len(key) <= KEY_BYTES_MAX, f"expected a short key, found {len(key)} bytes"
        assert len(value) <= VALUE_BYTES_MAX, f"expected a short value, found {len(value)} bytes"
        path = digest(STATE_KEY, key)
        leaves.append(leaf_link(own, path, digest(STATE_VALUE, value)))
        nodes[node_key(own, DEPTH_MAX, path)] = leaf_bytes(key, value)
    leaves.sort()  # of one height, so by path
    growth = _Growth(read, own, nodes)
    link = growth.merge(link_of(root), leaves, 0)
    return Update(root_of(link), nodes, tuple(growth.stale))


@dataclass(slots=True)
class _Growth:
    """One batch on its way down the tree: what it has written and what it has replaced."""

    read: ReadNode
    height: bytes
    nodes: dict[NodeKey, bytes]
    stale: list[NodeKey] = field(default_factory=list)

    def merge(self, link: Link, leaves: list[Link], depth: int) -> Link:
        """The subtree at `link` with `leaves` added, in order of path; `link` if unchanged."""
        if not leaves:
            return link
        if len(leaves) == 1:
            return self._insert(link, leaves[0], depth)
        if link[0] != INTERIOR:
            return self._build(self._join(link, leaves), depth)
        path = leaf_path(leaves[0])
        left, right = children(self.read, link, depth, path)
        middle = _first_right(leaves, depth)
        new_left = self.merge(left, leaves[:middle], depth + 1)
        new_right = self.merge(right, leaves[middle:], depth + 1)
        if new_left is left and new_right is right:
            return link
        self.stale.append(node_key(link[1:9], depth, path))
        return self._write(new_left, new_right, depth, path)

    def _insert(self, link: Link, leaf: Link, depth: int) -> Link:
        """`merge` of one leaf, in a loop: below the first levels of a large tree no two meet."""
        top, path, above = link, leaf_path(leaf), list[tuple[NodeKey, bytes, Link, int]]()
        while link[0] == INTERIOR:
            place = _place(depth, path)
            key = NodeKey(link[1:9] + place)
            left, right = _open(self.read(key), link, key)
            turn = bit(path, depth)
            link, sibling = (right, left) if turn else (left, right)
            above.append((key, place, sibling, turn))
            depth += 1
        made = self._build(self._join(link, [leaf]), depth)
        if made is link:
            return top
        for key, place, sibling, turn in reversed(above):
            self.stale.append(key)
            left, right = (sibling, made) if turn else (made, sibling)
            self.nodes[NodeKey(self.height + place)] = left + right
            made = interior_link(self.height, left, right)
        return made

    def _build(self, leaves: list[Link], depth: int) -> Link:
        """The subtree of these leaves alone."""
        if not leaves:
            return NOTHING
        if len(leaves) == 1:
            return leaves[0]
        middle = _first_right(leaves, depth)
        left = self._build(leaves[:middle], depth + 1)
        right = self._build(leaves[middle:], depth + 1)
        return self._write(left, right, depth, leaf_path(leaves[0]))

    def _join(self, old: Link, leaves: list[Link]) -> list[Link]:
        """`leaves` and the leaf that stood in their place, unless one of them replaces it."""
        if old == NOTHING:
            return leaves
        path = leaf_path(old)
        place = bisect_left(leaves, path, key=leaf_path)
        if place == len(leaves) or leaf_path(leaves[place]) != path:
            return [*leaves[:place], old, *leaves[place:]]
        if leaves[place][41:] == old[41:]:
            del self.nodes[node_key(self.height, DEPTH_MAX, path)]
            return [*leaves[:place], old, *leaves[place + 1 :]]
        self.stale.append(node_key(old[1:9], DEPTH_MAX, path))
        return leaves

    def _write(self, left: Link, right: Link, depth: int, path: bytes) -> Link:
        self.nodes[node_key(self.height, depth, path)] = left + right
        return interior_link(self.height, left, right)


def node_key(height: bytes, depth: int, path: bytes) -> NodeKey:
    """Height (8 bytes) || depth (2 bytes) || the first `depth` bits of `path`, zero-filled.

    Keys sort by height, so a store writes the nodes of each height behind all earlier ones.
    """
    return NodeKey(height + _place(depth, path))


def split_keys(joined: bytes) -> Iterator[NodeKey]:
    """Node keys that were joined: each tells by its depth how long it is."""
    start = 0
    while start < len(joined):
        depth = int.from_bytes(joined[start + 8 : start + 10], "big")
        end = start + 10 + (depth + 7 >> 3)
        yield NodeKey(joined[start:end])
        start = end


def leaf_key(height: bytes, key: bytes) -> NodeKey:
    """Where the leaf of a state key stands that was written at `height`."""
    return NodeKey(height + _place(DEPTH_MAX, digest(STATE_KEY, key)))


def depth_of(key: NodeKey) -> int:
    """How many levels a node lies below the top; `DEPTH_MAX` for a leaf, wherever it hangs."""
    return key[8] << 8 | key[9]


def _place(depth: int, path: bytes) -> bytes:
    """A node key without its height."""
    whole, rest = depth >> 3, depth & 7
    if rest:
        return _DEPTHS[depth] + path[:whole] + _BYTES[path[whole] & 0xFF00 >> rest]
    return _DEPTHS[depth] + path[:whole]


def descend(read: ReadNode, root: Root, path: bytes) -> tuple[Link, list[Digest]]:
    """The leaf or the empty subtree in which `path` ends, and the siblings met, topmost first."""
    link, siblings, depth = link_of(root), [], 0
    while link[0] == INTERIOR:
        left, right = children(read, link, depth, path)
        link, sibling = (right, left) if bit(path, depth) else (left, right)
        siblings.append(link_digest(sibling))
        depth += 1
    return link, siblings


def children(read: ReadNode, link: Link, depth: int, path: bytes) -> tuple[Link, Link]:
    """Both children of the interior node at `link`; raises `DamagedNode`, or as `read`."""
    key = node_key(link[1:9], depth, path)
    return _open(read(key), link, key)


def _open(data: bytes, link: Link, key: NodeKey) -> tuple[Link, Link]:
    """The children in a stored node; only what `_write` writes is accepted."""
    middle = _LINK_BYTES[data[0]] if data and data[0] <= LEAF else len(data)
    left, right = Link(data[:middle]), Link(data[middle:])
    good = right and right[0] <= LEAF and len(right) == _LINK_BYTES[right[0]]
    if not good or _collapses(left, right) or pair_digest(left, right) != link[9:]:
        raise DamagedNode(f"expected the interior node {link[9:].hex()} at {key.hex()}")
    return left, right


def _collapses(left: Link, right: Link) -> bool:
    """Whether fewer than two leaves hang below, so that no interior node stands above them."""
    lower, other = (right, left) if left == NOTHING else (left, right)
    return other == NOTHING and lower[0] != INTERIOR


def read_leaf(read: ReadNode, link: Link) -> tuple[bytes, bytes]:
    """Key and value in the leaf at `link`; raises `DamagedNode`, or as `read`."""
    path = leaf_path(link)
    node = node_key(link[1:9], DEPTH_MAX, path)
    key, value = split_leaf(read(node))
    if digest(STATE_KEY, key) != path or digest(STATE_VALUE, value) != link[41:]:
        raise DamagedNode(f"expected the leaf {link_digest(link).hex()} at {node.hex()}")
    return key, value


def leaf_bytes(key: bytes, value: bytes) -> bytes:
    """What is stored of a leaf, under its whole path."""
    return len(key).to_bytes(2, "big") + key + value


def split_leaf(data: bytes) -> tuple[bytes, bytes]:
    """Key and value of what `leaf_bytes` made; raises `DamagedNode` for bytes cut off."""
    start = 2 + int.from_bytes(data[:2], "big")
    if start > len(data):
        raise DamagedNode(f"expected a leaf with a key of {start - 2} bytes, found {len(data)}")
    return data[2:start], data[start:]


def link_of(root: Root) -> Link:
    """The link to the top of a tree."""
    if root.digest == EMPTY_DIGEST:
        return NOTHING
    height = root.height.to_bytes(8, "big")
    if root.leaf is None:
        return Link(b"\x01" + height + root.digest)
    return leaf_link(height, root.leaf.path, root.leaf.value)


def root_of(link: Link) -> Root:
    """The root whose top `link` names; the height of an empty tree is 0."""
    return Root(int.from_bytes(link[1:9], "big"), link_digest(link), leaf_of(link))


def leaf_link(height: bytes, path: bytes, value: bytes) -> Link:
    """The link to a leaf, by its path and the digest of its value."""
    return Link(b"\x02" + height + path + value)


def interior_link(height: bytes, left: Link, right: Link) -> Link:
    """The link to the node of two children."""
    return Link(b"\x01" + height + pair_digest(left, right))


def leaf_path(link: Link) -> bytes:
    """The path of the leaf at `link`; b"" of any other link."""
    return link[9:41] if link[0] == LEAF else b""


def leaf_of(link: Link) -> Leaf | None:
    """The leaf at `link`, if it is the link to one."""
    return Leaf(link[9:41], link[41:]) if link[0] == LEAF else None


def link_digest(link: Link) -> Digest:
    """The digest of the subtree at `link`."""
    if link[0] == INTERIOR:
        return link[9:]
    return sha256(LEAF_PREFIX + link[9:]).digest() if link[0] == LEAF else EMPTY_DIGEST


def pair_digest(left: Link, right: Link) -> Digest:
    """The digest of the node of two children."""
    one = left[9:] if left[0] == INTERIOR else link_digest(left)
    other = right[9:] if right[0] == INTERIOR else link_digest(right)
    return interior_digest(one, other)


def leaf_digest(path: bytes, value: bytes) -> bytes:
    """The digest of a leaf, by its path and the digest of its value."""
    return sha256(LEAF_PREFIX + path + value).digest()


def interior_digest(left: bytes, right: bytes) -> bytes:
    """The digest of a subtree of two leaves or more, by those of its halves."""
    return sha256(NODE_PREFIX + left + right).digest()


def bit(path: bytes, depth: int) -> int:
    """The bit of `path` that decides at `depth`: 0 goes left."""
    return path[depth >> 3] >> (~depth & 7) & 1


def _first_right(leaves: list[Link], depth: int) -> int:
    """How many of the sorted `leaves`, alike above `depth`, have bit 0 there."""
    return bisect_left(leaves, 1, key=lambda link: bit(link, depth + _PATH_BIT))


def shared_bits(one: bytes, other: bytes) -> int:
    """How many bits two paths have in common from the top."""
    difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return DEPTH_MAX - difference.bit_length()


def end_digest(place: Digest, depth: int, value: bytes | None, other: Leaf | None) -> Digest:
    """What a path to `place` ends in, `depth` bits below the root: its leaf, another, or nothing.

    Raises `Refused` with `state_path.bounds`, `.unexpected_leaf`, `.leaf_is_key` or
    `.leaf_elsewhere`: a proof may come from anywhere, not only `unpack`.
    """
    _check_end(depth, value, other)
    if value is not None:
        if other is not None:
            raise Refused("state_path.unexpected_leaf", "expected the key's own leaf alone")
        return leaf_digest(place, digest(STATE_VALUE, value))
    if other is None:
        return EMPTY_DIGEST
    if other.path == place:
        raise Refused("state_path.leaf_is_key", "expected no value, found a leaf with this key")
    if shared_bits(other.path, place) < depth:
        raise Refused(
            "state_path.leaf_elsewhere",
            f"expected a leaf that shares {depth} bits with the key's path, "
            f"found {shared_bits(other.path, place)}",
        )
    return leaf_digest(other.path, other.value)


def _check_end(depth: int, value: bytes | None, other: Leaf | None) -> None:
    if not 0 <= depth <= DEPTH_MAX:
        expected, found = f"a depth of at most {DEPTH_MAX}", depth
    elif other is not None and {len(other.path), len(other.value)} != {DIGEST_BYTES}:
        expected, found = "a leaf of two digests", len(other.path) + len(other.value)
    elif value is not None and len(value) > VALUE_BYTES_MAX:
        expected, found = f"a value of at most {VALUE_BYTES_MAX} bytes", len(value)
    else:
        return
    raise Refused("state_path.bounds", f"expected {expected}, found {found}")


def check_bounds(siblings: Iterable[bytes], keys: Iterable[bytes]) -> None:
    """Raise `Refused("state_path.bounds")` for siblings that are no digests, or too long a key."""
    if any(len(item) != DIGEST_BYTES for item in siblings):
        raise Refused("state_path.bounds", "expected siblings of 32 bytes alone, found others")
    longest = max(map(len, keys))
    if longest > KEY_BYTES_MAX:
        raise Refused(
            "state_path.bounds",
            f"expected keys of at most {KEY_BYTES_MAX} bytes, found {longest}",
        )
