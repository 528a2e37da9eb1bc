"""Ranges of the state tree: any split reassembles to exactly the contents, and no range lies."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vm.test_sparse import Store, close_keys, keys, plain_paths, store_of, values
from vm import range as module
from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.range import (
    FIRST_PATH,
    LAST_PATH,
    RANGE_BYTES_MAX,
    RANGE_CONTENT_BYTES_MAX,
    RANGE_LEAVES_MAX,
    RangeLeaf,
    StateRange,
    next_path,
    prove_range,
    verify_range,
)
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.sparse import EMPTY, KEY_BYTES_MAX, VALUE_BYTES_MAX, Leaf, leaf_digest

contents = st.dictionaries(keys, values, max_size=30)
close_contents = st.dictionaries(close_keys, values, max_size=12)
paths = st.one_of(st.binary(min_size=32, max_size=32), close_keys)


@contextmanager
def plain() -> Iterator[None]:
    """Let a 32-byte key be its own path, here as in the tree."""
    with plain_paths(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "digest", lambda tag, data: data if tag == STATE_KEY else digest(tag, data)
        )
        yield


def code_of(store: Store, start: bytes, stop: bytes, found: StateRange) -> str:
    """The code with which a range is refused, or "" if it is accepted."""
    try:
        verify_range(store.root.digest, start, stop, found)
    except Refused as refusal:
        return refusal.code
    return ""


def gathered(store: Store, start: bytes, stop: bytes, room: int) -> list[tuple[bytes, bytes]]:
    """What verified ranges give from `start` to `stop`, each asked for where the last one ended."""
    found: list[tuple[bytes, bytes]] = []
    at: bytes | None = start
    while at is not None and at <= stop:
        part = prove_range(store.read, store.root, at, stop, room)
        assert unpack(StateRange, pack(part), RANGE_BYTES_MAX) == part
        verify_range(store.root.digest, at, stop, part)
        found += [(leaf.state_key, leaf.value) for leaf in part.leaves]
        at = next_path(part.end)
    return found


@given(content=contents, cut=paths, room=st.integers(0, 60))
def test_every_split_verifies_and_reassembles(
    content: Mapping[bytes, bytes], cut: bytes, room: int
) -> None:
    """Two parts at any path, in ranges of any size, hold each leaf once and in order of path."""
    store = store_of(content)

    below = gathered(store, FIRST_PATH, cut, room)
    behind = next_path(cut)
    above = [] if behind is None else gathered(store, behind, LAST_PATH, room)

    assert below + above == sorted(content.items(), key=lambda item: digest(STATE_KEY, item[0]))
    assert all(digest(STATE_KEY, key) <= cut for key, _ in below)


@settings(max_examples=60)
@given(content=close_contents, cut=paths, room=st.integers(0, 80))
def test_paths_that_part_late_are_no_exception(
    content: Mapping[bytes, bytes], cut: bytes, room: int
) -> None:
    """The same with keys ground to share up to 255 bits."""
    with plain():
        store = store_of(content)

        below = gathered(store, FIRST_PATH, cut, room)
        behind = next_path(cut)
        above = [] if behind is None else gathered(store, behind, LAST_PATH, room)

        assert below + above == sorted(content.items())


@given(content=contents, room=st.integers(0, 60))
def test_a_range_is_as_full_as_it_may_be(content: Mapping[bytes, bytes], room: int) -> None:
    """Its content fits, or it is one leaf; and the next leaf would not have fitted."""
    store = store_of(content)

    found = prove_range(store.read, store.root, FIRST_PATH, LAST_PATH, room)

    size = sum(len(leaf.state_key) + len(leaf.value) for leaf in found.leaves)
    assert size <= room or len(found.leaves) == 1
    behind = next_path(found.end)
    if behind is not None:
        [following, *_] = gathered(store, behind, LAST_PATH, 0)
        assert size + len(following[0]) + len(following[1]) > room


def test_the_empty_state_is_one_empty_range() -> None:
    """It is proven complete by the empty root; any other root refuses it."""
    found = prove_range(Store().read, EMPTY, FIRST_PATH)

    verify_range(EMPTY.digest, FIRST_PATH, LAST_PATH, found)
    assert found == StateRange(LAST_PATH, (), (), (), None, None)
    assert code_of(store_of({b"a": b"b"}), FIRST_PATH, LAST_PATH, found) == "state_range.root"


Attack = Callable[[StateRange], StateRange]


def _without(place: int) -> Attack:
    return lambda part: replace(part, leaves=(*part.leaves[:place], *part.leaves[place:][1:]))


def _lie(part: StateRange) -> StateRange:
    leaf = part.leaves[1]
    return replace(part, leaves=(part.leaves[0], replace(leaf, value=b"bent"), *part.leaves[2:]))


def _swap(part: StateRange) -> StateRange:
    first, second, *rest = part.leaves
    return replace(part, leaves=(second, first, *rest))


ATTACKS: dict[str, tuple[Attack, str]] = {
    "the first leaf left out": (_without(0), "root"),
    "a leaf left out": (_without(2), "root"),
    "the last leaf left out": (_without(-1), "end"),
    "all leaves left out": (lambda part: replace(part, leaves=()), "end"),
    "a leaf changed": (_lie, "root"),
    "leaves in another order": (_swap, "order"),
    "a leaf twice": (
        lambda part: replace(part, leaves=(part.leaves[0], *part.leaves)),
        "order",
    ),
    "nothing outside": (lambda part: replace(part, left=(), right=()), "root"),
    "a digest on the left missing": (lambda part: replace(part, left=part.left[1:]), "root"),
    "a digest on the right missing": (lambda part: replace(part, right=part.right[1:]), "root"),
    "a digest on the left too many": (
        lambda part: replace(part, left=(*part.left, b"\x01" * 32)),
        "outside",
    ),
    "a digest on the right too many": (
        lambda part: replace(part, right=(*part.right, b"\x01" * 32)),
        "root",
    ),
    "an empty digest at the end": (
        lambda part: replace(part, right=(*part.right, bytes(32))),
        "outside",
    ),
    "more digests than bits": (
        lambda part: replace(part, left=(*part.left, *(b"\x01" * 32,) * 200)),
        "outside",
    ),
    "a leaf before that is inside": (
        lambda part: replace(part, before=Leaf(part.end, bytes(32))),
        "outside",
    ),
    "a leaf after that is inside": (
        lambda part: replace(part, after=Leaf(part.end, bytes(32))),
        "outside",
    ),
    "a leaf before out of its place": (
        lambda part: replace(part, before=Leaf(FIRST_PATH, bytes(32))),
        "order",
    ),
    "it says that it ends at the stop": (lambda part: replace(part, end=LAST_PATH), "outside"),
    "it says that it ends beyond": (
        lambda part: replace(part, end=next_path(part.end) or part.end),
        "end",
    ),
    "it ends before its start": (lambda part: replace(part, end=FIRST_PATH), "end"),
    "a digest of another length": (lambda part: replace(part, left=(b"", *part.left)), "bounds"),
    "a key too long": (
        lambda part: replace(part, leaves=(RangeLeaf(bytes(KEY_BYTES_MAX + 1), b""), *part.leaves)),
        "bounds",
    ),
    "a value too long": (
        lambda part: replace(
            part, leaves=(RangeLeaf(b"", bytes(VALUE_BYTES_MAX + 1)), *part.leaves)
        ),
        "bounds",
    ),
    "more leaves than a range holds": (
        lambda part: replace(part, leaves=part.leaves[:1] * (RANGE_LEAVES_MAX + 1)),
        "bounds",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_range_lies(name: str) -> None:
    """Whatever is left out, added, changed or moved, the range is refused with what is wrong."""
    store = store_of({b"record %d" % i: b"value %d" % i for i in range(200)})
    start = b"\x5b" + bytes(31)
    true = prove_range(store.read, store.root, start, LAST_PATH, 200)
    attack, code = ATTACKS[name]

    forged = attack(true)

    assert len(true.leaves) > 5
    assert code_of(store, start, LAST_PATH, true) == ""
    assert code_of(store, start, LAST_PATH, forged) == f"state_range.{code}"


def test_a_neighbours_range_is_refused() -> None:
    """A true range that starts elsewhere, or ends beyond what was asked, is not the answer."""
    store = store_of({b"record %d" % i: b"value" for i in range(200)})
    start, stop = b"\x40" + bytes(31), b"\x80" + bytes(31)
    neighbour = prove_range(store.read, store.root, stop, LAST_PATH, 200)
    longer = prove_range(store.read, store.root, start, LAST_PATH)
    earlier = prove_range(store.read, store.root, FIRST_PATH, stop)

    assert code_of(store, start, stop, neighbour) == "state_range.end"
    assert code_of(store, start, stop, longer) == "state_range.end"
    assert code_of(store, start, stop, earlier) == "state_range.order"
    assert code_of(store, start, LAST_PATH, neighbour) == "state_range.root"


@given(content=contents, hidden=keys, start=paths)
def test_a_present_leaf_is_in_every_accepted_range(
    content: dict[bytes, bytes], hidden: bytes, start: bytes
) -> None:
    """The honest range of a tree without the leaf never passes under the root with it."""
    store = store_of(content | {hidden: b"hidden"})
    content.pop(hidden, None)
    without = store_of(content)

    forged = prove_range(without.read, without.root, start)
    accepted = code_of(store, start, LAST_PATH, forged) == ""

    assert not accepted


def test_a_deep_digest_does_not_stand_for_a_whole_subtree() -> None:
    """The digest of a place at depth 256, alone in a subtree, would hide the range's own leaves."""
    with plain():
        kept = b"\x80" + bytes(31)
        inside = {bytes(31) + b"\x05": b"a", bytes(31) + b"\x09": b"b"}
        store = store_of({**inside, kept: b"c"})
        start = bytes(31) + b"\x01"
        true = prove_range(store.read, store.root, start, bytes(31) + b"\xff")
        assert len(true.leaves) == 2
        subtree = prove_range(store.read, store.root, kept).left[0]

        forged = replace(true, leaves=(), left=(subtree,))

        assert code_of(store, start, bytes(31) + b"\xff", true) == ""
        assert code_of(store, start, bytes(31) + b"\xff", forged) != ""


