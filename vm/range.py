"""Ranges of the state: consecutive leaves in path order, with a proof that none is left out.

A range covers the paths from `start` to `end`, both included. It holds the key and value of every
leaf there, and of what lies outside only as much as its verifier needs to find the tree's root: the
digests of the subtrees to the left of `start` and to the right of `end`, and a leaf next to either
where that leaf is all that hangs in the place. So a state of any size travels in parts of bounded
size, from peers of whom none is trusted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, NamedTuple

from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.refusal import Refused
from vm.shape import Bytes, Digest, Many
from vm.sparse import (
    DEPTH_MAX,
    EMPTY_DIGEST,
    INTERIOR,
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    Leaf,
    Link,
    ReadNode,
    Root,
    bit,
    children,
    descend,
    interior_digest,
    leaf_digest,
    leaf_of,
    leaf_path,
    link_of,
    read_leaf,
)

RANGE_LEAVES_MAX = 16_384
RANGE_CONTENT_BYTES_MAX = 2 * 1024 * 1024  # keys and values of one range; the largest leaf fits
# On the wire: with 16 bytes around each leaf, and the digests outside.
RANGE_BYTES_MAX = RANGE_CONTENT_BYTES_MAX + 16 * RANGE_LEAVES_MAX + 2 * 34 * DEPTH_MAX + 1024

FIRST_PATH = bytes(32)
LAST_PATH = b"\xff" * 32


@dataclass(frozen=True, slots=True)
class RangeLeaf:
    """A key of the state and its value."""

    VERSION: ClassVar[int] = 1

    state_key: Annotated[bytes, Bytes(0, KEY_BYTES_MAX)]
    value: Annotated[bytes, Bytes(0, VALUE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class StateRange:
    """The leaves from a start, which the asker knows, to `end`, and what lies outside.

    `left` has a digest for each bit of `start` that is 1, topmost first, of the subtree that parts
    from it to the left there; `right` has one for each bit of `end` that is 0. Where the subtree
    is empty the digest is 32 zero bytes, and none is last. `before` is the leaf in the place where
    `start` ends in the tree, if it is a leaf below `start`; `after` is the leaf in the place of
    `end`, if it is one above.
    """

    VERSION: ClassVar[int] = 1

    end: Digest
    leaves: Annotated[tuple[RangeLeaf, ...], Many(RANGE_LEAVES_MAX)]
    left: Annotated[tuple[Digest, ...], Many(DEPTH_MAX)]
    right: Annotated[tuple[Digest, ...], Many(DEPTH_MAX)]
    before: Leaf | None
    after: Leaf | None


def prove_range(
    read: ReadNode,
    root: Root,
    start: Digest,
    stop: Digest = LAST_PATH,
    content_bytes_max: int = RANGE_CONTENT_BYTES_MAX,
) -> StateRange:
    """The leaves from `start` to `stop`, or to an earlier end if they are more than a range holds.

    At least one leaf is given if there is any, however large. Raises `DamagedNode`, or as `read`.
    """
    assert start <= stop, "a range begins before it ends"
    leaves, end, room = list[RangeLeaf](), stop, content_bytes_max
    for key, value in _leaves(read, link_of(root), 0, FIRST_PATH, start):
        path = digest(STATE_KEY, key)
        if path > stop:
            break
        room -= len(key) + len(value)
        if leaves and (room < 0 or len(leaves) == RANGE_LEAVES_MAX):
            end = digest(STATE_KEY, leaves[-1].state_key)
            break
        leaves.append(RangeLeaf(key, value))
    first, left = descend(read, root, start)
    last, right = descend(read, root, end)
    before, after = leaf_of(first), leaf_of(last)
    return StateRange(
        end=end,
        leaves=tuple(leaves),
        left=_outside(left, start, 1),
        right=_outside(right, end, 0),
        before=before if before and before.path < start else None,
        after=after if after and after.path > end else None,
    )


def verify_range(root_digest: Digest, start: Digest, stop: Digest, found: StateRange) -> None:
    """Check that `found` holds exactly the leaves from `start` to its own end, at most `stop`.

    Raises `Refused` with `state_range.bounds`, `.end` (it ends before its start, beyond `stop`, or
    early though not with its last leaf), `.order` (leaves lie outside, or something is not in
    strict order of path), `.outside` (what is shown outside has no place there) or `.root`
    (together they do not lead to it: something is changed, added or left out).
    """
    _check_bounds(start, stop, found)
    paths = [digest(STATE_KEY, leaf.state_key) for leaf in found.leaves]
    early = found.end < stop
    if not start <= found.end <= stop or (early and (not paths or paths[-1] != found.end)):
        raise Refused("state_range.end", f"expected an end with the last leaf or {stop.hex()}")
    if paths and (paths[0] < start or paths[-1] > found.end):
        raise Refused("state_range.order", "expected leaves inside the range, found one outside")
    inside = [
        _leaf(path, digest(STATE_VALUE, leaf.value))
        for path, leaf in zip(paths, found.leaves, strict=True)
    ]
    pieces = [*_left(start, found), *inside, *_right(found)]
    if any(one.path >= other.path for one, other in pairwise(pieces)):
        raise Refused("state_range.order", "expected everything in strict order of path")
    root = _root(pieces, 0)
    if root != root_digest:
        raise Refused("state_range.root", f"expected root {root_digest.hex()}, found {root.hex()}")


def next_path(path: Digest) -> Digest | None:
    """The path behind `path`: where the next range starts; None after the last."""
    number = int.from_bytes(path, "big") + 1
    return None if number >> DEPTH_MAX else number.to_bytes(32, "big")


class _Piece(NamedTuple):
    """A leaf, or a subtree of which nothing is known but its place and digest."""

    path: bytes  # of the leaf, or any one inside the subtree
    depth: int  # at which the subtree hangs; ANYWHERE for a leaf
    digest: bytes


# A leaf hangs as high as it is alone. A subtree must not: its digest would then stand for paths
# that it does not hold, and hide what is there.
ANYWHERE = DEPTH_MAX + 1


def _leaf(path: bytes, value: bytes) -> _Piece:
    return _Piece(path, ANYWHERE, leaf_digest(path, value))


def _root(pieces: Sequence[_Piece], depth: int) -> bytes:
    """The digest of the subtree at `depth` that holds these, which are in order of path."""
    if not pieces:
        return EMPTY_DIGEST
    if len(pieces) == 1 and pieces[0].depth in (depth, ANYWHERE):
        return pieces[0].digest
    if any(piece.depth <= depth for piece in (pieces[0], pieces[-1])):
        raise Refused(
            "state_range.outside", "expected subtrees beside each other, found one in two"
        )
    low, high = 0, len(pieces)
    while low < high:  # the first that goes right
        middle = (low + high) // 2
        low, high = (low, middle) if bit(pieces[middle].path, depth) else (middle + 1, high)
    return interior_digest(_root(pieces[:low], depth + 1), _root(pieces[low:], depth + 1))


def _left(start: Digest, found: StateRange) -> Iterator[_Piece]:
    """What is shown to the left of the range, in order of path."""
    yield from _pieces(start, found.left, 1)
    if found.before is not None:
        if found.before.path >= start:
            raise Refused("state_range.outside", "expected a leaf before the range")
        yield _leaf(found.before.path, found.before.value)


def _right(found: StateRange) -> Iterator[_Piece]:
    """What is shown to the right of the range, in order of path."""
    if found.after is not None:
        if found.after.path <= found.end:
            raise Refused("state_range.outside", "expected a leaf after the range")
        yield _leaf(found.after.path, found.after.value)
    yield from reversed([*_pieces(found.end, found.right, 0)])


def _pieces(path: Digest, digests: tuple[Digest, ...], side: int) -> Iterator[_Piece]:
    """The subtrees that part from `path` where its bit is `side`, topmost first."""
    if digests and digests[-1] == EMPTY_DIGEST:
        raise Refused("state_range.outside", "expected no empty subtree at the end")
    depths = [depth for depth in range(DEPTH_MAX) if bit(path, depth) == side]
    if len(digests) > len(depths):
        raise Refused("state_range.outside", f"expected at most {len(depths)} subtrees")
    number = int.from_bytes(path, "big")
    for depth, found in zip(depths, digests, strict=False):
        if found != EMPTY_DIGEST:
            beside = number ^ (1 << DEPTH_MAX - 1 - depth)
            yield _Piece(beside.to_bytes(32, "big"), depth + 1, found)


def _outside(siblings: list[Digest], path: Digest, side: int) -> tuple[Digest, ...]:
    """The siblings, topmost first, where the path's bit is `side`; no empty one is last."""
    found = [item for depth, item in enumerate(siblings) if bit(path, depth) == side]
    while found and found[-1] == EMPTY_DIGEST:
        found.pop()
    return tuple(found)


