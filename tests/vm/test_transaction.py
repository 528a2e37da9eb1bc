"""Transactions: what is signed, and every way in which bytes alone are refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.harness import as_read, key_of
from vm import digest
from vm.encoding import encode
from vm.record import Standing
from vm.refusal import Refused
from vm.registry import SetStanding
from vm.shape import pack, to_value
from vm.transaction import (
    BODY_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TX_LIFETIME_BLOCKS_MAX,
    Intent,
    Transaction,
    check_lifetime,
    read,
    sign,
    transaction_id,
)

CHAIN = bytes(range(32))
KEY = key_of("hospital-1.admin")


def signed(nonce: int = 1, valid_until_height: int = 100, chain: bytes = CHAIN) -> Transaction:
    """A good transaction of an admin."""
    return sign(
        KEY,
        chain=chain,
        kind="member.standing",
        sender="hospital-1.admin",
        body=SetStanding("hospital-1.trainer", Standing.SUSPENDED),
        valid_until_height=valid_until_height,
        nonce=nonce.to_bytes(16, "big"),
    )


def resigned(intent: Intent) -> Transaction:
    """A changed intent under a fresh signature of the same key."""
    return Transaction(intent, KEY.sign(transaction_id(intent)))


def code_of(data: bytes) -> str:
    """The code with which bytes are refused."""
    with pytest.raises(Refused) as refused:
        read(data, CHAIN)
    return refused.value.code


def test_a_signed_transaction_is_read_back() -> None:
    """Reading packed bytes gives the same transaction with the same id."""
    transaction = signed()

    assert read(pack(transaction), CHAIN) == as_read(transaction)
    assert transaction.id == digest.digest("concilium.transaction.v1", pack(transaction.intent))


def test_equal_intents_recur_by_their_nonce() -> None:
    """Two transactions that say the same have different ids; the signature is no part of the id."""
    transaction = signed(1)

    assert signed(2).id != transaction.id
    assert replace(transaction, signature=bytes(64)).id == transaction.id


@pytest.mark.parametrize(
    "change",
    [
        lambda intent: replace(intent, kind="member.enrol"),
        lambda intent: replace(intent, sender="hospital-2.admin"),
        lambda intent: replace(intent, public_key=key_of("hospital-2.admin").public),
        lambda intent: replace(intent, body=intent.body + b"\x00"),
        lambda intent: replace(intent, valid_until_height=intent.valid_until_height + 1),
        lambda intent: replace(intent, nonce=bytes(16)),
    ],
)
def test_every_field_is_signed(change: Callable[[Intent], Intent]) -> None:
    """An attacker who changes any field of somebody's transaction is refused."""
    transaction = signed()

    forged = replace(transaction, intent=change(transaction.intent))

    assert code_of(pack(forged)) == "transaction.signature"


def test_an_unsigned_transaction_is_refused() -> None:
    """A signature of zeros, or none at all, does not pass."""
    transaction = signed()

    assert code_of(pack(replace(transaction, signature=bytes(64)))) == "transaction.signature"
    intent = to_value(transaction.intent)
    assert code_of(encode((1, intent))) == "shape.length"
    assert code_of(encode((1, intent, b""))) == "shape.bytes"
    assert code_of(encode((1, intent, transaction.signature[:63]))) == "shape.bytes"


def test_another_key_cannot_sign_for_the_one_that_is_named() -> None:
    """The signature must be by the key that the transaction names."""
    transaction = signed()

    thief = key_of("hospital-2.admin").sign(transaction.id)

    assert code_of(pack(replace(transaction, signature=thief))) == "transaction.signature"


def test_a_transaction_of_another_chain_is_refused_without_a_look_at_its_signature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was signed for a test network cannot be replayed on the real one."""
    elsewhere = signed(chain=bytes(32))

    def never(key: bytes, message: bytes, signature: bytes) -> bool:
        raise AssertionError("verified a signature of another chain")

    monkeypatch.setattr("vm.transaction.verify", never)

    with pytest.raises(Refused, match=r"transaction\.chain: expected chain 0001"):
        read(pack(elsewhere), CHAIN)


def test_a_body_fills_its_bound_and_no_more() -> None:
    """A body of the greatest size passes; one byte more is refused, whoever signed it."""
    intent = signed().intent
    full = replace(intent, body=bytes(BODY_BYTES_MAX), sender="s" * 64, kind="k" * 48)
    packed = pack(resigned(full))

    assert len(packed) <= TRANSACTION_BYTES_MAX
    assert read(packed, CHAIN).intent == full
    fields = to_value(full)
    assert isinstance(fields, tuple)
    over = (*fields[:5], bytes(BODY_BYTES_MAX + 1), *fields[6:])
    assert code_of(encode((1, over, bytes(64)))) == "shape.bytes"


def test_bytes_past_the_bound_are_refused_unread() -> None:
    """Longer bytes are refused by their length alone."""
    assert code_of(b"\x93" + bytes(TRANSACTION_BYTES_MAX)) == "encoding.too_large"


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_malformed_bytes_are_refused(cut: int) -> None:
    """Cut, trailed or emptied bytes are no transaction."""
    packed = pack(signed())

    assert code_of(packed[:-cut]).startswith("encoding.")
    assert code_of(packed + b"\x00" * cut).startswith("encoding.")
    assert code_of(b"").startswith("encoding.")


@pytest.mark.parametrize(
    ("height", "code"),
    [
        (100 - TX_LIFETIME_BLOCKS_MAX, "transaction.lifetime"),
        (100 - TX_LIFETIME_BLOCKS_MAX + 1, ""),
        (100, ""),
        (101, "transaction.expired"),
    ],
)
def test_a_transaction_lives_for_as_many_blocks_as_ids_are_remembered(
    height: int, code: str
) -> None:
    """It may stand at `valid_until_height` and the 1,023 heights before, at no other."""
    intent = signed(valid_until_height=100 + 2 * TX_LIFETIME_BLOCKS_MAX).intent
    try:
        check_lifetime(intent, height + 2 * TX_LIFETIME_BLOCKS_MAX)
        found = ""
    except Refused as refused:
        found = refused.code

    assert found == code


def test_a_transaction_of_many_small_items_is_refused_by_count() -> None:
    """An attacker's sixty-six thousand items in the bytes of a transaction are never built."""
    bomb = encode((1, (None,) * (TRANSACTION_BYTES_MAX - 32), bytes(8)))

    assert code_of(bomb) == "encoding.too_many"
