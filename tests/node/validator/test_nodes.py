"""Nodes in memory: those of the newest tree, down to a depth, each as it is stored."""

import pytest

from node.validator import nodes as module
from node.validator.nodes import Nodes
from vm import sparse


class Tree:
    """A tree that grows, its nodes stored in a dict; reads are counted."""

    def __init__(self) -> None:
        self.stored: dict[sparse.NodeKey, bytes] = {}
        self.reads = 0
        self.root = sparse.EMPTY
        self.nodes = Nodes(self._read)
        self._height = 0

    def _read(self, key: sparse.NodeKey) -> bytes:
        self.reads += 1
        return self.stored[key]

    def grow(self, *numbers: int) -> int:
        """Write records; how many nodes were read from the store for it."""
        before, self._height = self.reads, self._height + 1
        writes = {b"%d" % number: b"%d" % self._height for number in numbers}
        update = sparse.update(self.nodes.get, self.root, self._height, writes)
        self.stored |= update.nodes
        self.nodes.follow(update)
        self.root = update.root
        return self.reads - before


def test_what_a_block_wrote_the_next_one_reads_from_memory() -> None:
    """Where the whole tree is held, the store is not asked for a node."""
    tree = Tree()

    reads = [tree.grow(*range(number, number + 40)) for number in range(0, 200, 20)]

    assert reads == [0] * 10


def test_the_tree_is_the_same_with_and_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is held, each block leads to the same root."""
    roots = []

    for most in (0, 3, module.DEPTH_MAX):
        monkeypatch.setattr(module, "DEPTH_MAX", most)
        tree = Tree()
        for number in range(0, 400, 20):
            tree.grow(*range(number, number + 40))
        roots.append(tree.root)

    assert roots[0] == roots[1] == roots[2]


def test_no_more_is_held_than_the_top_has_and_what_is_below_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bound is filled: four levels have fifteen nodes, in a tree that goes deeper."""
    monkeypatch.setattr(module, "DEPTH_MAX", 3)
    tree = Tree()
    for first in range(0, 400, 40):
        tree.grow(*range(first, first + 40))

    reads = tree.grow(*range(40))

    assert len(tree.nodes) == 15
    assert reads > 0


def test_what_was_read_of_the_top_is_held() -> None:
    """After a start memory fills with what blocks read: each of it comes from the store once."""
    tree = Tree()
    tree.grow(*range(40))
    tree.nodes = Nodes(tree._read)

    reads = [tree.grow(1), tree.grow(1)]

    assert reads[0] > 0
    assert reads[1] == 0


def test_nothing_is_held_that_the_newest_tree_has_replaced() -> None:
    """What is written again and again fills no memory."""
    tree = Tree()
    tree.grow(1, 2, 3)
    held = len(tree.nodes)

    for _ in range(20):
        tree.grow(1, 2, 3)

    assert len(tree.nodes) == held


def test_leaves_are_not_held() -> None:
    """A record may have a megabyte, and its neighbours' way does not lead through it."""
    tree = Tree()

    tree.grow(1)

    assert len(tree.nodes) == 0