def test_a_leaf_outside_is_shown_where_it_stands_in_the_way() -> None:
    """A range between two leaves of a tree is empty, and shows both."""
    with plain():
        low, high = bytes(32), b"\x01" + bytes(31)
        store = store_of({low: b"low", high: b"high"})
        start, stop = bytes(31) + b"\x01", bytes(31) + b"\x02"

        found = prove_range(store.read, store.root, start, stop)

        assert found.leaves == ()
        assert found.before == Leaf(low, digest(STATE_VALUE, b"low"))
        assert found.right == (*(bytes(32),) * 7, leaf_digest(high, digest(STATE_VALUE, b"high")))
        assert code_of(store, start, stop, found) == ""
        assert code_of(store, start, stop, replace(found, before=None)) == "state_range.root"


def test_a_leaf_at_an_end_is_inside_and_one_beyond_it_is_not() -> None:
    """A leaf shown outside would be left out by whoever asks next from there on."""
    with plain():
        low, high = bytes(32), b"\x01" + bytes(31)
        store = store_of({low: b"low", high: b"high"})
        outside = Leaf(low, digest(STATE_VALUE, b"low"))
        true = prove_range(store.read, store.root, low, bytes(31) + b"\x02")
        last = prove_range(store.read, store.root, bytes(31) + b"\x01", high)
        beyond = RangeLeaf(high, b"high")

        hidden = replace(true, leaves=(), before=outside)
        hidden_last = replace(last, leaves=(), after=Leaf(high, digest(STATE_VALUE, b"high")))
        longer = replace(true, leaves=(*true.leaves, beyond), right=())

        assert [leaf.state_key for leaf in (*true.leaves, *last.leaves)] == [low, high]
        assert code_of(store, low, true.end, hidden) == "state_range.outside"
        assert code_of(store, bytes(31) + b"\x01", high, hidden_last) == "state_range.outside"
        assert code_of(store, low, true.end, longer) == "state_range.order"


def test_the_fullest_range_fits_its_bound_on_the_wire() -> None:
    """As many leaves as there may be, of as many bytes, with every digest outside."""
    each = RANGE_CONTENT_BYTES_MAX // RANGE_LEAVES_MAX
    leaves = (RangeLeaf(bytes(each - 8), bytes(8)),) * RANGE_LEAVES_MAX
    outside = (b"\x01" * 32,) * 256
    other = Leaf(LAST_PATH, LAST_PATH)

    packed = pack(StateRange(LAST_PATH, leaves, outside, outside, other, other))

    assert RANGE_BYTES_MAX // 2 < len(packed) <= RANGE_BYTES_MAX
    assert unpack(StateRange, packed, RANGE_BYTES_MAX).leaves == leaves


def test_a_range_stops_at_its_number_of_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small leaves are bounded by their number before their bytes."""
    monkeypatch.setattr(module, "RANGE_LEAVES_MAX", 7)
    store = store_of({b"record %d" % i: b"" for i in range(20)})

    found = prove_range(store.read, store.root, FIRST_PATH)

    assert len(found.leaves) == 7
    assert code_of(store, FIRST_PATH, LAST_PATH, found) == ""
