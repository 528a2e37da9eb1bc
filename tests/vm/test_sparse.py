"""The sparse Merkle state: one root for one content, and paths that cannot lie."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vm import sparse
from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.sparse import EMPTY, Leaf, NodeKey, Root, StatePath, Update

Writes = Mapping[bytes, bytes]

keys = st.integers(0, 40).map(lambda i: b"key %d" % i)
values = st.binary(max_size=3)
batches = st.lists(st.dictionaries(keys, values, max_size=12), min_size=1, max_size=6)
# 32-byte keys that are their own path (see `plain_paths`): alike but for a few bits anywhere, so
# that leaves hang at every depth down to 256.
close_keys = st.sets(st.sampled_from([0, 1, 6, 7, 8, 100, 248, 254, 255]), max_size=4).map(
    lambda bits: sum(1 << 255 - bit for bit in bits).to_bytes(32, "big")
)
close_batches = st.lists(st.dictionaries(close_keys, values, max_size=12), min_size=1, max_size=6)


class Store:
    """Nodes in a dict, one update for each height, and which nodes were read."""

    def __init__(self) -> None:
        self.nodes: dict[NodeKey, bytes] = {}
        self.updates: list[Update] = []
        self.seen: set[NodeKey] = set()

    @property
    def root(self) -> Root:
        """The newest root."""
        return self.updates[-1].root if self.updates else EMPTY

    def read(self, key: NodeKey) -> bytes:
        """The stored node; a KeyError if it is not there."""
        self.seen.add(key)
        return self.nodes[key]

    def write(self, writes: Writes) -> Update:
        """Apply one height's batch."""
        update = sparse.update(self.read, self.root, len(self.updates), writes)
        assert not self.nodes.keys() & update.nodes.keys(), "a node is never overwritten"
        self.nodes |= update.nodes
        self.updates.append(update)
        return update

    def reached(self, root: Root, content: Writes) -> set[NodeKey]:
        """Every node of `root`: together the ways to all its leaves visit them all."""
        self.seen.clear()
        for key, value in content.items():
            assert sparse.get(self.read, root, key) == value
        return set(self.seen)


def store_of(*written: Writes) -> Store:
    """A store to which each batch was written at its own height."""
    store = Store()
    for writes in written:
        store.write(writes)
    return store


def contents(written: Sequence[Writes]) -> list[dict[bytes, bytes]]:
    """What the state holds after each height."""
    held: list[dict[bytes, bytes]] = []
    for writes in written:
        held.append((held[-1] if held else {}) | dict(writes))
    return held


def naive_root(content: Writes, path_of_plain: bool = False) -> bytes:
    """The root by its definition, walking all 256 levels."""
    leaves = {
        (key if path_of_plain else digest(STATE_KEY, key)): digest(STATE_VALUE, value)
        for key, value in content.items()
    }

    def subtree(inside: list[bytes], depth: int) -> bytes:
        if not inside:
            return bytes(32)
        if len(inside) == 1:
            return sha256(b"\x00" + inside[0] + leaves[inside[0]]).digest()
        sides: tuple[list[bytes], list[bytes]] = ([], [])
        for path in inside:
            sides[int.from_bytes(path, "big") >> 255 - depth & 1].append(path)
        return sha256(
            b"\x01" + subtree(sides[0], depth + 1) + subtree(sides[1], depth + 1)
        ).digest()

    return subtree(list(leaves), 0)


@contextmanager
def plain_paths() -> Iterator[None]:
    """Let a 32-byte key be its own path: what an attacker gets who could invert SHA-256."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sparse, "digest", lambda tag, data: data if tag == STATE_KEY else digest(tag, data)
        )
        yield


def code_of(path: StatePath, root: bytes, key: bytes, value: bytes | None) -> str:
    """The code with which a path is refused, or "" if it is accepted."""
    try:
        sparse.verify(path, root, key, value)
    except Refused as refusal:
        return refusal.code
    return ""


@given(written=batches)
def test_the_root_is_that_of_the_content(written: list[Writes]) -> None:
    """However writes are ordered and batched, the root is the definition's root."""
    content = contents(written)[-1]

    store = store_of(*written)

    assert store.root.digest == naive_root(content)
    assert store_of(dict(reversed(content.items()))).root.digest == naive_root(content)
    one_by_one = store_of(*({key: value} for key, value in content.items()))
    assert one_by_one.root.digest == naive_root(content)


