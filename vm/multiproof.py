"""Several keys of the sparse tree under one root: their paths, with every shared sibling once.

Entries stand in order of state path. Verification goes over them from left to right as a walk of
the tree after its children would: from where an entry's path ends it climbs to where the next one
branches off, taking a sibling from the proof at each level, or the subtree already climbed from if
that is the sibling. Each hash takes one sibling or joins two subtrees, so the time is linear in the
proof's bytes, whatever depths it claims.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from vm import sparse
from vm.digest import STATE_KEY, digest
from vm.refusal import Refused
from vm.shape import Bytes, Digest, Int

Key = Annotated[bytes, Bytes(1, sparse.KEY_BYTES_MAX)]
RecordBytes = Annotated[bytes, Bytes(1, sparse.VALUE_BYTES_MAX)]
Depth = Annotated[int, Int(0, sparse.DEPTH_MAX)]

_Subtree: TypeAlias = tuple[int, Digest]  # depth of its top, and its digest


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: its value, or None if it has none; its path ends `depth` bits below the root.

    `leaf` is the other leaf at that end, if absence is shown by one rather than by nothing.
    """

    VERSION: ClassVar[int] = 1

    key: Key
    value: RecordBytes | None
    depth: Depth
    leaf: sparse.Leaf | None


def prove(
    read: sparse.ReadNode, root: sparse.Root, keys: Iterable[bytes]
) -> tuple[tuple[Entry, ...], tuple[Digest, ...]]:
    """Entries of `keys`, each once, in order of state path; and the siblings that they need.

    Raises `vm.sparse.DamagedNode`, or as `read`.
    """
    paths = sorted((digest(STATE_KEY, key), key) for key in set(keys))
    if not paths:
        return (), ()
    walk = _Walk(read)
    walk.down(sparse.link_of(root), paths, 0)
    return tuple(walk.entries), tuple(walk.siblings)


class _Walk:
    """A walk down to every path asked for; siblings come out as verification takes them."""

    def __init__(self, read: sparse.ReadNode) -> None:
        self._read = read
        self.entries: list[Entry] = []
        self.siblings: list[Digest] = []

    def down(self, link: sparse.Link, paths: Sequence[tuple[bytes, bytes]], depth: int) -> None:
        """Prove `paths`, all of them below `link`."""
        if link[0] != sparse.INTERIOR:
            self.entries += (self._end(link, path, key, depth) for path, key in paths)
            return
        left, right = sparse.children(self._read, link, depth, paths[0][0])
        middle = bisect_left(paths, 1, key=lambda pair: sparse.bit(pair[0], depth))
        if middle:
            self.down(left, paths[:middle], depth + 1)
        if middle < len(paths):
            self.down(right, paths[middle:], depth + 1)
        if middle in (0, len(paths)):
            self.siblings.append(sparse.link_digest(left if middle == 0 else right))

    def _end(self, link: sparse.Link, path: bytes, key: bytes, depth: int) -> Entry:
        if sparse.leaf_path(link) == path:
            return Entry(key, sparse.read_leaf(self._read, link)[1], depth, None)
        return Entry(key, None, depth, sparse.leaf_of(link))


def verify(entries: Sequence[Entry], siblings: Sequence[Digest], root_digest: Digest) -> None:
    """Check that under the root every entry's key has its value, or none.

    Raises `Refused` with `state_path.bounds`, `.unexpected_leaf`, `.leaf_is_key`,
    `.leaf_elsewhere` or `.root` as `vm.sparse.verify`, and further `.empty` (no entry),
    `.order` (state paths do not rise), `.overlap` (one entry's end lies inside another's) or
    `.siblings` (there are too few or too many).
    """
    if not entries:
        raise Refused("state_path.empty", "expected at least one key, found none")
    sparse.check_bounds(siblings, (entry.key for entry in entries))
    climb, ends = _Climb(siblings), _ends(entries)
    for number, (path, depth, found) in enumerate(ends):
        last = number + 1 == len(ends)
        split = -1 if last else _branch(ends[number], ends[number + 1])
        climb.up(path, depth, found, split + 1)
    climb.finish(root_digest)


_End: TypeAlias = tuple[bytes, int, Digest]  # a path into it, its depth, and its digest


def _ends(entries: Sequence[Entry]) -> list[_End]:
    """Where the entries' paths end, from left to right; several that end in one place are one."""
    ends: list[_End] = []
    previous = b""
    for entry in entries:
        path = digest(STATE_KEY, entry.key)
        if path <= previous:
            raise Refused("state_path.order", "expected each key once, in order of state path")
        previous = path
        end = (path, entry.depth, sparse.end_digest(path, entry.depth, entry.value, entry.leaf))
        if ends and _is_same(ends[-1], end):
            continue
        ends.append(end)
    return ends


def _is_same(one: _End, other: _End) -> bool:
    shared = sparse.shared_bits(one[0], other[0])
    return one[1:] == other[1:] and shared >= one[1]


def _branch(one: _End, other: _End) -> int:
    """The depth at which two neighbouring ends part, which must be above both."""
    shared = sparse.shared_bits(one[0], other[0])
    if shared >= min(one[1], other[1]):
        raise Refused(
            "state_path.overlap",
            f"expected ends that part above depth {min(one[1], other[1])}, found {shared}",
        )
    return shared


class _Climb:
    """Subtrees climbed from so far, the lowest last, and the siblings still to be taken."""

    def __init__(self, siblings: Sequence[Digest]) -> None:
        self._siblings = siblings
        self._taken = 0
        self._waiting: list[_Subtree] = []

    def up(self, path: bytes, depth: int, found: Digest, top: int) -> None:
        """Climb from an end to depth `top`, and let the subtree there wait."""
        bits = int.from_bytes(path, "big") >> sparse.DEPTH_MAX - depth
        while depth > top:
            if self._waiting and self._waiting[-1][0] == depth:
                sibling = self._waiting.pop()[1]  # to the left: the path from which we came
            elif self._taken < len(self._siblings):
                sibling = self._siblings[self._taken]
                self._taken += 1
            else:
                raise Refused(
                    "state_path.siblings", f"expected more than {self._taken} siblings, found none"
                )
            found = (
                sparse.interior_digest(sibling, found)
                if bits & 1
                else sparse.interior_digest(found, sibling)
            )
            bits, depth = bits >> 1, depth - 1
        self._waiting.append((depth, found))

    def finish(self, root_digest: Digest) -> None:
        """Check that the walk has ended at the root with every sibling taken."""
        if self._taken < len(self._siblings):
            raise Refused(
                "state_path.siblings",
                f"expected {self._taken} siblings, found {len(self._siblings)}",
            )
        found = self._waiting[-1][1]
        if found != root_digest:
            raise Refused(
                "state_path.root", f"expected root {root_digest.hex()}, found {found.hex()}"
            )
