"""A state tree built from its leaves in path order, in memory bounded by the tree's depth.

State sync brings the leaves of one height; what they were before is not known, and need not be. All
nodes get that height, so the tree can be read, proven and updated from it on like any other.
"""

from collections.abc import Iterator

from vm.shape import Digest
from vm.sparse import (
    DEPTH_MAX,
    INTERIOR,
    NOTHING,
    Link,
    NodeKey,
    Root,
    bit,
    interior_link,
    leaf_link,
    node_key,
    root_of,
    shared_bits,
)

Node = tuple[NodeKey, bytes]


class Rebuild:
    """Takes leaves in strict order of path, gives interior nodes as they are complete.

    The leaves themselves the caller stores, as `vm.sparse.leaf_bytes` under their whole path.
    """

    def __init__(self, height: int) -> None:
        self._height = height.to_bytes(8, "big")
        # Left halves whose right half is not complete, each with the depth of their node.
        self._waiting: list[tuple[Link, int]] = []
        self._link = NOTHING  # the lowest subtree that still grows, which ends with `_path`
        self._depth = DEPTH_MAX  # at which its top stands; a leaf stands anywhere
        self._path = b""

    def add(self, path: Digest, value: Digest) -> Iterator[Node]:
        """Add a leaf by path and digest of its value; gives the interior nodes now complete."""
        if self._path:
            assert path > self._path, "leaves come in order of path"
            shared = shared_bits(self._path, path)
            yield from self._close(shared)
            self._waiting.append((self._link, shared))
        self._path, self._depth = path, DEPTH_MAX
        self._link = leaf_link(self._height, path, value)

    def finish(self) -> Iterator[Node]:
        """The nodes that are left; after them `root` is the tree's."""
        yield from self._close(-1)

    @property
    def root(self) -> Root:
        """The root, once `finish` has been worked off."""
        assert not self._waiting, "the tree is finished first"
        return root_of(self._link)

    def _close(self, above: int) -> Iterator[Node]:
        """Complete every node deeper than `above`; the subtree's top then stands one below it."""
        while self._waiting and self._waiting[-1][1] > above:
            left, depth = self._waiting.pop()
            yield from self._lift(depth + 1)
            yield self._write(left, self._link, depth)
        yield from self._lift(above + 1)

    def _lift(self, top: int) -> Iterator[Node]:
        """Raise a subtree to the depth `top`, empty places beside it; a leaf needs none."""
        while self._link[0] == INTERIOR and self._depth > top:
            depth = self._depth - 1
            pair = (NOTHING, self._link) if bit(self._path, depth) else (self._link, NOTHING)
            yield self._write(*pair, depth)

    def _write(self, left: Link, right: Link, depth: int) -> Node:
        self._link, self._depth = interior_link(self._height, left, right), depth
        return node_key(self._height, depth, self._path), left + right