@settings(max_examples=40)
@given(written=close_batches, absent=close_keys)
def test_paths_that_part_late_are_no_exception(written: list[Writes], absent: bytes) -> None:
    """Keys ground to share up to 255 bits give the definition's root and sound paths."""
    content = contents(written)[-1]
    assume(absent not in content)

    with plain_paths():
        store = store_of(*written)

        assert store.root.digest == naive_root(content, path_of_plain=True)
        for key, value in [*content.items(), (absent, None)]:
            path = sparse.prove(store.read, store.root, key)
            sparse.verify(path, store.root.digest, key, value)
            assert code_of(path, store.root.digest, key, b"another") != ""


@given(written=batches, key=keys)
def test_every_height_keeps_its_values(written: list[Writes], key: bytes) -> None:
    """A root reads and proves what its height held, whatever later heights wrote."""
    store = store_of(*written)

    for update, content in zip(store.updates, contents(written), strict=True):
        assert sparse.get(store.read, update.root, key) == content.get(key)
        path = sparse.prove(store.read, update.root, key)
        sparse.verify(path, update.root.digest, key, content.get(key))


@pytest.mark.parametrize("plain", [False, True])
@settings(max_examples=40)
@given(data=st.data())
def test_pruning_leaves_exactly_the_retained_roots(plain: bool, data: st.DataObject) -> None:
    """Without the stale nodes of heights up to h, the roots from h on are whole, and alone."""
    written = data.draw(close_batches if plain else batches)
    oldest = data.draw(st.integers(0, len(written) - 1))
    with plain_paths() if plain else nullcontext():
        store = store_of(*written)

        for update in store.updates[: oldest + 1]:
            for node in update.stale:
                del store.nodes[node]  # a node that is stale twice would be a KeyError

        retained = zip(store.updates[oldest:], contents(written)[oldest:], strict=True)
        reached = [store.reached(update.root, content) for update, content in retained]
        assert set(store.nodes) == set().union(*reached)


@given(written=batches)
def test_writing_what_is_there_leaves_no_trace(written: list[Writes]) -> None:
    """A batch that repeats present values stores nothing and keeps the root."""
    store = store_of(*written)
    root = store.root

    update = store.write(contents(written)[-1])

    assert update == Update(root, {}, ())


@given(written=batches)
def test_nodes_are_written_in_order_of_height(written: list[Writes]) -> None:
    """Each node key begins with its height, so a store appends; root and links find the rest."""
    store = store_of(*written)

    for height, update in enumerate(store.updates):
        assert all(node[:8] == height.to_bytes(8, "big") for node in update.nodes)
        assert all(node[:8] < height.to_bytes(8, "big") for node in update.stale)


def test_a_batch_builds_each_interior_node_once() -> None:
    """A batch of n random keys into an empty tree costs n leaves and about 1.44 n nodes."""
    written = {b"record %d" % i: b"value" for i in range(1000)}

    update = store_of(written).updates[-1]

    interior = len(update.nodes) - len(written)
    assert 1.3 * len(written) < interior < 1.6 * len(written)
    assert update.stale == ()


def test_the_empty_tree_has_nothing_and_proves_it() -> None:
    """With no writes the root is 32 zero bytes, and the empty path shows any key absent."""
    store = store_of({})

    path = sparse.prove(store.read, store.root, b"key")

    assert store.root == EMPTY
    assert path == StatePath((), None)
    assert code_of(path, EMPTY.digest, b"key", None) == ""
    assert code_of(path, EMPTY.digest, b"key", b"") == "state_path.root"


def test_genesis_and_the_next_block_have_heights_of_their_own() -> None:
    """A second batch at one height would overwrite nodes, so it is our own bug."""
    store = store_of({b"key": b"value"})

    with pytest.raises(AssertionError, match="height 0 is already written"):
        sparse.update(store.read, store.root, 0, {b"key": b"other"})


