"""Order and chance from a seed: the batches of a round, and the three parts of a hospital's rows.

Everything is drawn in integers from SHA-256 over a context and a counter, so each machine draws the
same. Design, section 5: the beacon of a round becomes known only when the round opens, so a
trainer cannot choose the order in which its rows are seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vm.digest import PRF, digest
from vm.encoding import Value, encode
from vm.shape import Digest

WORD_BYTES = 8
WORD_VALUES = 2 ** (8 * WORD_BYTES)
SCORING_PERCENT = 20  # of a hospital's rows: on these its verifier scores the others' updates
TEST_PERCENT = 30  # of a hospital's rows: only reported figures come from these


class Stream:
    """Pseudo-random integers: block i is digest(PRF, encode(context) || i as 8 bytes).

    Canonical encodings are self-delimiting, so two contexts never share a block.
    """

    def __init__(self, *context: Value) -> None:
        self._prefix = encode(context)
        self._blocks = 0
        self._words: list[int] = []

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound): words past the last whole multiple are thrown away."""
        assert 0 < bound <= WORD_VALUES, f"expected a bound from 1 to 2^64, found {bound}"
        limit = WORD_VALUES - WORD_VALUES % bound
        while (word := self._word()) >= limit:
            pass
        return word % bound

    def _word(self) -> int:
        if not self._words:
            block = digest(PRF, self._prefix + self._blocks.to_bytes(WORD_BYTES, "big"))
            self._blocks += 1
            self._words = [
                int.from_bytes(block[start : start + WORD_BYTES], "big")
                for start in range(len(block) - WORD_BYTES, -1, -WORD_BYTES)
            ]
        return self._words.pop()


def permutation(size: int, stream: Stream) -> list[int]:
    """A uniform order of range(size): Fisher-Yates from the end (Knuth, volume 2, 3.4.2 P)."""
    order = list(range(size))
    for last in range(size - 1, 0, -1):
        other = stream.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def batches(
    beacon: Digest, dataset: str, rows: int, batch_rows: int, first: int, end: int
) -> list[tuple[int, ...]]:
    """Row numbers, in [0, rows), of the minibatches of steps [first, end) of a round.

    Each epoch walks through one permutation and drops the last short batch, since a batch of
    another size would weigh its rows more. A hospital with fewer rows than a batch trains on all
    of its rows in every step.
    """
    assert rows > 0, "expected rows to train on"
    size = min(batch_rows, rows)
    per_epoch = rows // size
    found: list[tuple[int, ...]] = []
    for step in range(first, end):
        epoch, place = divmod(step, per_epoch)
        order = _epoch_order(beacon, dataset, rows, epoch)
        found.append(order[place * size : (place + 1) * size])
    return found


@lru_cache(maxsize=2)  # segments of one epoch ask again: 0.2 s each for 100,000 rows
def _epoch_order(beacon: Digest, dataset: str, rows: int, epoch: int) -> tuple[int, ...]:
    return tuple(permutation(rows, Stream("batches", beacon, dataset, epoch)))


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of the three disjoint parts, each ascending."""

    train: tuple[int, ...]
    scoring: tuple[int, ...]
    test: tuple[int, ...]


def split(seed: bytes, labels: Sequence[int]) -> Split:
    """Part the rows in three, within each label, so that a rare outcome is found in every part.

    With 21 events among 211 rows a plain split leaves a part with no event once in a while, and
    neither a score nor an AUC can be taken there. Rounding favours the training part.
    """
    train: list[int] = []
    scoring: list[int] = []
    test: list[int] = []
    for label in sorted(set(labels)):
        rows = [row for row, found in enumerate(labels) if found == label]
        order = permutation(len(rows), Stream("split", seed, label))
        drawn = [rows[place] for place in order]
        scoring_end = len(rows) * SCORING_PERCENT // 100
        test_end = scoring_end + len(rows) * TEST_PERCENT // 100
        scoring += drawn[:scoring_end]
        test += drawn[scoring_end:test_end]
        train += drawn[test_end:]
    return Split(tuple(sorted(train)), tuple(sorted(scoring)), tuple(sorted(test)))
