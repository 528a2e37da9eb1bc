"""The nodes of the state tree that the next block is likely to read, in memory.

A block reads the upper nodes of the tree again, which the block before has just written; those
near the leaves it reads once. So what was written or read last is kept, the oldest of it goes
first, and what a block replaced goes at once: its root, and any later one, no longer reaches it.
"""

from vm import sparse

NODES_MAX = 65_536  # about 24 MiB: the upper sixteen levels of a tree of any size


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
        if held is None:
            held = self._held[key] = self._read(key)
        return held

    def follow(self, update: sparse.Update) -> None:
        """The tree has changed: hold what is new, let go of what it replaced and of the oldest."""
        for key in update.stale:
            self._held.pop(key, None)
        for key, node in update.nodes.items():
            if not sparse.is_leaf_key(key):  # a leaf is not read on the way to its neighbours
                self._held[key] = node
        excess = len(self._held) - NODES_MAX
        if excess > 0:
            for key in list(self._held)[:excess]:
                del self._held[key]
