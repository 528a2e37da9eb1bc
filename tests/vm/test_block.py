"""What a backup checks of a proposal by bytes and height, and how a header commits to a block."""

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.harness import as_read, key_of
from vm import block, transaction, tree
from vm.block import (
    PAYLOAD_BYTES_MAX,
    TRANSACTIONS_MAX,
    Header,
    Payload,
    Receipt,
    Result,
    check_payload,
    receipts_root,
    transactions_root,
)
from vm.encoding import encode
from vm.record import Standing
from vm.refusal import Refused
from vm.registry import SetStanding
from vm.shape import pack
from vm.transaction import Intent, Transaction, sign, transaction_id

CHAIN = bytes(range(32))
KEY = key_of("hospital-1.admin")
HEIGHT = 5


def signed(nonce: int, *, chain: bytes = CHAIN, valid_until_height: int = HEIGHT) -> Transaction:
    """One of many good transactions."""
    return sign(
        KEY,
        chain=chain,
        kind="member.standing",
        sender="hospital-1.admin",
        body=SetStanding("hospital-1.trainer", Standing.SUSPENDED),
        valid_until_height=valid_until_height,
        nonce=nonce.to_bytes(16, "big"),
    )


def unsigned(nonce: int, body_bytes: int = 1) -> Transaction:
    """A transaction that passes only where its signature was verified before."""
    intent = Intent(
        CHAIN, "k", "s", bytes(32), bytes(body_bytes), HEIGHT, nonce.to_bytes(16, "big")
    )
    return Transaction(intent, bytes(64))


def payload_of(*transactions: Transaction) -> bytes:
    """A proposal of these."""
    return pack(Payload(1_000, tuple(pack(item) for item in transactions)))


def code_of(data: bytes, height: int = HEIGHT) -> str:
    """The code with which a proposal is refused."""
    with pytest.raises(Refused) as refused:
        check_payload(data, height, CHAIN, {})
    return refused.value.code


def test_a_good_proposal_gives_its_time_and_transactions_in_order() -> None:
    """The order of transactions is the primary's."""
    transactions = (signed(2), signed(1))

    payload, found = check_payload(payload_of(*transactions), HEIGHT, CHAIN, {})

    assert payload.time_ms == 1_000
    assert found == tuple(map(as_read, transactions))


def test_an_empty_proposal_is_good() -> None:
    """A due deadline makes a block without transactions."""
    assert check_payload(payload_of(), HEIGHT, CHAIN, {})[1] == ()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (replace(signed(2), signature=bytes(64)), "transaction.signature"),
        (signed(2, chain=bytes(32)), "transaction.chain"),
        (signed(2, valid_until_height=HEIGHT - 1), "transaction.expired"),
        (
            signed(2, valid_until_height=HEIGHT + transaction.TX_LIFETIME_BLOCKS_MAX),
            "transaction.lifetime",
        ),
        (signed(1), "payload.duplicate"),
        (replace(signed(1), signature=KEY.sign(bytes(32))), "transaction.signature"),
    ],
)
def test_one_bad_transaction_spoils_a_proposal(bad: Transaction, code: str) -> None:
    """A primary cannot hide a forged, foreign, dead or repeated transaction among good ones."""
    assert code_of(payload_of(signed(1), bad, signed(3))) == code


def test_a_repeat_is_known_by_its_id_not_by_its_signature() -> None:
    """Two valid signatures over one intent are still one transaction."""
    first = signed(1)
    other = replace(first, signature=bytes(64))
    known = {pack(other): as_read(other)}  # as if it were a second valid signature

    with pytest.raises(Refused, match=r"payload\.duplicate"):
        check_payload(payload_of(first, other), HEIGHT, CHAIN, known)


