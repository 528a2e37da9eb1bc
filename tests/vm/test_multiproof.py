"""Multiproofs against single paths, and against whoever changes anything in one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import multiproof, sparse
from vm.digest import STATE_KEY, digest
from vm.multiproof import Entry
from vm.refusal import Refused
from vm.shape import Digest

Proof = tuple[tuple[Entry, ...], tuple[Digest, ...]]
KEYS = tuple(f"key-{number}".encode() for number in range(24))

present = st.sets(st.sampled_from(KEYS), max_size=len(KEYS))
asked = st.sets(st.sampled_from(KEYS), min_size=1, max_size=len(KEYS))


class Tree:
    """A tree in memory that holds each of `keys`."""

    def __init__(self, keys: set[bytes]) -> None:
        self._nodes: dict[sparse.NodeKey, bytes] = {}
        made = sparse.update(self.read, sparse.EMPTY, 1, {key: b"of " + key for key in keys})
        self._nodes |= made.nodes
        self.root = made.root

    def read(self, key: sparse.NodeKey) -> bytes:
        """A stored node."""
        return self._nodes[key]

    def prove(self, keys: set[bytes]) -> Proof:
        """What an honest node proves."""
        return multiproof.prove(self.read, self.root, keys)

    def check(self, proof: Proof) -> None:
        """Verify under this tree's root."""
        multiproof.verify(*proof, self.root.digest)

    def refusal(self, proof: Proof) -> str:
        """The step that fails."""
        with pytest.raises(Refused) as caught:
            self.check(proof)
        return caught.value.code


FULL = Tree(set(KEYS[:12]))
SOUND = FULL.prove(set(KEYS))


@given(keys=present, asked=asked)
def test_an_honest_proof_says_what_single_paths_say(keys: set[bytes], asked: set[bytes]) -> None:
    """Whatever is there and whatever is asked for, neighbours and absent keys alike."""
    tree = Tree(keys)

    entries, siblings = tree.prove(asked)

    tree.check((entries, siblings))
    assert {entry.key for entry in entries} == asked
    for entry in entries:
        path = sparse.prove(tree.read, tree.root, entry.key)
        assert (entry.depth, entry.leaf) == (len(path.siblings), path.leaf)
        assert entry.value == sparse.get(tree.read, tree.root, entry.key)
        sparse.verify(path, tree.root.digest, entry.key, entry.value)


@given(keys=present, asked=asked)
def test_siblings_are_shared(keys: set[bytes], asked: set[bytes]) -> None:
    """No more of them than single paths have, and none if everything is asked for."""
    tree = Tree(keys)

    entries, siblings = tree.prove(asked)

    assert len(siblings) <= sum(entry.depth for entry in entries)
    whole, rest = tree.prove(keys or asked)
    assert whole
    assert all(item == sparse.EMPTY_DIGEST for item in rest)


@given(keys=present, asked=asked, data=st.data())
def test_any_other_proof_is_refused(
    keys: set[bytes], asked: set[bytes], data: st.DataObject
) -> None:
    """An entry or a sibling dropped, repeated, moved or changed by a byte never verifies.

    An absent key whose place another entry shows as well is left out of a smaller sound proof:
    whoever asked for it compares keys, see `vm.inclusion.verify_records`.
    """
    tree = Tree(keys)
    entries, siblings = tree.prove(asked)

    changed = data.draw(st.sampled_from(CHANGES))(entries, siblings, data)

    if changed is not None and changed != (entries, siblings):
        smaller = {entry.key for entry in changed[0]}
        if smaller and changed == tree.prove(smaller):
            assert smaller < asked
        else:
            assert tree.refusal(changed).startswith("state_path.")


Change = Callable[[tuple[Entry, ...], tuple[Digest, ...], st.DataObject], Proof | None]


