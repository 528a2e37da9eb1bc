"""Transactions that wait to be ordered: a pure core with named bounds.

The shell decodes and verifies each transaction once before it comes here. First come, first drawn;
a sender's quota keeps one busy or hostile member from crowding out the others.
"""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

from vm.block import PAYLOAD_BYTES_MAX, TRANSACTIONS_MAX
from vm.refusal import Refused
from vm.transaction import TRANSACTION_BYTES_MAX, Verified, check_lifetime

POOL_TRANSACTIONS_MAX = 20_000  # ten full blocks
POOL_BYTES_MAX = 64 * 1024 * 1024  # sixteen full payloads
SENDER_TRANSACTIONS_MAX = 4_000  # a fifth of the pool
PAYLOAD_ENVELOPE_BYTES = 16  # around the transactions: version, time and array headers
ITEM_ENVELOPE_BYTES = 5  # around one transaction: the longest msgpack bin header
OMITTED_BLOCKS_MAX = 64  # that pass a transaction over: one window under way when it came, one more


class Mempool:
    """Waiting transactions in order of arrival.

    A transaction is **omitted** once `OMITTED_BLOCKS_MAX` blocks of the current view were delivered
    that had room for it: a primary without fault draws whatever waits into the next such block.
    """

    def __init__(self) -> None:
        self.by_bytes: dict[bytes, Verified] = {}
        self._by_id: dict[bytes, bytes] = {}
        self._drawn: set[bytes] = set()
        self._of_sender: Counter[str] = Counter()
        self._bytes = 0
        self._roomy = 0  # delivered blocks that had room
        self._young: OrderedDict[bytes, int] = OrderedDict()  # by id: `_roomy` when it came
        self._omitted: list[bytes] = []  # ids, sorted; every other waiting one is young

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    @property
    def waiting(self) -> int:
        """How many transactions no proposal of ours holds."""
        return len(self._by_id) - len(self._drawn)

    def admit(self, transaction: Verified, height: int) -> bool:
        """Take a verified transaction; False if it waits here already.

        `height` is the next block's. Raises `Refused` with `transaction.expired`,
        `transaction.lifetime`, `mempool.sender_quota` or `mempool.full`.
        """
        id, packed = transaction.id, transaction.packed
        if id in self._by_id:
            return False
        check_lifetime(transaction.intent, height)
        sender = transaction.intent.sender
        if self._of_sender[sender] >= SENDER_TRANSACTIONS_MAX:
            raise Refused(
                "mempool.sender_quota",
                f"expected at most {SENDER_TRANSACTIONS_MAX} waiting transactions of {sender}; "
                "send again when some are certified",
            )
        if len(self._by_id) >= POOL_TRANSACTIONS_MAX or self._bytes + len(packed) > POOL_BYTES_MAX:
            raise Refused(
                "mempool.full", f"expected room, found {len(self._by_id)} waiting; send again later"
            )
        self.by_bytes[packed] = transaction
        self._by_id[id] = packed
        self._young[id] = self._roomy
        self._of_sender[sender] += 1
        self._bytes += len(packed)
        return True

    def draw(self, height: int) -> tuple[bytes, ...]:
        """The oldest transactions that fit one payload and that no proposal of ours holds.

        `height` is the block's: what may not stand there any more would spoil the whole proposal,
        and with blocks in flight it is above the height that `expire` knows.
        """
        room = PAYLOAD_BYTES_MAX - PAYLOAD_ENVELOPE_BYTES
        drawn: list[bytes] = []
        for id, packed in self._by_id.items():
            if id in self._drawn or self.by_bytes[packed].intent.valid_until_height < height:
                continue
            room -= len(packed) + ITEM_ENVELOPE_BYTES
            if room < 0 or len(drawn) == TRANSACTIONS_MAX:
                break
            drawn.append(packed)
            self._drawn.add(id)
        return tuple(drawn)

    def release(self) -> None:
        """The view changed: what our proposals held may be drawn again, and omission starts anew.

        The new primary answers for its own blocks only.
        """
        self._drawn.clear()
        self._omitted.clear()
        self._young = OrderedDict.fromkeys(self._by_id, self._roomy)

    def passed_over(self, executed: Sequence[bytes]) -> None:
        """The current view's primary had these transactions ordered; call after `remove`.

        That counts against it if any other would have fitted beside them. What was executed before
        and came again fills no room. The work is bounded by a block's transactions, however many
        wait.
        """
        room = PAYLOAD_BYTES_MAX - PAYLOAD_ENVELOPE_BYTES
        room -= sum(len(packed) + ITEM_ENVELOPE_BYTES for packed in executed)
        if len(executed) == TRANSACTIONS_MAX or room < TRANSACTION_BYTES_MAX + ITEM_ENVELOPE_BYTES:
            return
        self._roomy += 1
        for _ in range(min(TRANSACTIONS_MAX, len(self._young))):
            id, came = next(iter(self._young.items()))
            if self._roomy - came < OMITTED_BLOCKS_MAX:
                break
            del self._young[id]
            insort(self._omitted, id)

    def omitted(self, count: int) -> tuple[bytes, ...]:
        """Up to `count` ids of omitted transactions.

        They are the smallest ones, not the oldest: whoever sends each validator other transactions
        first would have each complain of others, and never a quorum of the same.
        """
        return tuple(self._omitted[:count])

    def remove(self, ids: Iterable[bytes]) -> None:
        """Forget transactions that were executed."""
        for id in ids:
            packed = self._by_id.pop(id, None)
            if packed is None:
                continue
            sender = self.by_bytes.pop(packed).intent.sender
            self._drawn.discard(id)
            if self._young.pop(id, None) is None:
                del self._omitted[bisect_left(self._omitted, id)]
            self._bytes -= len(packed)
            self._of_sender[sender] -= 1
            if not self._of_sender[sender]:
                del self._of_sender[sender]

    def expire(self, height: int) -> None:
        """Forget what may not stand in the block at `height` any more."""
        self.remove(
            [
                id
                for id, packed in self._by_id.items()
                if self.by_bytes[packed].intent.valid_until_height < height
            ]
        )

    def recheck(self, allowed: Callable[[Verified], bool]) -> None:
        """Forget what is no longer allowed: once ordered, it could only fail."""
        self.remove(
            [id for id, packed in self._by_id.items() if not allowed(self.by_bytes[packed])]
        )

    def oldest(self, count: int) -> tuple[bytes, ...]:
        """Up to `count` waiting transactions, oldest first: what is sent to the others again."""
        return tuple(packed for packed, _ in zip(self.by_bytes, range(count), strict=False))
