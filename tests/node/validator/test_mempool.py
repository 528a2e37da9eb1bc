"""The mempool: every bound filled and exceeded, and what is drawn, released and forgotten."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.validator.mempool import (
    ITEM_ENVELOPE_BYTES,
    OMITTED_BLOCKS_MAX,
    PAYLOAD_ENVELOPE_BYTES,
    POOL_BYTES_MAX,
    POOL_TRANSACTIONS_MAX,
    SENDER_TRANSACTIONS_MAX,
    Mempool,
)
from tests.harness import as_read
from vm.block import PAYLOAD_BYTES_MAX, TRANSACTIONS_MAX, Payload
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, pack
from vm.transaction import (
    BODY_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TX_LIFETIME_BLOCKS_MAX,
    Intent,
    Transaction,
)

HEIGHT = 10  # of the next block


def transaction(
    number: int, sender: str = "ada", until: int = HEIGHT, body_bytes: int = 1
) -> Transaction:
    """One of many; its signature was verified elsewhere, so here it need not be one."""
    nonce = number.to_bytes(16, "big")
    intent = Intent(bytes(32), "k", sender, bytes(32), bytes(body_bytes), until, nonce)
    return Transaction(intent, bytes(64))


def admit(pool: Mempool, item: Transaction, height: int = HEIGHT) -> str:
    """The code with which the pool answers; "" for one that waits there already."""
    try:
        return "admitted" if pool.admit(as_read(item), height) else ""
    except Refused as refused:
        return refused.code


def filled(count: int, sender: str = "ada") -> Mempool:
    """A pool in which so many transactions wait."""
    pool = Mempool()
    for number in range(count):
        assert admit(pool, transaction(number, sender)) == "admitted"
    return pool


def test_first_come_first_drawn() -> None:
    """Transactions are drawn in order of arrival, each once."""
    pool = filled(3)

    drawn = pool.draw(HEIGHT)

    assert drawn == tuple(pack(transaction(number)) for number in range(3))
    assert pool.draw(HEIGHT) == ()
    assert (len(pool), pool.waiting) == (3, 0)


def test_a_repeat_is_taken_once() -> None:
    """Equal ids are one transaction, whatever signature the second carries."""
    pool = filled(1)
    other = Transaction(transaction(0).intent, b"\x01" * 64)

    assert admit(pool, transaction(0)) == ""
    assert admit(pool, other) == ""
    assert pool.draw(HEIGHT) == (pack(transaction(0)),)
    assert transaction(0).id in pool


@pytest.mark.parametrize(
    ("until", "code"),
    [
        (HEIGHT - 1, "transaction.expired"),
        (HEIGHT, "admitted"),
        (HEIGHT + TX_LIFETIME_BLOCKS_MAX - 1, "admitted"),
        (HEIGHT + TX_LIFETIME_BLOCKS_MAX, "transaction.lifetime"),
    ],
)
def test_only_what_may_stand_in_the_next_block_is_admitted(until: int, code: str) -> None:
    """Both ends of a transaction's life are checked."""
    assert admit(Mempool(), transaction(0, until=until)) == code


def test_a_busy_sender_cannot_crowd_out_the_others() -> None:
    """At its quota a sender is refused, others are not, and room comes back as blocks come."""
    pool = filled(SENDER_TRANSACTIONS_MAX, "mallory")
    late = transaction(SENDER_TRANSACTIONS_MAX, "mallory")

    assert admit(pool, late) == "mempool.sender_quota"
    assert admit(pool, transaction(0, "ada")) == "admitted"
    pool.remove([transaction(0, "mallory").id])
    assert admit(pool, late) == "admitted"
    assert admit(pool, transaction(SENDER_TRANSACTIONS_MAX + 1, "mallory")) == (
        "mempool.sender_quota"
    )


def test_the_pool_holds_its_number_of_transactions() -> None:
    """With the pool full even a sender with room of its own is refused."""
    pool = Mempool()
    senders = POOL_TRANSACTIONS_MAX // SENDER_TRANSACTIONS_MAX
    for sender in range(senders):
        for number in range(SENDER_TRANSACTIONS_MAX):
            assert admit(pool, transaction(number, f"m{sender}")) == "admitted"

    assert len(pool) == POOL_TRANSACTIONS_MAX
    assert admit(pool, transaction(0, "ada")) == "mempool.full"
    pool.remove([transaction(0, "m0").id])
    assert admit(pool, transaction(0, "ada")) == "admitted"


def test_the_pool_holds_its_number_of_bytes() -> None:
    """Large transactions fill the pool to the byte, long before their number does."""
    pool = Mempool()
    size = len(pack(transaction(0, body_bytes=BODY_BYTES_MAX)))
    count, rest = divmod(POOL_BYTES_MAX, size)
    for number in range(count):
        assert admit(pool, transaction(number, body_bytes=BODY_BYTES_MAX)) == "admitted"
    body = rest - len(pack(transaction(0, body_bytes=rest))) + rest
    exact, over = (transaction(count, body_bytes=body + more) for more in (0, 1))
    assert len(pack(exact)) == rest

    assert admit(pool, over) == "mempool.full"
    assert admit(pool, exact) == "admitted"
    assert admit(pool, transaction(count + 1)) == "mempool.full"
    pool.remove([exact.id])
    assert admit(pool, transaction(count + 1)) == "admitted"