def _drop_entry(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof:
    place = data.draw(st.integers(0, len(entries) - 1))
    return entries[:place] + entries[place + 1 :], siblings


def _repeat_entry(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof:
    place = data.draw(st.integers(0, len(entries) - 1))
    return (*entries[: place + 1], *entries[place:]), siblings


def _move_entries(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof:
    return tuple(data.draw(st.permutations(entries))), siblings


def _drop_sibling(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof | None:
    if not siblings:
        return None
    place = data.draw(st.integers(0, len(siblings) - 1))
    return entries, siblings[:place] + siblings[place + 1 :]


def _add_sibling(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof:
    place = data.draw(st.integers(0, len(siblings)))
    added = data.draw(st.sampled_from((sparse.EMPTY_DIGEST, *siblings)))
    return entries, (*siblings[:place], added, *siblings[place:])


def _move_siblings(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof:
    return entries, tuple(data.draw(st.permutations(siblings)))


def _change_sibling(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof | None:
    if not siblings:
        return None
    place = data.draw(st.integers(0, len(siblings) - 1))
    changed = _flip(siblings[place], data)
    return entries, (*siblings[:place], changed, *siblings[place + 1 :])


def _change_entry(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof:
    place = data.draw(st.integers(0, len(entries) - 1))
    entry = entries[place]
    options = [replace(entry, key=_flip(entry.key, data))]
    options.append(replace(entry, depth=data.draw(st.integers(0, sparse.DEPTH_MAX))))
    if entry.value is not None:
        options += [replace(entry, value=_flip(entry.value, data)), replace(entry, value=None)]
    else:
        options.append(replace(entry, value=b"forged"))
    if entry.leaf is not None:
        options.append(replace(entry, leaf=None))
        options.append(
            replace(entry, leaf=replace(entry.leaf, value=_flip(entry.leaf.value, data)))
        )
        options.append(replace(entry, leaf=replace(entry.leaf, path=_flip(entry.leaf.path, data))))
    changed = data.draw(st.sampled_from(options))
    return (*entries[:place], changed, *entries[place + 1 :]), siblings


def _swap_neighbours(
    entries: tuple[Entry, ...], siblings: tuple[Digest, ...], data: st.DataObject
) -> Proof | None:
    """Two entries with each other's value, depth and leaf."""
    if len(entries) < 2:
        return None
    place = data.draw(st.integers(0, len(entries) - 2))
    one, other = entries[place : place + 2]
    swapped = (replace(other, key=one.key), replace(one, key=other.key))
    return (*entries[:place], *swapped, *entries[place + 2 :]), siblings


def _flip(text: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(text)
    changed[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    return bytes(changed)


CHANGES: tuple[Change, ...] = (
    _drop_entry,
    _repeat_entry,
    _move_entries,
    _drop_sibling,
    _add_sibling,
    _move_siblings,
    _change_sibling,
    _change_entry,
    _swap_neighbours,
)


def with_entry(place: int, **changes: object) -> Proof:
    """The sound proof with one entry changed."""
    entries, siblings = SOUND
    entry = replace(entries[place], **changes)  # type: ignore[arg-type]
    return (*entries[:place], entry, *entries[place + 1 :]), siblings


def first(match: Callable[[Entry], bool]) -> int:
    """The place of the first entry of the sound proof that matches."""
    return next(i for i, entry in enumerate(SOUND[0]) if match(entry))


LEAFY = first(lambda entry: entry.leaf is not None)
HELD = first(lambda entry: entry.value is not None)
DEEP = sparse.DEPTH_MAX + 1


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (((), ()), "empty"),
        (((), SOUND[1]), "empty"),
        ((SOUND[0][::-1], SOUND[1]), "order"),
        ((SOUND[0], SOUND[1][:-1]), "siblings"),
        ((SOUND[0], (*SOUND[1], bytes(32))), "siblings"),
        ((SOUND[0], (b"short", *SOUND[1][1:])), "bounds"),
        (with_entry(HELD, depth=DEEP), "bounds"),
        (with_entry(HELD, value=bytes(sparse.VALUE_BYTES_MAX + 1)), "bounds"),
        (with_entry(LEAFY, leaf=sparse.Leaf(b"short", bytes(32))), "bounds"),
        (with_entry(HELD, value=b"forged"), "root"),
        (with_entry(HELD, depth=0), "overlap"),
        (with_entry(LEAFY, value=b"forged"), "unexpected_leaf"),
        (
            with_entry(LEAFY, leaf=sparse.Leaf(digest(STATE_KEY, SOUND[0][LEAFY].key), bytes(32))),
            "leaf_is_key",
        ),
        (with_entry(LEAFY, leaf=sparse.Leaf(bytes(32), bytes(32))), "leaf_elsewhere"),
    ],
)
def test_each_forgery_is_refused_with_its_step(proof: Proof, code: str) -> None:
    """The code says what does not hold."""
    assert FULL.refusal(proof) == f"state_path.{code}"


def test_a_key_longer_than_the_bound_is_refused() -> None:
    """Also where its absence would hold."""
    entry = Entry(bytes(sparse.KEY_BYTES_MAX + 1), None, 0, None)
    with pytest.raises(Refused, match=r"state_path\.bounds"):
        multiproof.verify((entry,), (), sparse.EMPTY_DIGEST)


def test_hashing_is_bounded_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: a short proof that claims the deepest paths costs no more than its length."""
    hashed = 0
    honest = sparse.interior_digest

    def counting(left: bytes, right: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return honest(left, right)

    monkeypatch.setattr(sparse, "interior_digest", counting)
    keys = sorted(KEYS, key=lambda key: digest(STATE_KEY, key))
    deep = tuple(Entry(key, b"x", sparse.DEPTH_MAX, None) for key in keys)

    assert FULL.refusal((deep, (bytes(32),) * 8)) == "state_path.siblings"

    assert hashed <= 8 + len(deep)