@given(content=st.dictionaries(keys, values, min_size=2, max_size=30), data=st.data())
def test_no_path_shows_another_value(content: Writes, data: st.DataObject) -> None:
    """A wrong value, key, root, sibling, order or length is refused, with the step that failed."""
    store = store_of(content)
    root = store.root.digest
    key = data.draw(st.sampled_from(sorted(content)))
    value, path = content[key], sparse.prove(store.read, store.root, key)
    neighbour = data.draw(st.sampled_from(sorted(set(content) - {key})))
    place = data.draw(st.integers(0, len(path.siblings) - 1))
    bent = list(path.siblings)
    bent[place] = bytes((bent[place][0] ^ 1,)) + bent[place][1:]
    own = Leaf(digest(STATE_KEY, key), digest(STATE_VALUE, value))

    def siblings(*found: bytes) -> StatePath:
        return replace(path, siblings=found)

    assert code_of(path, root, key, value) == ""
    for name, attack in {
        "wrong value": (path, root, key, value + b"x"),
        "absent": (path, root, key, None),
        "neighbour's key": (path, root, neighbour, value),
        "another root": (path, own.path, key, value),
        "bent": (siblings(*bent), root, key, value),
        "truncated": (siblings(*path.siblings[1:]), root, key, value),
        "beheaded": (siblings(*path.siblings[:-1]), root, key, value),
        "extended": (siblings(*path.siblings, bytes(32)), root, key, value),
        "extended below": (siblings(bytes(32), *path.siblings), root, key, value),
    }.items():
        assert code_of(*attack) == "state_path.root", name
    with_own = replace(path, leaf=own)
    assert code_of(with_own, root, key, None) == "state_path.leaf_is_key"
    assert code_of(with_own, root, key, value) == "state_path.unexpected_leaf"


def test_swapped_siblings_do_not_verify() -> None:
    """The order of siblings is part of the claim."""
    store = store_of({b"record %d" % i: b"value" for i in range(20)})
    path = sparse.prove(store.read, store.root, b"record 7")
    first, second, *rest = path.siblings

    swapped = replace(path, siblings=(second, first, *rest))

    assert code_of(swapped, store.root.digest, b"record 7", b"value") == "state_path.root"


@given(content=st.dictionaries(keys, values, min_size=2, max_size=30), data=st.data())
def test_an_existing_key_cannot_be_shown_absent(content: Writes, data: st.DataObject) -> None:
    """The path to any other leaf or gap of the tree never shows that a present key is absent."""
    store = store_of(content)
    key = data.draw(st.sampled_from(sorted(content)))
    elsewhere = data.draw(st.one_of(keys, st.binary(max_size=8)).filter(lambda k: k != key))
    path = sparse.prove(store.read, store.root, elsewhere)
    held = content.get(elsewhere)
    leaf = None if held is None else Leaf(digest(STATE_KEY, elsewhere), digest(STATE_VALUE, held))

    for attack in (path, replace(path, leaf=leaf), replace(path, leaf=None)):
        refused = code_of(attack, store.root.digest, key, None)

        assert refused in {"state_path.root", "state_path.leaf_elsewhere", "state_path.leaf_is_key"}


def test_a_leaf_that_stands_elsewhere_shows_nothing() -> None:
    """A true leaf of the tree whose path parts from the key's above it says nothing of the key."""
    with plain_paths():
        present, far = bytes(32), b"\x80" + bytes(31)
        store = store_of({present: b"here", far: b"there", far[:31] + b"\x01": b"third"})
        path = sparse.prove(store.read, store.root, far)
        leaf = Leaf(far, digest(STATE_VALUE, b"there"))

        forged = replace(path, leaf=leaf)

        assert code_of(path, store.root.digest, far, b"there") == ""
        assert code_of(forged, store.root.digest, present, None) == "state_path.leaf_elsewhere"


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (b"\x01" + bytes(31), "state_path.leaf_elsewhere"),  # shares 7 bits
        (b"\x00\x80" + bytes(30), "state_path.root"),  # shares 8: only its digest is wrong
    ],
)
def test_another_leaf_shares_every_bit_above_it(other: bytes, code: str) -> None:
    """Below 8 siblings only a leaf that shares 8 bits can stand in the key's way."""
    path = StatePath((bytes(32),) * 8, Leaf(other, bytes(32)))

    with plain_paths():
        assert code_of(path, EMPTY.digest, bytes(32), None) == code


def test_an_interior_node_is_no_leaf() -> None:
    """The second-preimage attack: two children's digests, offered as a leaf's path and value."""
    with plain_paths():
        low, high = bytes(32), b"\x80" + bytes(31)
        store = store_of({low: b"", high: b""})
        children = [
            sha256(b"\x00" + key + digest(STATE_VALUE, b"")).digest() for key in (low, high)
        ]
        assert sha256(b"\x01" + b"".join(children)).digest() == store.root.digest

        forged = StatePath((), Leaf(*children))

        assert code_of(forged, store.root.digest, low, None) == "state_path.root"


def test_a_leaf_is_no_interior_node() -> None:
    """The same attack upside down: a leaf's path of zeros, offered as an empty left subtree."""
    with plain_paths():
        store = store_of({bytes(32): b"value"})

        forged = StatePath((digest(STATE_VALUE, b"value"),), None)

        assert code_of(forged, store.root.digest, bytes(32), None) == "state_path.root"