def test_a_known_transaction_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup verifies what it has not seen, once; what its mempool verified it takes as it is."""
    calls: list[bytes] = []

    def count(data: bytes, chain: bytes) -> transaction.Verified:
        calls.append(data)
        return transaction.read(data, chain)

    monkeypatch.setattr(block, "read", count)
    known, fresh = signed(1), signed(2)

    check_payload(payload_of(known, fresh), HEIGHT, CHAIN, {pack(known): as_read(known)})

    assert calls == [pack(fresh)]


def test_a_known_transaction_is_still_held_to_height_and_uniqueness() -> None:
    """Having verified a signature once says nothing of a later height."""
    old = signed(1, valid_until_height=HEIGHT - 1)
    known = {pack(old): as_read(old)}

    with pytest.raises(Refused, match=r"transaction\.expired"):
        check_payload(payload_of(old), HEIGHT, CHAIN, known)


def test_a_block_holds_its_greatest_number_of_transactions() -> None:
    """`TRANSACTIONS_MAX` pass and one more is refused before any signature is looked at."""
    transactions = [unsigned(nonce) for nonce in range(TRANSACTIONS_MAX)]
    known = {pack(item): as_read(item) for item in transactions}

    _, found = check_payload(payload_of(*transactions), HEIGHT, CHAIN, known)

    assert len(found) == TRANSACTIONS_MAX
    packed = (*known, pack(unsigned(TRANSACTIONS_MAX)))
    assert code_of(encode((1, 1_000, packed))) == "shape.length"


def test_a_payload_past_its_bytes_is_refused() -> None:
    """A payload fills `PAYLOAD_BYTES_MAX` to the byte; one more byte is refused."""
    items = [unsigned(nonce, transaction.BODY_BYTES_MAX) for nonce in range(63)]
    known = {pack(item): as_read(item) for item in items}
    rest = PAYLOAD_BYTES_MAX - len(payload_of(*items)) - len(pack(unsigned(63, 40_000)))
    last, over = (unsigned(63, 40_000 + rest - 3 + more) for more in (0, 1))  # 3: its bin header
    known |= {pack(last): as_read(last), pack(over): as_read(over)}

    full = payload_of(*items, last)

    assert len(full) == PAYLOAD_BYTES_MAX
    assert len(check_payload(full, HEIGHT, CHAIN, known)[1]) == 64
    with pytest.raises(Refused, match=r"encoding\.too_large"):
        check_payload(payload_of(*items, over), HEIGHT, CHAIN, known)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x93\x01\x00",
        encode((1, 1_000, ("text",))),
        encode((1, -1, ())),
        encode((2, 1_000, ())),
        encode((1, 1_000, (b"",))),
        encode((1, 1_000, (b"\x00",))),
        payload_of(signed(1)) + b"\x00",
    ],
)
def test_malformed_payloads_are_refused(data: bytes) -> None:
    """Whatever a hostile primary sends is refused with a code."""
    assert code_of(data).startswith(("encoding.", "shape."))


def test_a_header_commits_to_each_of_its_fields() -> None:
    """Changing any field changes the digest that a quorum signs."""
    header = Header(CHAIN, 1, 2, *(bytes((n,)) * 32 for n in range(6)))
    digests = {header.digest}

    for field in fields(Header):
        value = getattr(header, field.name)
        other: Any = value + 1 if isinstance(value, int) else b"\xff" * 32
        digests.add(replace(header, **{field.name: other}).digest)

    assert len(digests) == 1 + len(fields(Header))


def test_roots_are_of_leaves_in_order() -> None:
    """Transactions and receipts are RFC 6962 trees over packed items."""
    packed = tuple(pack(signed(nonce)) for nonce in range(3))
    receipts = tuple(
        Receipt(transaction_id(signed(nonce).intent), HEIGHT, result, "applied")
        for nonce, result in enumerate((Result.APPLIED, Result.FAILED))
    )

    assert transactions_root(packed) == tree.root(packed)
    assert transactions_root(packed) != transactions_root(packed[::-1])
    assert receipts_root(receipts) == tree.root([pack(receipt) for receipt in receipts])
    assert transactions_root(()) == receipts_root(()) == tree.EMPTY_ROOT
