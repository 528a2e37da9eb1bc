"""Merkle trees of RFC 6962: what a path proves, and what no path can."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import tree
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, pack, unpack

SIZE_MAX = 70  # crosses 64: ragged and complete trees of seven levels

sizes = st.integers(1, SIZE_MAX)


def leaves_of(size: int) -> list[bytes]:
    """`size` leaves, all different."""
    return [b"leaf %d" % i for i in range(size)]


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH, written down as RFC 6962 section 2.1 defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_inclusion(m: int, leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    """PATH, written down as section 2.1.1 defines it."""
    if len(leaves) == 1:
        return ()
    k = split(len(leaves))
    if m < k:
        return (*naive_inclusion(m, leaves[:k]), naive_root(leaves[k:]))
    return (*naive_inclusion(m - k, leaves[k:]), naive_root(leaves[:k]))


def naive_consistency(m: int, leaves: Sequence[bytes], whole: bool = True) -> tuple[bytes, ...]:
    """SUBPROOF, written down as section 2.1.2 defines it."""
    if m == len(leaves):
        return () if whole else (naive_root(leaves),)
    k = split(len(leaves))
    if m <= k:
        return (*naive_consistency(m, leaves[:k], whole), naive_root(leaves[k:]))
    return (*naive_consistency(m - k, leaves[k:], False), naive_root(leaves[:k]))


def split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


class Stored:
    """A history whose nodes lie in a dict, as they would lie in a database."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.frontier = tree.EMPTY
        for leaf in leaves:
            self.frontier, completed = tree.append(self.frontier, leaf)
            for level, index, digest in completed:
                assert (level, index) not in self.nodes, "a complete node is written once"
                self.nodes[level, index] = digest

    def read(self, level: int, index: int) -> bytes:
        """The stored node; a KeyError if it is not complete yet."""
        return self.nodes[level, index]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        (4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        (6, "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ],
)
def test_roots_equal_the_vectors_of_certificate_transparency(size: int, expected: str) -> None:
    """The eight leaves that every implementation of RFC 6962 is tested with give these roots."""
    leaves = [
        bytes.fromhex(leaf)
        for leaf in (
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        )
    ][:size]

    found = tree.root(leaves)

    assert found.hex() == expected
    assert found == naive_root(leaves) == Stored(leaves).frontier.root


def test_every_small_tree_equals_the_definition() -> None:
    """For each size up to 33, roots and all paths are those of the recursive definition."""
    for size in range(1, 34):
        leaves = leaves_of(size)
        stored = Stored(leaves)

        assert tree.root(leaves) == stored.frontier.root == naive_root(leaves)
        for index in range(size):
            expected = naive_inclusion(index, leaves)
            assert tree.inclusion_path(leaves, index) == expected
            assert tree.inclusion_path_at(stored.read, index, size) == expected
        for old in range(1, size + 1):
            path = tree.consistency_path_at(stored.read, old, size)
            assert path == naive_consistency(old, leaves)


@given(size=sizes, data=st.data())
def test_any_leaf_is_proven_under_any_later_root(size: int, data: st.DataObject) -> None:
    """Stored complete nodes suffice to prove leaf i under the root of every size above i."""
    stored = Stored(leaves_of(size))
    at = data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, at - 1))

    path = tree.inclusion_path_at(stored.read, index, at)

    frontier = tree.frontier_at(stored.read, at)
    assert frontier.root == naive_root(leaves_of(at))
    assert tree.verify_inclusion(b"leaf %d" % index, index, at, path, frontier.root)


@given(size=sizes, data=st.data())
def test_any_two_roots_of_one_history_are_consistent(size: int, data: st.DataObject) -> None:
    """Between any two sizes a path proves that nothing before the older was rewritten."""
    stored = Stored(leaves_of(size))
    old, new = sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size))))
    old_root, new_root = naive_root(leaves_of(old)), naive_root(leaves_of(new))

    path = tree.consistency_path_at(stored.read, old, new)

    assert tree.verify_consistency(old, new, old_root, new_root, path)