def test_the_longest_path_is_read_and_one_more_is_refused() -> None:
    """Two keys that part at the last bit need 256 siblings; 257 are refused before hashing."""
    with plain_paths():
        low, high = bytes(32), bytes(31) + b"\x01"
        store = store_of({low: b"low", high: b"high"})
        path = sparse.prove(store.read, store.root, low)

        longer = replace(path, siblings=(*path.siblings, bytes(32)))

        assert len(path.siblings) == sparse.DEPTH_MAX
        assert code_of(path, store.root.digest, low, b"low") == ""
        assert unpack(StatePath, pack(path)) == path
        assert code_of(longer, store.root.digest, low, b"low") == "state_path.bounds"
        with pytest.raises(AssertionError):
            pack(longer)


def test_the_largest_record_is_kept_and_one_byte_more_is_refused() -> None:
    """KEY_BYTES_MAX and VALUE_BYTES_MAX can be filled; beyond, writing is a bug of ours."""
    key, value = b"k" * sparse.KEY_BYTES_MAX, bytes(sparse.VALUE_BYTES_MAX)
    store = store_of({key: value})
    root = store.root.digest
    path = sparse.prove(store.read, store.root, key)

    assert sparse.get(store.read, store.root, key) == value
    assert code_of(path, root, key, value) == ""
    assert code_of(path, root, key + b"k", value) == "state_path.bounds"
    assert code_of(path, root, key, value + b"\x00") == "state_path.bounds"
    for oversized in ({key + b"k": b""}, {key: value + b"\x00"}):
        with pytest.raises(AssertionError):
            store.write(oversized)


@pytest.mark.parametrize(
    "path",
    [
        StatePath((bytes(31),), None),
        StatePath((bytes(33),), None),
        StatePath((), Leaf(bytes(31), bytes(32))),
        StatePath((), Leaf(bytes(32), bytes(33))),
    ],
)
def test_digests_of_another_length_are_refused(path: StatePath) -> None:
    """Bytes shifted between two digests would hash alike, so each must have its length."""
    assert code_of(path, EMPTY.digest, b"key", None) == "state_path.bounds"


@given(content=st.dictionaries(keys, values, min_size=1, max_size=10), data=st.data())
def test_a_damaged_node_stops_the_reader(content: Writes, data: st.DataObject) -> None:
    """Any byte changed, cut off or added is noticed, and no key gets a wrong answer."""
    store = store_of(content)
    node = data.draw(st.sampled_from(sorted(store.nodes)))
    whole = store.nodes[node]
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytes((whole[place] ^ data.draw(st.integers(1, 255)),))

    for damaged in (
        whole[:place] + flipped + whole[place + 1 :],
        whole[:place],
        whole + b"\x00",
        whole[1:],
    ):
        store.nodes[node] = damaged
        noticed = False
        for key, value in content.items():
            try:
                assert sparse.get(store.read, store.root, key) == value
            except (sparse.DamagedNode, KeyError):
                noticed = True
        assert noticed


@pytest.mark.parametrize(
    ("node", "children"),
    [
        (b"", bytes(64)),
        (b"\x00", bytes(64)),
        (b"\x00\x00", bytes(64)),
        (b"\x00" + b"\x01" + bytes(40) + b"\x00", bytes(64)),
        (b"\x00" + b"\x03" + bytes(40), bytes(64)),
        (b"\x00" + b"\x02" + bytes(72), bytes(32) + sha256(bytes(65)).digest()),
        (b"\x02" + bytes(72) + b"\x00", sha256(bytes(65)).digest() + bytes(32)),
    ],
)
def test_a_node_that_is_never_written_is_damage(node: bytes, children: bytes) -> None:
    """Cut off, two empty children, a byte too many, no tag, a lone leaf: even under its digest."""
    root = Root(0, sha256(b"\x01" + children).digest(), None)

    for key in (b"key %d" % i for i in range(8)):  # some to the left, some to the right
        with pytest.raises(sparse.DamagedNode):
            sparse.get(lambda _: node, root, key)


@given(written=batches)
def test_roots_and_paths_survive_packing(written: list[Writes]) -> None:
    """A root and a path are records: their bytes read back as they were."""
    store = store_of(*written)
    path = sparse.prove(store.read, store.root, b"absent")

    assert unpack(Root, pack(store.root)) == store.root
    assert unpack(StatePath, pack(path)) == path
