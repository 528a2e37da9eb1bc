"""The upper nodes of the state tree, in memory.

A block reads again what lies near the top of the tree, and what lies near the leaves of a large one
hardly ever. So nodes are held down to a depth, however large the tree is, and what a block replaced
goes at once: its root, and any later one, no longer reaches it.
"""

from vm import sparse

DEPTH_MAX = 17  # of a node that is held: so there are 2^18 at most, in some 80 MiB


class Nodes:
    """Reads nodes of the newest tree through to `read`; execution alone uses it."""

    def __init__(self, read: sparse.ReadNode) -> None:
        self._read = read
        self._held: dict[sparse.NodeKey, bytes] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: sparse.NodeKey) -> bytes:
        """A node; raises as `read`."""
        held = self._held.get(key)
        if held is not None:
            return held
        node = self._read(key)
        if sparse.depth_of(key) <= DEPTH_MAX:
            self._held[key] = node
        return node

    def follow(self, update: sparse.Update) -> None:
        """The tree has changed: hold what is new of its top, let go of what it replaced."""
        for key in update.stale:
            self._held.pop(key, None)
        for key, node in update.nodes.items():
            if sparse.depth_of(key) <= DEPTH_MAX:
                self._held[key] = node
