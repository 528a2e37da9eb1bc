"""Batches and splits: the same on every machine, fair, and disjoint."""

from collections import Counter
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from fl.sampling import SCORING_PERCENT, TEST_PERCENT, Stream, batches, permutation, split
from vm.encoding import encode

BEACON = bytes(32)


def test_the_stream_is_hashes_of_context_and_counter() -> None:
    """Written down as docs/protocol.md has it: words of 8 bytes, big-endian, in order."""
    tag = b"concilium.prf.v1"
    prefix = bytes([len(tag)]) + tag + encode(("vector", BEACON, 1))
    blocks = b"".join(sha256(prefix + n.to_bytes(8, "big")).digest() for n in range(2))
    words = [int.from_bytes(blocks[start : start + 8], "big") for start in range(0, 64, 8)]

    stream = Stream("vector", BEACON, 1)

    assert [stream.below(1000) for _ in words] == [word % 1000 for word in words]


@given(st.integers(0, 200), st.binary(max_size=8))
def test_a_permutation_holds_every_row_once(size: int, seed: bytes) -> None:
    """Nothing is lost and nothing comes twice."""
    order = permutation(size, Stream("test", seed))

    assert sorted(order) == list(range(size))


def test_every_order_of_three_is_equally_likely() -> None:
    """Each of the 6 orders comes about 1,000 times in 6,000; five deviations are 144."""
    counts = Counter(tuple(permutation(3, Stream("fair", seed))) for seed in range(6_000))

    assert len(counts) == 6
    assert all(abs(count - 1_000) < 144 for count in counts.values())


def test_the_largest_words_are_thrown_away() -> None:
    """For a bound of 3 * 2^62 a quarter of the words would favour small numbers: none is used."""
    bound = 3 * 2**62

    low = sum(Stream("reject", seed).below(bound) < 2**62 for seed in range(3_000))

    assert abs(low - 1_000) < 130  # a third; with the modulo bias it would be a half, 1,500


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 30), st.integers(0, 30))
def test_batches_can_start_anywhere(rows: int, batch_rows: int, first: int, count: int) -> None:
    """Steps [first, end) are the same whether or not the steps before them were drawn."""
    end = first + count

    whole = batches(BEACON, "opt", rows, batch_rows, 0, end)

    assert batches(BEACON, "opt", rows, batch_rows, first, end) == whole[first:]


@given(st.integers(1, 60), st.integers(1, 70))
def test_an_epoch_shows_no_row_twice_and_drops_the_short_batch(rows: int, batch_rows: int) -> None:
    """All batches of two epochs have one size, and each epoch has as many as fit."""
    size = min(rows, batch_rows)
    per_epoch = rows // size

    drawn = batches(BEACON, "opt", rows, batch_rows, 0, 2 * per_epoch)

    assert {len(batch) for batch in drawn} == {size}
    for epoch in (drawn[:per_epoch], drawn[per_epoch:]):
        seen = [row for batch in epoch for row in batch]
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(rows))


def test_beacon_dataset_and_epoch_each_change_the_order() -> None:
    """A trainer cannot carry an order over from another round, dataset or epoch."""
    first, second = batches(BEACON, "opt", 50, 50, 0, 2)

    other_beacon = batches(bytes([1] * 32), "opt", 50, 50, 0, 1)[0]
    other_dataset = batches(BEACON, "other", 50, 50, 0, 1)[0]

    assert len({first, second, other_beacon, other_dataset}) == 4


@given(st.lists(st.integers(0, 2), max_size=80), st.binary(max_size=8))
def test_the_three_parts_are_disjoint_and_whole(labels: list[int], seed: bytes) -> None:
    """Each row is in one part only, and each label is parted in the stated shares."""
    parts = split(seed, labels)

    assert sorted(parts.train + parts.scoring + parts.test) == list(range(len(labels)))
    for label in set(labels):
        count = labels.count(label)
        assert sum(labels[row] == label for row in parts.scoring) == count * SCORING_PERCENT // 100
        assert sum(labels[row] == label for row in parts.test) == count * TEST_PERCENT // 100
