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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, ClassVar, NamedTuple, NewType, TypeAlias

from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.refusal import Refused
from vm.shape import Digest, Height, Many

DEPTH_MAX = 256  # bits of a path
KEY_BYTES_MAX = 256  # a kind and a few names of at most 64 bytes
VALUE_BYTES_MAX = 1024 * 1024  # one record; anything larger is a blob

EMPTY_DIGEST = bytes(32)
LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"

NodeKey = NewType("NodeKey", bytes)
ReadNode: TypeAlias = Callable[[NodeKey], bytes]  # raises for a node that is not there


@dataclass(frozen=True, slots=True)
class Root:
    """Where a tree begins: the height that wrote its top node, and that node's digest.

    `leaf` is the path of the only leaf if there is just one. An unchanged tree keeps its root, so
    `height` may be lower than the block's.
    """

    VERSION: ClassVar[int] = 1

    height: Height
    digest: Digest
    leaf: Digest | None


EMPTY = Root(0, EMPTY_DIGEST, None)


@dataclass(frozen=True, slots=True)
class Update:
    """What one height changes: nodes to store, and nodes that no root from now on reaches."""

    root: Root
    nodes: dict[NodeKey, bytes]
    stale: tuple[NodeKey, ...]


@dataclass(frozen=True, slots=True)
class OtherLeaf:
    """The leaf that stands where a key would have to be: its path and its value's digest."""

    VERSION: ClassVar[int] = 1

    path: Digest
    value: Digest


@dataclass(frozen=True, slots=True)
class StatePath:
    """Siblings from the lowest up, and the other leaf at the end if absence is shown by one."""

    VERSION: ClassVar[int] = 1

    siblings: Annotated[tuple[Digest, ...], Many(DEPTH_MAX)]
    leaf: OtherLeaf | None


def get(read: ReadNode, root: Root, key: bytes) -> bytes | None:
    """The value of `key` under `root`, or None. Raises as `read`, or `Refused("state_node.*")`."""
    path = digest(STATE_KEY, key)
    link, _ = _descend(read, root, path)
    return _read_leaf(read, link)[1] if link.leaf == path else None


def prove(read: ReadNode, root: Root, key: bytes) -> StatePath:
    """The path that shows the value of `key` under `root`, or that it has none."""
    path = digest(STATE_KEY, key)
    link, siblings = _descend(read, root, path)
    if link.leaf is None or link.leaf == path:
        return StatePath(siblings, None)
    _, value = _read_leaf(read, link)
    return StatePath(siblings, OtherLeaf(link.leaf, digest(STATE_VALUE, value)))


def verify(path: StatePath, root_digest: Digest, key: bytes, value: bytes | None) -> None:
    """Check that `key` has `value` under the root, or with None that it has none.

    Raises `Refused` with `state_path.bounds`, `.unexpected_leaf` (a value's path ends at its own
    leaf), `.leaf_is_key` (absence shown by the key's own leaf), `.leaf_elsewhere` (the other leaf
    does not stand in the key's way) or `.root` (the siblings do not lead to it).
    """
    _check_bounds(path, key, value)
    place, other = digest(STATE_KEY, key), path.leaf
    depth = len(path.siblings)
    if other is None:
        found = _leaf(place, digest(STATE_VALUE, value)) if value is not None else EMPTY_DIGEST
    elif value is not None:
        raise Refused("state_path.unexpected_leaf", "expected the key's own leaf, found another")
    elif other.path == place:
        raise Refused("state_path.leaf_is_key", "expected no value, found a leaf with this key")
    elif _shared_bits(other.path, place) < depth:
        raise Refused(
            "state_path.leaf_elsewhere",
            f"expected a leaf that shares {depth} bits with the key's path, "
            f"found {_shared_bits(other.path, place)}",
        )
    else:
        found = _leaf(other.path, other.value)
    bits = int.from_bytes(place, "big") >> DEPTH_MAX - depth
    for sibling in path.siblings:
        found = _interior(sibling, found) if bits & 1 else _interior(found, sibling)
        bits >>= 1
    if found != root_digest:
        raise Refused(
            "state_path.root", f"expected root {root_digest.hex()}, found {found.hex()}"
        )


def update(read: ReadNode, root: Root, height: int, writes: Mapping[bytes, bytes]) -> Update:
    """The tree at `height` with all of `writes` in it; every interior node is built once.

    A write that changes nothing leaves no trace. Takes one batch for each height.
    """
    assert root.height < height or root == EMPTY, f"height {height} is already written"
    prefix, nodes, leaves = height.to_bytes(8, "big"), dict[NodeKey, bytes](), []
    for key, value in writes.items():
        assert len(key) <= KEY_BYTES_MAX and len(value) <= VALUE_BYTES_MAX, "a record's bounds"
        path = digest(STATE_KEY, key)
        leaves.append(_Link(prefix, _leaf(path, digest(STATE_VALUE, value)), path))
        nodes[_leaf_key(prefix, path)] = len(key).to_bytes(2, "big") + key + value
    leaves.sort(key=_path_of)
    growth = _Growth(read, prefix, nodes)
    link = growth.merge(_link_of(root), leaves, 0)
    return Update(_root_of(link), nodes, tuple(growth.stale))


class _Link(NamedTuple):
    """What a parent knows of a child: the height that wrote it, its digest, a leaf's path.

    A tuple, because reading and writing nodes makes two of these at each level.
    """

    height: bytes  # 8 bytes, big-endian: as keys and nodes hold it
    digest: bytes
    leaf: bytes | None


_NOTHING = _Link(bytes(8), EMPTY_DIGEST, None)


@dataclass(slots=True)
class _Growth:
    """One batch on its way down the tree."""

    read: ReadNode
    height: bytes
    nodes: dict[NodeKey, bytes]
    stale: list[NodeKey] = field(default_factory=list)

    def merge(self, link: _Link, leaves: list[_Link], depth: int) -> _Link:
        """The subtree at `link` with `leaves` (in order of path) added; the same if unchanged."""
        if not leaves:
            return link
        path = leaves[0].leaf
        assert path is not None
        old = link
        if link.leaf is not None:
            leaves = self._join(link, leaves)
            link = _NOTHING
        if link is _NOTHING:
            if len(leaves) == 1:
                return leaves[0]
            left = right = _NOTHING
        else:
            left, right = _read_interior(self.read, link, depth, path)
        middle = _first_right(leaves, depth)
        new_left = self.merge(left, leaves[:middle], depth + 1)
        new_right = self.merge(right, leaves[middle:], depth + 1)
        if old.leaf is None and old is not _NOTHING:
            if new_left is left and new_right is right:
                return link
            self.stale.append(_node_key(link.height, depth, path))
        self.nodes[_node_key(self.height, depth, path)] = _encode(new_left) + _encode(new_right)
        return _Link(self.height, _interior(new_left.digest, new_right.digest), None)