def test_a_draw_fits_one_block() -> None:
    """At most `TRANSACTIONS_MAX` are drawn; the next draw goes on behind them."""
    pool = filled(TRANSACTIONS_MAX + 1)

    assert len(pool.draw(HEIGHT)) == TRANSACTIONS_MAX
    assert pool.draw(HEIGHT) == (pack(transaction(TRANSACTIONS_MAX)),)


@pytest.mark.parametrize("body_bytes", [BODY_BYTES_MAX, 65_000, 255, 256, 2_200])
def test_a_draw_fits_one_payload(body_bytes: int) -> None:
    """Whatever their size, what is drawn packs into a payload, and wastes little of it."""
    pool = Mempool()
    count = PAYLOAD_BYTES_MAX // body_bytes + 1
    for number in range(min(count, SENDER_TRANSACTIONS_MAX)):
        assert admit(pool, transaction(number, body_bytes=body_bytes)) == "admitted"

    drawn = pool.draw(HEIGHT)

    packed = pack(Payload(HEIGHT_MAX, drawn))
    assert len(packed) <= PAYLOAD_BYTES_MAX
    room = PAYLOAD_BYTES_MAX - len(packed)
    assert len(drawn) == TRANSACTIONS_MAX or room < len(drawn[0]) + 5 * len(drawn)


def test_what_expires_before_the_block_is_not_drawn_into_it() -> None:
    """One dead transaction would spoil the whole proposal, and the primary would be blamed.

    The attack: short-lived transactions, while blocks in flight put the next proposal above them.
    """
    pool = Mempool()
    for number, until in enumerate((HEIGHT, HEIGHT + 1, HEIGHT + 2)):
        assert admit(pool, transaction(number, until=until)) == "admitted"

    assert pool.draw(HEIGHT + 2) == (pack(transaction(2, until=HEIGHT + 2)),)
    assert pool.draw(HEIGHT + 1) == (pack(transaction(1, until=HEIGHT + 1)),)


def test_a_view_change_releases_what_was_drawn() -> None:
    """A void proposal's transactions are drawn again, in their old order."""
    pool = filled(3)
    first = pool.draw(HEIGHT)

    pool.release()

    assert pool.waiting == 3
    assert pool.draw(HEIGHT) == first


def test_executed_transactions_are_forgotten() -> None:
    """Drawn or not, and also those that another validator brought and that never waited here."""
    pool = filled(3)
    pool.draw(HEIGHT)

    pool.remove([transaction(1).id, transaction(99).id])

    assert (len(pool), pool.waiting) == (2, 0)
    assert transaction(1).id not in pool
    pool.remove([transaction(0).id, transaction(2).id])
    assert (len(pool), pool.by_bytes) == (0, {})
    assert admit(pool, transaction(1)) == "admitted"
    assert pool.waiting == 1


def test_expired_transactions_are_forgotten() -> None:
    """What may stand in the next block stays."""
    pool = Mempool()
    for number, until in enumerate((HEIGHT, HEIGHT + 1)):
        assert admit(pool, transaction(number, until=until)) == "admitted"

    pool.expire(HEIGHT + 1)

    assert pool.oldest(9) == (pack(transaction(1, until=HEIGHT + 1)),)


def test_the_oldest_are_given_whether_drawn_or_not() -> None:
    """What is sent to the others again is bounded by the caller."""
    pool = filled(3)
    pool.draw(HEIGHT)

    assert pool.oldest(2) == tuple(pack(transaction(number)) for number in range(2))
    assert len(pool.oldest(9)) == 3


def test_what_may_no_longer_be_sent_is_forgotten_with_its_room() -> None:
    """Drawn or not; the quota of its sender and the bytes are free again."""
    pool = filled(2)
    assert admit(pool, transaction(2, "eve")) == "admitted"
    pool.draw(HEIGHT)

    pool.recheck(lambda item: item.intent.sender != "ada")

    assert pool.oldest(9) == (pack(transaction(2, "eve")),)
    assert (len(pool), pool.waiting) == (1, 0)
    assert set(pool.by_bytes) == {pack(transaction(2, "eve"))}
    pool.recheck(lambda item: False)
    assert (len(pool), pool._bytes) == (0, 0)


def deliver(pool: Mempool, blocks: int, executed: Sequence[bytes] = ()) -> None:
    """Blocks of the current view go by in which nothing of the pool stands."""
    for _ in range(blocks):
        pool.passed_over(executed)


def others(payload_bytes: int) -> list[bytes]:
    """Transactions that make a payload of this size."""
    room = payload_bytes - PAYLOAD_ENVELOPE_BYTES
    whole, rest = divmod(room, TRANSACTION_BYTES_MAX + ITEM_ENVELOPE_BYTES)
    return [bytes(TRANSACTION_BYTES_MAX)] * whole + [bytes(max(0, rest - ITEM_ENVELOPE_BYTES))]