@given(size=st.integers(2, SIZE_MAX), data=st.data())
def test_inclusion_is_refused_for_any_other_claim(size: int, data: st.DataObject) -> None:
    """A wrong leaf, index, sibling, root or length of path never verifies."""
    leaves = leaves_of(size)
    root = tree.root(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = tree.inclusion_path(leaves, index)
    other = data.draw(st.integers(-1, size).filter(lambda i: i != index))
    place = data.draw(st.integers(0, len(path) - 1))
    bent = bytes((path[place][0] ^ 1,)) + path[place][1:]

    attacks = {
        "another leaf": (b"leaf x", index, path, root),
        "a neighbour's leaf": (leaves[other % size], index, path, root),
        "wrong index": (leaves[index], other, path, root),
        "bent sibling": (leaves[index], index, (*path[:place], bent, *path[place + 1 :]), root),
        "truncated": (leaves[index], index, path[:-1], root),
        "beheaded": (leaves[index], index, path[1:], root),
        "extended": (leaves[index], index, (*path, root), root),
        "extended below": (leaves[index], index, (root, *path), root),
        "no path": (leaves[index], index, (), root),
        "another root": (leaves[index], index, path, path[0]),
    }

    assert tree.verify_inclusion(leaves[index], index, size, path, root)
    for name, (leaf, claimed, attack, against) in attacks.items():
        if name == "a neighbour's leaf" and other % size == index:
            continue
        assert not tree.verify_inclusion(leaf, claimed, size, attack, against), name


def test_swapped_siblings_do_not_verify() -> None:
    """The order of siblings is part of the claim."""
    leaves = leaves_of(8)
    first, second, third = tree.inclusion_path(leaves, 3)

    swapped = (second, first, third)

    assert not tree.verify_inclusion(leaves[3], 3, 8, swapped, tree.root(leaves))


def test_an_interior_node_is_no_leaf() -> None:
    """The second-preimage attack: a node's two children, offered as a leaf one level up."""
    leaves = leaves_of(4)
    root = tree.root(leaves)
    left = [sha256(b"\x00" + leaf).digest() for leaf in leaves[:2]]
    sibling = tree.inclusion_path(leaves, 0)[1]

    forged = b"".join(left)

    assert sha256(b"\x01" + forged).digest() == tree.inclusion_path(leaves, 2)[1]
    assert not tree.verify_inclusion(forged, 0, 2, (sibling,), root)
    assert not tree.verify_inclusion(b"\x01" + forged, 0, 2, (sibling,), root)


def test_siblings_of_another_length_do_not_verify() -> None:
    """A byte shifted from one half of a node to the other hashes alike, so length counts."""
    left, right = (sha256(b"\x00" + leaf).digest() for leaf in (b"left", b"right"))
    root = tree.root([b"left", b"right"])
    assert tree.verify_consistency(1, 2, left, root, (right,))

    forged_root, forged_path = left + right[:1], (right[1:],)

    assert not tree.verify_consistency(1, 2, forged_root, root, forged_path)
    assert not tree.verify_inclusion(b"left", 0, 2, (right + b"\x00",), root)


def test_a_path_of_a_larger_tree_does_not_verify_in_a_smaller_one() -> None:
    """Siblings are left over where the claimed tree already ends, so the claim is refused."""
    leaves = leaves_of(8)
    stored = Stored(leaves)
    pair = tree.root(leaves[:2])

    inclusion = tree.inclusion_path(leaves[:2], 1)
    consistency = tree.consistency_path_at(stored.read, 7, 8)

    assert tree.verify_inclusion(leaves[1], 1, 2, inclusion, pair)
    assert not tree.verify_inclusion(leaves[1], 0, 1, inclusion, pair)
    seven, eight = tree.root(leaves[:7]), tree.root(leaves)
    assert tree.verify_consistency(7, 8, seven, eight, consistency)
    assert not tree.verify_consistency(3, 4, seven, eight, consistency)


@pytest.mark.parametrize("size", [0, -1, 2, HEIGHT_MAX + 1])
def test_a_claimed_size_that_cannot_be_is_refused(size: int) -> None:
    """An empty, negative, wrong or unbounded size verifies nothing."""
    root = tree.root([b"leaf"])

    assert tree.verify_inclusion(b"leaf", 0, 1, (), root)
    assert not tree.verify_inclusion(b"leaf", 0, size, (), root)
    assert not tree.verify_consistency(1, size, root, root, ())
    assert not tree.verify_consistency(4, 3, root, root, ())


def test_a_path_longer_than_the_bound_is_refused_unread() -> None:
    """PATH_MAX siblings are read; one more is refused before anything is hashed."""

    class Unread(tuple[bytes, ...]):
        def __iter__(self) -> Callable[[], None]:  # type: ignore[override]
            raise AssertionError("the path was read")

    full = (bytes(32),) * tree.PATH_MAX
    over = Unread((bytes(32),) * (tree.PATH_MAX + 1))

    assert not tree.verify_inclusion(b"leaf", 0, HEIGHT_MAX, full, bytes(32))
    assert not tree.verify_inclusion(b"leaf", 0, HEIGHT_MAX, over, bytes(32))
    assert not tree.verify_consistency(1, HEIGHT_MAX, bytes(32), bytes(32), over)


def test_the_largest_history_has_paths_within_the_bound() -> None:
    """HEIGHT_MAX leaves verify by paths well below PATH_MAX; one leaf more is out of bounds."""

    def read(level: int, index: int) -> bytes:
        """All leaves alike: one digest for each level."""
        digest = sha256(b"\x00same").digest()
        for _ in range(level):
            digest = sha256(b"\x01" + digest * 2).digest()
        return digest

    for size in (HEIGHT_MAX + 1, HEIGHT_MAX, HEIGHT_MAX - 1):
        allowed = size <= HEIGHT_MAX
        frontier = tree.frontier_at(read, size)
        for index in (0, size // 3, size - 1):
            path = tree.inclusion_path_at(read, index, size)
            assert len(path) <= 54 < tree.PATH_MAX
            assert tree.verify_inclusion(b"same", index, size, path, frontier.root) is allowed
        old = tree.frontier_at(read, size // 3)
        path = tree.consistency_path_at(read, size // 3, size)
        assert len(path) <= 55 < tree.PATH_MAX
        verdict = tree.verify_consistency(size // 3, size, old.root, frontier.root, path)
        assert verdict is allowed


@given(size=st.integers(2, SIZE_MAX), data=st.data())
def test_consistency_is_refused_for_any_other_claim(size: int, data: st.DataObject) -> None:
    """Another root, size or path never shows that one history continues another."""
    leaves = leaves_of(size)
    old = data.draw(st.integers(1, size - 1))
    old_root, new_root = naive_root(leaves[:old]), naive_root(leaves)
    path = naive_consistency(old, leaves)
    place = data.draw(st.integers(0, len(path) - 1))
    bent = (*path[:place], bytes((path[place][0] ^ 1,)) + path[place][1:], *path[place + 1 :])
    rewritten = naive_root([b"rewritten", *leaves[1:old]])

    attacks = {
        "rewritten past": (old, size, rewritten, new_root, path),
        "swapped roots": (old, size, new_root, old_root, path),
        "bent": (old, size, old_root, new_root, bent),
        "truncated": (old, size, old_root, new_root, path[:-1]),
        "extended": (old, size, old_root, new_root, (*path, old_root)),
        "no path": (old, size, old_root, new_root, ()),
        "backwards": (size, old, new_root, old_root, path),
        "no growth": (old, old, old_root, new_root, path),
        "no growth, no path": (old, old, old_root, new_root, ()),
        "equal, yet a path": (old, old, old_root, old_root, path),
        "from nothing": (0, size, tree.EMPTY_ROOT, new_root, path),
        "from nothing that was something": (0, size, old_root, new_root, ()),
        "negative": (-old, size, old_root, new_root, path),
    }

    assert tree.verify_consistency(old, size, old_root, new_root, path)
    for name, attack in attacks.items():
        assert not tree.verify_consistency(*attack), name


def test_a_rewritten_history_has_no_path_from_the_old_root() -> None:
    """The attack that auditors fear: one past leaf differs, and its author supplies the path."""
    honest, rewritten = leaves_of(13), leaves_of(13)
    rewritten[4] = b"rewritten"
    forger = Stored(rewritten)

    for old, new in combinations_with_replacement(range(5, 14), 2):
        path = tree.consistency_path_at(forger.read, old, new)

        assert not tree.verify_consistency(
            old, new, naive_root(honest[:old]), naive_root(rewritten[:new]), path
        )


@given(size=st.integers(0, SIZE_MAX))
def test_a_frontier_survives_packing(size: int) -> None:
    """The frontier is a record: packed, read again, and appended to as before."""
    frontier = Stored(leaves_of(size)).frontier

    again = unpack(tree.Frontier, pack(frontier))

    assert again == frontier
    assert tree.append(again, b"next") == tree.append(frontier, b"next")


def test_frontiers_of_one_history_agree() -> None:
    """And a leaf that is another one shows wherever both have a complete subtree over it."""
    one = leaves_of(SIZE_MAX)
    other = [b"another", *one[1:]]
    for old, new in combinations_with_replacement(range(1, 20), 2):
        shared = old.bit_length() == new.bit_length()

        assert tree.agree(frontier(one[:old]), frontier(one[:new]))
        assert tree.agree(frontier(one[:old]), frontier(other[:new])) is not shared
        assert tree.agree(frontier(one[:new]), frontier([*one[: new - 1], b"another"])) is False
        assert tree.agree(tree.EMPTY, frontier(one[:new]))


def frontier(leaves: Sequence[bytes]) -> tree.Frontier:
    """Of a history with these leaves."""
    found = tree.EMPTY
    for leaf in leaves:
        found, _ = tree.append(found, leaf)
    return found


def test_a_frontier_with_peaks_that_do_not_fit_its_size_is_refused() -> None:
    """Three leaves make two complete subtrees; one or three peaks are not a frontier."""
    for count in (1, 3):
        with pytest.raises(Refused) as refusal:
            tree.Frontier(3, (bytes(32),) * count)

        assert refusal.value.code == "frontier.peaks"
