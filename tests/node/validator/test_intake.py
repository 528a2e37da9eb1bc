"""The way in for transactions: each is judged alone, verified once, and answered with a code."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from node.api.admission import ADMITTED, ON_LOOP_BYTES_MAX, SUBMIT_MAX, Admission
from node.program import program
from node.validator.chain import Chain
from node.validator.intake import Intake
from node.validator.mempool import SENDER_TRANSACTIONS_MAX, Mempool
from node.wire.disk import DISK_FREE_BYTES_MIN
from tests.harness import as_read, key_of
from tests.node.network import Network, open_network
from vm.block import Payload
from vm.keys import verify
from vm.record import Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.shape import pack
from vm.transaction import (
    TX_LIFETIME_BLOCKS_MAX,
    Intent,
    Transaction,
    Verified,
    read,
    transaction_id,
)

ADMIN = "hospital-1.admin"


class Usage(NamedTuple):
    """What `shutil.disk_usage` says."""

    total: int
    used: int
    free: int


class Door:
    """An intake before a chain, and how often it woke the runtime."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.pool = Mempool()
        self.woken = 0
        self.intake = Intake(network.chain, self.pool, folder, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def submit(self, *packed: bytes) -> list[Admission]:
        """Hand in one request."""
        return asyncio.run(self.intake.submit(packed))

    def codes(self, *packed: bytes) -> list[str]:
        """The codes of a request's answers."""
        return [answer.code for answer in self.submit(*packed)]

    def enrol(self, number: int, admin: str = ADMIN) -> Transaction:
        """A good transaction."""
        body = EnrolMember(f"m{number}", Role.AUDITOR, number.to_bytes(32, "big"), None)
        return self.network.sign(admin, "member.enrol", body)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """An intake at genesis."""
    with open_network(tmp_path) as network:
        yield Door(network, tmp_path)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages whose signatures were verified."""
    calls: list[bytes] = []

    def count(key: bytes, message: bytes, signature: bytes) -> bool:
        calls.append(message)
        return verify(key, message, signature)

    monkeypatch.setattr("vm.transaction.verify", count)
    return calls


def test_a_good_transaction_waits_and_wakes_the_runtime(door: Door) -> None:
    """The answer names it; it is drawn for the next block."""
    item = door.enrol(1)

    answers = door.submit(pack(item))

    assert answers == [Admission(item.id, ADMITTED, "")]
    assert door.pool.draw(1) == (pack(item),)
    assert door.woken == 1


def changed(item: Transaction, change: Callable[[Intent], Intent], signer: str) -> bytes:
    """A changed intent, signed anew."""
    intent = change(item.intent)
    return pack(Transaction(intent, key_of(signer).sign(transaction_id(intent))))


@pytest.mark.parametrize(
    ("change", "signer", "code"),
    [
        (lambda i: i, "hospital-2.admin", "transaction.signature"),
        (lambda i: replace(i, chain=bytes(32)), ADMIN, "transaction.chain"),
        (lambda i: replace(i, valid_until_height=0), ADMIN, "transaction.expired"),
        (
            lambda i: replace(i, valid_until_height=1 + TX_LIFETIME_BLOCKS_MAX),
            ADMIN,
            "transaction.lifetime",
        ),
        (lambda i: replace(i, kind="member.erase"), ADMIN, "transaction.kind"),
        (lambda i: replace(i, sender="nobody"), ADMIN, "access.unknown_member"),
        (
            lambda i: replace(i, public_key=key_of("mallory").public),
            "mallory",
            "access.wrong_key",
        ),
        (lambda i: replace(i, kind="dataset.register"), ADMIN, "access.role"),
    ],
)
def test_each_bad_transaction_has_its_code_and_harms_no_other(
    door: Door, change: Callable[[Intent], Intent], signer: str, code: str
) -> None:
    """Good transactions before and behind it in the request are admitted."""
    bad = changed(door.enrol(1), change, signer)

    answers = door.codes(pack(door.enrol(2)), bad, pack(door.enrol(3)))

    assert answers == [ADMITTED, code, ADMITTED]
    assert len(door.pool) == 2


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xc1", b"\x93\x01", bytes(100_000)])
def test_bytes_that_are_no_transaction_are_answered_without_an_id(door: Door, data: bytes) -> None:
    """There is nothing to name, and nothing to wake for."""
    (answer,) = door.submit(data)

    assert answer.id == b""
    assert answer.code.startswith(("encoding.", "shape."))
    assert door.woken == 0


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.REVOKED])
def test_a_member_in_bad_standing_gets_nothing_in(door: Door, standing: Standing) -> None:
    """By the newest executed block."""
    body = SetStanding("hospital-1.steward", standing)
    item = door.network.sign("hospital-1.steward", "model.register", SetStanding("x", standing))
    assert door.codes(pack(item)) == [ADMITTED]

    door.network.block(door.network.sign(ADMIN, "member.standing", body))

    again = door.network.sign("hospital-1.steward", "model.register", SetStanding("y", standing))
    assert door.codes(pack(again)) == ["access.standing"]


def test_a_repeat_is_answered_as_admitted_and_verified_once(
    door: Door, verified: list[bytes]
) -> None:
    """A client that resends until its receipt comes costs no second verification."""
    item = pack(door.enrol(1))

    answers = [door.codes(item) for _ in range(3)]

    assert answers == [[ADMITTED]] * 3
    assert len(verified) == 1
    assert (len(door.pool), door.woken) == (1, 1)


def test_a_backup_does_not_verify_again_what_its_intake_verified(
    door: Door, verified: list[bytes]
) -> None:
    """The chain takes the mempool's word for a proposal's signatures."""
    item = pack(door.enrol(1))
    network = door.network
    chain = Chain(network.chain.store, network.genesis, program(), door.pool.by_bytes)
    door.codes(item)

    chain.check(1, pack(Payload(0, (item,))), 0)

    assert len(verified) == 1


def test_what_was_executed_is_answered_as_admitted_and_does_not_wait(door: Door) -> None:
    """Its receipt tells the rest, whether it was applied or failed."""
    good = door.enrol(1)
    failed = door.network.sign(ADMIN, "member.standing", SetStanding("none", Standing.REVOKED))
    door.network.block(good, failed)

    answers = door.submit(pack(good), pack(failed))

    assert answers == [Admission(good.id, ADMITTED, ""), Admission(failed.id, ADMITTED, "")]
    assert (len(door.pool), door.woken) == (0, 0)


def test_a_forged_copy_of_an_executed_transaction_is_refused(door: Door) -> None:
    """The signature is checked before the id is looked up."""
    good = door.enrol(1)
    door.network.block(good)

    assert door.codes(pack(replace(good, signature=bytes(64)))) == ["transaction.signature"]


def test_a_sender_at_its_quota_is_refused(door: Door) -> None:
    """The mempool's refusal comes through."""
    for number in range(SENDER_TRANSACTIONS_MAX):
        nonce = number.to_bytes(16, "big")
        waiting = Transaction(
            Intent(bytes(32), "k", ADMIN, bytes(32), b"\x00", 1, nonce), bytes(64)
        )
        assert door.pool.admit(as_read(waiting), 1)

    answers = door.codes(pack(door.enrol(1)), pack(door.enrol(2, "hospital-2.admin")))

    assert answers == ["mempool.sender_quota", ADMITTED]


@pytest.mark.parametrize(
    ("free", "code"), [(DISK_FREE_BYTES_MIN, ADMITTED), (DISK_FREE_BYTES_MIN - 1, "disk.full")]
)
def test_a_disk_nearly_full_refuses_new_work(
    door: Door, monkeypatch: pytest.MonkeyPatch, free: int, code: str
) -> None:
    """The journal needs the rest for what was admitted already."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, free))

    assert door.codes(pack(door.enrol(1))) == [code]
    assert len(door.pool) == (1 if code == ADMITTED else 0)


def test_a_request_fills_its_bound(door: Door) -> None:
    """`SUBMIT_MAX` transactions are judged; more are the caller's mistake."""
    items: Sequence[bytes] = [pack(door.enrol(number)) for number in range(SUBMIT_MAX)]

    assert door.codes(*items) == [ADMITTED] * SUBMIT_MAX
    with pytest.raises(AssertionError, match="the caller bounds a request"):
        door.submit(*items, pack(door.enrol(SUBMIT_MAX)))


def test_what_a_revoked_member_sent_does_not_wait_for_ever(door: Door) -> None:
    """On an idle chain nothing would expire it, and what waits keeps the view's timer running."""
    steward = "hospital-1.steward"
    kept = door.enrol(1)
    lost = [
        door.network.sign(steward, "model.register", SetStanding(id, Standing.REVOKED))
        for id in ("x", "y")
    ]
    assert door.codes(pack(kept), *map(pack, lost)) == [ADMITTED] * 3
    door.pool.draw(1)

    door.intake.recheck()
    before = len(door.pool)
    body = SetStanding(steward, Standing.REVOKED)
    door.network.block(door.network.sign(ADMIN, "member.standing", body))
    door.intake.recheck()

    assert before == 3
    assert door.pool.oldest(9) == (pack(kept),)


def test_many_transactions_are_verified_off_the_event_loop(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consensus runs on the loop: it verifies a lone short transaction, and no more."""
    threads: list[threading.Thread] = []

    def noted(data: bytes, chain: bytes) -> Verified:
        threads.append(threading.current_thread())
        return read(data, chain)

    monkeypatch.setattr("node.validator.intake.read", noted)
    one, two, three = (pack(door.enrol(number)) for number in range(3))

    door.submit(one)
    door.submit(two, three)
    door.submit(b"x" * (ON_LOOP_BYTES_MAX + 1))

    lone, *others = (thread is threading.main_thread() for thread in threads)
    assert lone
    assert len(others) == 3
    assert not any(others)