FULL = [b"t"] * TRANSACTIONS_MAX


def test_what_enough_blocks_with_room_pass_over_is_omitted() -> None:
    """Blocks from before its arrival do not count; one short of the bound is not yet enough."""
    pool = filled(1)
    deliver(pool, 1)
    admit(pool, transaction(1))

    deliver(pool, OMITTED_BLOCKS_MAX - 2)
    assert pool.omitted(9) == ()
    deliver(pool, 1)
    assert pool.omitted(9) == (transaction(0).id,)
    deliver(pool, 1)
    assert set(pool.omitted(9)) == {transaction(0).id, transaction(1).id}


LARGEST = TRANSACTION_BYTES_MAX + ITEM_ENVELOPE_BYTES


@pytest.mark.parametrize(
    ("executed", "roomy"),
    [
        (FULL[1:], True),
        (FULL, False),
        (others(PAYLOAD_BYTES_MAX - LARGEST), True),
        (others(PAYLOAD_BYTES_MAX - LARGEST + 1), False),
        ([], True),
    ],
)
def test_a_full_block_passes_nothing_over(executed: list[bytes], roomy: bool) -> None:
    """A block is full by number, or when the largest transaction would not have fitted."""
    pool = filled(1)

    deliver(pool, OMITTED_BLOCKS_MAX, executed)

    assert bool(pool.omitted(1)) is roomy


def test_sustained_overload_omits_nothing() -> None:
    """While every block is full a transaction may wait for ever; nobody is to blame."""
    pool = filled(SENDER_TRANSACTIONS_MAX)

    deliver(pool, 10 * OMITTED_BLOCKS_MAX, FULL)

    assert pool.omitted(9) == ()


def test_a_new_primary_is_judged_afresh() -> None:
    """What its predecessor left out is not its fault; its own blocks are counted from the first."""
    pool = filled(2)
    deliver(pool, OMITTED_BLOCKS_MAX)
    assert len(pool.omitted(9)) == 2

    pool.release()

    assert pool.omitted(9) == ()
    deliver(pool, OMITTED_BLOCKS_MAX - 1)
    assert pool.omitted(9) == ()
    deliver(pool, 1)
    assert len(pool.omitted(9)) == 2


def test_what_is_ordered_late_is_omitted_no_more() -> None:
    """Omitted or not yet, an executed transaction leaves nothing behind."""
    pool = filled(3)
    deliver(pool, OMITTED_BLOCKS_MAX)
    admit(pool, transaction(3))

    pool.remove([transaction(1).id, transaction(3).id])
    deliver(pool, OMITTED_BLOCKS_MAX)

    assert set(pool.omitted(9)) == {transaction(0).id, transaction(2).id}
    pool.remove([transaction(0).id, transaction(2).id])
    assert (pool.omitted(9), len(pool._young)) == ((), 0)


def test_pools_filled_in_different_orders_name_the_same() -> None:
    """The attack: each validator is sent other transactions first, so that none agree."""
    pools = [Mempool() for _ in range(3)]
    for turn, pool in enumerate(pools):
        for number in range(60):
            admit(pool, transaction((number + 20 * turn) % 60))

    for pool in pools:
        deliver(pool, OMITTED_BLOCKS_MAX)

    assert len(pools[0].omitted(8)) == 8
    assert len({pool.omitted(8) for pool in pools}) == 1


def test_a_full_pool_costs_each_block_a_bounded_amount() -> None:
    """With 20,000 waiting a block moves at most a block's worth of them; later blocks the rest."""
    pool = Mempool()
    for number in range(POOL_TRANSACTIONS_MAX):
        admit(pool, transaction(number, f"m{number % 5}"))

    found = []
    for _ in range(OMITTED_BLOCKS_MAX + POOL_TRANSACTIONS_MAX // TRANSACTIONS_MAX):
        deliver(pool, 1)
        found.append(len(pool.omitted(POOL_TRANSACTIONS_MAX)))

    steps = [after - before for before, after in zip([0, *found], found, strict=False)]
    assert max(steps) == TRANSACTIONS_MAX
    assert found[-1] == POOL_TRANSACTIONS_MAX


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("admit", "remove", "block", "full", "release")), st.integers(0, 5)
        )
    )
)
def test_omission_is_what_counting_by_hand_gives(steps: list[tuple[str, int]]) -> None:
    """Each waiting transaction with its own counter gives the same answer."""
    pool = Mempool()
    counts: dict[bytes, int] = {}

    for step, number in steps:
        item = transaction(number)
        match step:
            case "admit" if admit(pool, item) == "admitted":
                counts[item.id] = 0
            case "remove":
                pool.remove([item.id])
                counts.pop(item.id, None)
            case "block":
                deliver(pool, 11 * number)
                counts = {id: count + 11 * number for id, count in counts.items()}
            case "full":
                deliver(pool, 11 * number, FULL)
            case "release":
                pool.release()
                counts = dict.fromkeys(counts, 0)

        omitted = sorted(id for id, count in counts.items() if count >= OMITTED_BLOCKS_MAX)
        assert pool.omitted(9) == tuple(omitted)
