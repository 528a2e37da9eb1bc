"""Merkle trees of RFC 6962, section 2.1, over SHA-256, and the history that only ever grows.

A tree stands over leaf byte strings. Node (level, index) covers the leaves from `index << level` up
to `(index + 1) << level`; it is complete when all of them exist, and then it never changes again.
`append` hands out each node as it becomes complete; stored, they are enough to prove any leaf and
any earlier size under any later root, reading about log2(size) nodes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, ClassVar, TypeAlias

from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Digest, Height, Many

PATH_MAX = 64  # a tree of HEIGHT_MAX leaves is 53 levels high
DIGEST_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"  # differs from a leaf's, so that no node can pass for a leaf

Path: TypeAlias = Annotated[tuple[Digest, ...], Many(PATH_MAX)]
Node: TypeAlias = tuple[int, int, Digest]  # level, index, digest
ReadNode: TypeAlias = Callable[[int, int], Digest]  # the complete node (level, index)


def root(leaves: Sequence[bytes]) -> Digest:
    """MTH(leaves)."""
    if not leaves:
        return EMPTY_ROOT
    return _levels(leaves)[-1][0]


def inclusion_path(leaves: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """PATH(index, leaves): the siblings of leaf `index` and of its ancestors, lowest first."""
    assert 0 <= index < len(leaves), f"expected a leaf below {len(leaves)}, found {index}"
    path = []
    for row in _levels(leaves):
        if index ^ 1 < len(row):
            path.append(row[index ^ 1])
        index >>= 1
    return tuple(path)


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: tuple[Digest, ...], root: Digest
) -> bool:
    """Whether `path` shows `leaf` at `index` in the tree of `size` leaves with this root.

    The algorithm of RFC 9162, section 2.1.3.2. Anything malformed is simply not a proof.
    """
    if not 0 <= index < size <= HEIGHT_MAX or not _well_formed(path):
        return False
    place, last = index, size - 1
    found = _leaf(leaf)
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = _node(sibling, found)
            place, last = _skip_promoted(place, last)
        else:
            found = _node(found, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(
    old_size: int, new_size: int, old_root: Digest, new_root: Digest, path: tuple[Digest, ...]
) -> bool:
    """Whether `path` shows that the tree of `old_size` leaves is the beginning of the new one.

    The algorithm of RFC 9162, section 2.1.4.2. The RFC leaves out two cases whose path is empty:
    equal sizes, where the roots must be equal, and an old size of 0, with which every tree agrees.
    """
    if not 0 <= old_size <= new_size <= HEIGHT_MAX or not _well_formed(path):
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path and old_root == EMPTY_ROOT
    if old_size & (old_size - 1) == 0:  # one complete node: the old root itself begins the path
        path = (old_root, *path)
    if not path:
        return False
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_found = new_found = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old_found, new_found = _node(sibling, old_found), _node(sibling, new_found)
            place, last = _skip_promoted(place, last)
        else:
            new_found = _node(new_found, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and old_found == old_root and new_found == new_root


@dataclass(frozen=True, slots=True)
class Frontier:
    """What appending needs: the tree's size and its complete subtrees' digests, largest first."""

    VERSION: ClassVar[int] = 1

    size: Height
    peaks: Path

    def __post_init__(self) -> None:
        """Raise `Refused("frontier.peaks")` unless there is one peak for each bit of the size."""
        if len(self.peaks) != self.size.bit_count():
            raise Refused(
                "frontier.peaks",
                f"expected {self.size.bit_count()} peaks for size {self.size}, "
                f"found {len(self.peaks)}",
            )

    @property
    def root(self) -> Digest:
        """MTH of all leaves appended so far."""
        return _fold(self.peaks) if self.peaks else EMPTY_ROOT


EMPTY = Frontier(0, ())


def agree(one: Frontier, other: Frontier) -> bool:
    """Whether the largest complete subtrees, as far as both have the same, hold the same leaves.

    False shows that neither tree is the beginning of the other; True shows it only of those leaves.
    """
    for (level, ours), (other_level, theirs) in zip(_by_level(one), _by_level(other), strict=False):
        if level != other_level:
            break
        if ours != theirs:
            return False
    return True


def append(frontier: Frontier, leaf: bytes) -> tuple[Frontier, list[Node]]:
    """The frontier with `leaf` added, and the nodes that it made complete, lowest first."""
    peaks = list(frontier.peaks)
    level, index, digest = 0, frontier.size, _leaf(leaf)
    nodes = [(level, index, digest)]
    while index & 1:
        level, index, digest = level + 1, index >> 1, _node(peaks.pop(), digest)
        nodes.append((level, index, digest))
    return Frontier(frontier.size + 1, (*peaks, digest)), nodes


def frontier_at(read: ReadNode, size: int) -> Frontier:
    """The frontier that the history had at `size`, from its stored nodes."""
    return Frontier(size, tuple(_peaks(read, 0, size)))


def inclusion_path_at(read: ReadNode, index: int, size: int) -> tuple[Digest, ...]:
    """PATH(index, first `size` leaves), from stored complete nodes."""
    assert 0 <= index < size, f"expected a leaf below {size}, found {index}"
    path = []
    level, last = 0, size - 1
    while last:
        if index ^ 1 <= last:
            path.append(_digest_at(read, level, index ^ 1, size))
        level, index, last = level + 1, index >> 1, last >> 1
    return tuple(path)


def consistency_path_at(read: ReadNode, old_size: int, new_size: int) -> tuple[Digest, ...]:
    """PROOF(old_size, first `new_size` leaves) of RFC 6962, from stored complete nodes."""
    assert 0 <= old_size <= new_size, f"expected a size up to {new_size}, found {old_size}"
    if old_size in (0, new_size):
        return ()
    level, place, last = 0, old_size - 1, new_size - 1
    while place & 1:
        level, place, last = level + 1, place >> 1, last >> 1
    path = [read(level, place)] if place else []
    while last:
        if place & 1:
            path.append(read(level, place - 1))
        elif place < last:
            path.append(_digest_at(read, level, place + 1, new_size))
        level, place, last = level + 1, place >> 1, last >> 1
    return tuple(path)


def _leaf(leaf: bytes) -> Digest:
    return sha256(LEAF_PREFIX + leaf).digest()


def _node(left: Digest, right: Digest) -> Digest:
    return sha256(NODE_PREFIX + left + right).digest()


def _levels(leaves: Sequence[bytes]) -> list[list[Digest]]:
    """All nodes by level, leaves first; a last node without a sibling is promoted as it is."""
    row = [_leaf(leaf) for leaf in leaves]
    levels = [row]
    while len(row) > 1:
        odd = row[-1:] if len(row) & 1 else []
        row = [_node(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)] + odd
        levels.append(row)
    return levels


def _well_formed(path: tuple[Digest, ...]) -> bool:
    """Digests of another length could shift bytes between the two halves of a node."""
    return len(path) <= PATH_MAX and all(len(sibling) == DIGEST_BYTES for sibling in path)


def _skip_promoted(place: int, last: int) -> tuple[int, int]:
    """Climb the levels at which the last node has no sibling."""
    while place and not place & 1:
        place, last = place >> 1, last >> 1
    return place, last


def _by_level(frontier: Frontier) -> list[tuple[int, Digest]]:
    """Each complete subtree's level and digest, largest first."""
    size = frontier.size
    levels = [level for level in reversed(range(size.bit_length())) if size >> level & 1]
    return list(zip(levels, frontier.peaks, strict=True))


def _fold(peaks: Sequence[Digest]) -> Digest:
    """The digest over adjoining complete subtrees, largest first."""
    digest = peaks[-1]
    for peak in reversed(peaks[:-1]):
        digest = _node(peak, digest)
    return digest


def _peaks(read: ReadNode, start: int, end: int) -> Iterator[Digest]:
    """The complete subtrees that cover the leaves [start, end), for a `start` of a node's."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield read(level, start >> level)
        start += 1 << level


def _digest_at(read: ReadNode, level: int, index: int, size: int) -> Digest:
    """Node (level, index) of the tree of `size` leaves, complete or at its ragged right edge."""
    start, end = index << level, (index + 1) << level
    if end <= size:
        return read(level, index)
    return _fold(tuple(_peaks(read, start, size)))