def _leaves(
    read: ReadNode, link: Link, depth: int, path: bytes, start: Digest
) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of the leaves from `start` on in the subtree at `link`, in order of path."""
    waiting = [(link, depth, path)]
    while waiting:
        link, depth, path = waiting.pop()
        if link[0] != INTERIOR:
            if leaf_path(link) >= start:  # an empty subtree's is none
                yield read_leaf(read, link)
            continue
        left, right = children(read, link, depth, path)
        middle = (int.from_bytes(path, "big") | 1 << DEPTH_MAX - 1 - depth).to_bytes(32, "big")
        waiting.append((right, depth + 1, middle))
        if start < middle:
            waiting.append((left, depth + 1, path))


def _check_bounds(start: Digest, stop: Digest, found: StateRange) -> None:
    """Raise `Refused("state_range.bounds")`: a range may come from anywhere, not only `unpack`."""
    others = [leaf for leaf in (found.before, found.after) if leaf is not None]
    digests = [start, stop, found.end, *found.left, *found.right]
    digests += [part for leaf in others for part in (leaf.path, leaf.value)]
    if any(len(item) != len(EMPTY_DIGEST) for item in digests):
        raise Refused("state_range.bounds", "expected digests of 32 bytes alone")
    if len(found.leaves) > RANGE_LEAVES_MAX:
        raise Refused("state_range.bounds", f"expected at most {RANGE_LEAVES_MAX} leaves")
    for leaf in found.leaves:
        if len(leaf.state_key) > KEY_BYTES_MAX or len(leaf.value) > VALUE_BYTES_MAX:
            raise Refused("state_range.bounds", "expected keys and values within their bounds")
