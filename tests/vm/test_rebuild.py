"""A tree built from leaves in path order: the same root, and as good as one that grew."""

from collections.abc import Mapping
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vm.test_sparse import Store, close_keys, keys, plain_paths, store_of, values
from vm import sparse
from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.rebuild import Rebuild
from vm.sparse import DEPTH_MAX, EMPTY, NodeKey, Root, leaf_bytes, node_key

contents = st.dictionaries(keys, values, max_size=30)
close_contents = st.dictionaries(close_keys, values, max_size=12)


def rebuilt(content: Mapping[bytes, bytes], height: int, plain: bool) -> tuple[Store, Root]:
    """A store with only the nodes that building gives, and the root."""
    store, builder = Store(), Rebuild(height)
    leaves = [(key if plain else digest(STATE_KEY, key), key, content[key]) for key in content]
    nodes: dict[NodeKey, bytes] = {}
    for path, key, value in sorted(leaves):
        nodes[node_key(height.to_bytes(8, "big"), DEPTH_MAX, path)] = leaf_bytes(key, value)
        for name, node in builder.add(path, digest(STATE_VALUE, value)):
            assert name not in nodes, "every node is built once"
            nodes[name] = node
    nodes.update(builder.finish())
    store.nodes = nodes
    return store, builder.root


@pytest.mark.parametrize("plain", [False, True])
@settings(max_examples=60)
@given(data=st.data())
def test_a_rebuilt_tree_is_the_tree(plain: bool, data: st.DataObject) -> None:
    """Root and nodes are those of one update at that height; each key reads and proves."""
    content = data.draw(close_contents if plain else contents)
    with plain_paths() if plain else nullcontext():
        grown = store_of(content)

        store, root = rebuilt(content, 0, plain)

        assert root == grown.root
        assert store.nodes == grown.nodes
        assert (root == EMPTY) == (not content)
        for key, value in content.items():
            assert sparse.get(store.read, root, key) == value
            sparse.verify(sparse.prove(store.read, root, key), root.digest, key, value)


@pytest.mark.parametrize("plain", [False, True])
@settings(max_examples=40)
@given(data=st.data())
def test_a_rebuilt_tree_grows_and_is_pruned(plain: bool, data: st.DataObject) -> None:
    """Later heights write over it as over any other, and name what of it they left behind."""
    content = data.draw(close_contents if plain else contents)
    later = data.draw(close_contents if plain else contents)
    with plain_paths() if plain else nullcontext():
        store, root = rebuilt(content, 7, plain)

        update = sparse.update(store.read, root, 8, later)
        store.nodes |= update.nodes
        for node in update.stale:
            del store.nodes[node]

        assert update.root.digest == store_of({**content, **later}).root.digest
        assert set(store.nodes) == store.reached(update.root, {**content, **later})


def test_memory_is_bounded_by_depth() -> None:
    """However many leaves come, no more halves wait than the tree is deep."""
    builder = Rebuild(1)
    most = 0

    for number in range(5_000):
        path = digest(STATE_KEY, number.to_bytes(4, "big"))[:2] + number.to_bytes(30, "big")
        if path > builder._path:
            list(builder.add(path, b""))
            most = max(most, len(builder._waiting))

    assert 5 < most <= DEPTH_MAX


def test_leaves_come_in_order() -> None:
    """Anything else is our own bug."""
    builder = Rebuild(1)
    list(builder.add(b"\x80" + bytes(31), b""))

    with pytest.raises(AssertionError, match="in order of path"):
        list(builder.add(bytes(32), b""))
