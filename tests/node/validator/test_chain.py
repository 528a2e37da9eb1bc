"""The chain over its store: proposals, blocks, headers, the replay window, certified views."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.program import program
from node.validator.chain import CLOCK_SKEW_MS_MAX, Chain
from node.validator.store import TRANSACTION, Place, Store
from tests.harness import START_MS, as_read, genesis_of, key_of
from tests.node.network import (
    HOSPITALS,
    NO_COMMITS,
    Network,
    learn,
    open_network,
    register_dataset,
)
from tests.vm import council
from vm import tree
from vm.block import TRANSACTIONS_MAX, Payload, Result, receipts_root, transactions_root
from vm.governance import Approve, Propose
from vm.record import Dataset, Member, Role, Standing
from vm.refusal import Refused
from vm.registry import EnrolMember, RegisterDataset, SetStanding
from vm.shape import NOTE_BYTES_MAX, pack, unpack
from vm.transaction import TX_LIFETIME_BLOCKS_MAX, Intent, Transaction

ROOT = Path(__file__).parents[3]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain at its genesis."""
    with open_network(tmp_path) as network:
        yield network


def suspend(network: Network, until: int | None = None) -> Transaction:
    """Suspend hospital 1's trainer."""
    body = SetStanding("hospital-1.trainer", Standing.SUSPENDED)
    return network.sign("hospital-1.admin", "member.standing", body, valid_until_height=until)


def restore(network: Network) -> Transaction:
    """Enrol hospital 1's trainer again."""
    body = SetStanding("hospital-1.trainer", Standing.ENROLLED)
    return network.sign("hospital-1.admin", "member.standing", body)


def standing(network: Network) -> Standing:
    """The trainer's standing as it was executed."""
    return network.chain.state().require(Member, "hospital-1.trainer").standing


# Proposals


def test_a_fresh_proposal_may_be_ahead_of_our_clock_by_the_skew(network: Network) -> None:
    """A primary cannot push the chain's time further than that, and so end phases early."""
    now_ms = START_MS

    for time_ms in (0, now_ms, now_ms + CLOCK_SKEW_MS_MAX):
        network.chain.check(1, pack(Payload(time_ms, ())), now_ms)
    with pytest.raises(Refused, match=r"payload\.time: expected at most 30000 ms ahead"):
        network.chain.check(1, pack(Payload(now_ms + CLOCK_SKEW_MS_MAX + 1, ())), now_ms)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x01\x00\x90\x00"])
def test_a_malformed_proposal_is_refused(network: Network, data: bytes) -> None:
    """The null request is consensus's own and never a primary's proposal."""
    with pytest.raises(Refused, match=r"^(encoding|shape)\."):
        network.chain.check(1, data, START_MS)


def test_a_proposal_is_judged_by_the_height_at_which_it_would_stand(network: Network) -> None:
    """With blocks in flight that is not the next height."""
    payload = pack(Payload(START_MS, (pack(suspend(network, until=3)),)))

    network.chain.check(3, payload, START_MS)
    with pytest.raises(Refused, match=r"transaction\.expired"):
        network.chain.check(4, payload, START_MS)


# Blocks


def test_a_header_commits_to_its_block_and_to_all_before(network: Network) -> None:
    """Each root is that of what it says, and the history is of the earlier headers."""
    first = network.block(suspend(network))
    item = restore(network)
    second = network.block(item)

    genesis, row = network.chain.store.row(0), network.chain.store.row(2)
    assert genesis is not None
    assert row is not None
    assert (second.height, second.chain) == (2, network.genesis.chain)
    assert second.transactions == transactions_root((pack(item),))
    assert second.receipts == receipts_root(row.receipts)
    assert second.state == row.root.digest != first.state
    assert second.history == tree.root([genesis.header.digest, first.digest])
    assert second.validators == second.next_validators == network.chain.epochs[0].digest


def test_time_only_rises(network: Network) -> None:
    """A block's time is what was proposed, but at least a millisecond after the last."""
    times = [
        network.chain.execute(height, payload, NO_COMMITS).time_ms
        for height, payload in enumerate(
            (
                pack(Payload(START_MS + 5_000, ())),
                pack(Payload(START_MS + 4_000, ())),
                pack(Payload(0, ())),
                b"",
                pack(Payload(START_MS + 6_000, ())),
            ),
            start=1,
        )
    ]

    assert [time_ms - START_MS for time_ms in times] == [5_000, 5_001, 5_002, 5_003, 6_000]


def test_the_null_request_is_an_empty_block(network: Network) -> None:
    """Heights equal sequence numbers, also where nothing was proposed."""
    before = network.chain.head

    header = network.chain.execute(1, b"", NO_COMMITS)

    row = network.chain.store.row(1)
    assert row is not None
    assert (header.height, row.receipts) == (1, ())
    assert header.transactions == tree.EMPTY_ROOT
    assert network.chain.head.root == before.root


def test_heights_come_in_order(network: Network) -> None:
    """A gap or a repeat is our own bug and stops the node."""
    network.block()

    for height in (1, 3):
        with pytest.raises(AssertionError, match="expected height 2"):
            network.chain.execute(height, b"", NO_COMMITS)


def test_a_failed_transaction_leaves_a_receipt_and_a_sentence(network: Network) -> None:
    """Its code is in the block for ever; the words are kept beside it, within their bound."""
    bad = network.sign("hospital-1.trainer", "member.standing", SetStanding("x", Standing.REVOKED))

    network.block(bad, suspend(network))

    row = network.chain.store.row(1)
    assert row is not None
    assert [(receipt.result, receipt.code) for receipt in row.receipts] == [
        (Result.FAILED, "access.role"),
        (Result.APPLIED, "applied"),
    ]
    assert row.messages == ("expected role admin for member.standing, found trainer", "")
    assert (row.positions, standing(network)) == ((0, 1), Standing.SUSPENDED)


def test_a_long_sentence_is_cut_to_its_bound(network: Network) -> None:
    """What a handler says of hostile input may be long."""
    conditions = tuple(f"DUO:{number:07}" for number in range(16))
    good = register_dataset(network, HOSPITALS[0])
    body = replace(unpack(RegisterDataset, good.intent.body), conditions=conditions)

    network.block(network.sign(f"{HOSPITALS[0]}.steward", "dataset.register", body))

    row = network.chain.store.row(1)
    assert row is not None
    assert row.receipts[0].code == "dataset.conditions"
    assert len(row.messages[0].encode()) == NOTE_BYTES_MAX


def test_a_full_block_is_executed(network: Network) -> None:
    """`TRANSACTIONS_MAX` transactions, each with a receipt and a place."""
    items = [
        Transaction(
            Intent(
                network.genesis.chain,
                "member.enrol",
                "hospital-1.admin",
                key_of("hospital-1.admin").public,
                pack(EnrolMember(f"m{n}", Role.AUDITOR, n.to_bytes(32, "big"), None)),
                100,
                n.to_bytes(16, "big"),
            ),
            bytes(64),
        )
        for n in range(TRANSACTIONS_MAX)
    ]
    known = {
        pack(item): as_read(item) for item in items
    }  # as if each had been verified on its way in
    chain = Chain(network.chain.store, network.genesis, program(), known)

    header = chain.execute(1, pack(Payload(START_MS, tuple(known))), NO_COMMITS)

    row = chain.store.row(1)
    assert row is not None
    assert len(row.receipts) == TRANSACTIONS_MAX
    assert {receipt.code for receipt in row.receipts} == {"applied"}
    place = chain.store.place(items[-1].id)
    assert place is not None
    assert (place.height, place.index, header.height) == (1, TRANSACTIONS_MAX - 1, 1)


# Replay


def test_a_repeat_in_a_later_block_is_skipped_without_a_receipt(network: Network) -> None:
    """An attacker who replays a suspension after the member was restored changes nothing."""
    old = suspend(network)
    network.block(old)
    network.block(restore(network))

    fresh = network.sign("hospital-2.admin", "member.standing", SetStanding("x", Standing.REVOKED))
    header = network.block(old, fresh)

    row = network.chain.store.row(3)
    assert row is not None
    assert [receipt.transaction for receipt in row.receipts] == [fresh.id]
    assert row.positions == (1,)
    assert header.transactions == transactions_root((pack(fresh),))
    assert standing(network) is Standing.ENROLLED
    place = network.chain.store.place(old.id)
    assert place is not None
    assert place.height == 1


def test_ids_are_remembered_as_long_as_a_transaction_can_live(network: Network) -> None:
    """The longest-lived transaction is skipped at its last height, and one later it is refused."""
    old = suspend(network, until=TX_LIFETIME_BLOCKS_MAX)
    network.block(old)
    network.block(restore(network))
    for height in range(3, TX_LIFETIME_BLOCKS_MAX):
        network.chain.execute(height, b"", NO_COMMITS)
    payload = pack(Payload(START_MS, (pack(old),)))

    network.chain.check(TX_LIFETIME_BLOCKS_MAX, payload, START_MS)
    network.chain.execute(TX_LIFETIME_BLOCKS_MAX, payload, NO_COMMITS)

    row = network.chain.store.row(TX_LIFETIME_BLOCKS_MAX)
    assert row is not None
    assert (row.receipts, standing(network)) == ((), Standing.ENROLLED)
    with pytest.raises(Refused, match=r"transaction\.expired"):
        network.chain.check(TX_LIFETIME_BLOCKS_MAX + 1, payload, START_MS)


def test_ids_survive_a_restart(tmp_path: Path) -> None:
    """The replay window is in the store, not in memory."""
    with open_network(tmp_path) as network:
        old = suspend(network)
        network.block(old)
        network.block(restore(network))

    with open_network(tmp_path) as network:
        network.block(old)

        assert standing(network) is Standing.ENROLLED


def test_a_place_above_the_head_is_not_remembered(network: Network) -> None:
    """The block that it stands in is yet to come: it is no repeat before it was executed.

    Skipping it would build another header than everybody else's.
    """
    ahead = suspend(network)
    place = pack(Place(1, 0))
    network.chain.store.database.put(TRANSACTION + ahead.id, place)

    network.block(ahead)

    assert standing(network) is Standing.SUSPENDED


# Views


def test_before_the_first_certificate_there_is_no_view(network: Network) -> None:
    """What no quorum signed is not served."""
    assert network.chain.view() is None

    network.block(certified=False)

    assert network.chain.view() is None
    assert network.chain.view(1) is None
    assert network.chain.view(0) is None


def test_a_view_shows_the_state_at_its_certified_height(network: Network) -> None:
    """The newest certified one, or an older one as it was then; never what came after."""
    first, second, third = (register_dataset(network, hospital) for hospital in HOSPITALS[:3])
    network.block(first)
    network.block(second)
    network.block(third, certified=False)

    newest, older = network.chain.view(), network.chain.view(1)

    assert newest is not None
    assert older is not None
    assert (newest.height, older.height) == (2, 1)
    assert [item.id for item in newest.list(Dataset, (), 1)] == ["hospital-1.opt", "hospital-2.opt"]
    assert [item.id for item in older.list(Dataset, (), 1)] == ["hospital-1.opt"]
    assert older.get(Dataset, "hospital-2.opt") is None
    assert network.chain.state().get(Dataset, "hospital-3.opt") is not None


def test_a_certificate_ahead_of_our_execution_gives_no_view_yet(network: Network) -> None:
    """Others may be faster: their certificate waits until we have executed its block."""
    network.block()
    ahead = replace(network.block(certified=False), height=9)
    network.certify(ahead)

    view = network.chain.view()

    assert view is not None
    assert view.height == 1
    assert network.chain.view(9) is None


# Sameness


def test_hash_seeds_do_not_show_in_headers(tmp_path: Path) -> None:
    """Two processes whose sets of text are ordered otherwise give equal headers and state roots."""
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "tests.node.replayed", str(tmp_path / seed)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]

    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 1 + 3 + 2 * 3  # genesis, opening, rounds


def test_a_node_that_restarts_before_every_block_agrees_with_one_that_never_does(
    tmp_path: Path,
) -> None:
    """Nothing but the store carries over from block to block."""
    with open_network(tmp_path / "steady") as steady:
        learn(steady, 1)
        blocks = list(steady.chain.store.blocks(1, steady.chain.head.height))
        last = steady.chain.head

    for block in blocks:
        store = Store(tmp_path / "restarting")
        chain = Chain(store, genesis_of(len(HOSPITALS)), program(), {})
        chain.execute(chain.head.height + 1, block.payload, block.certificate)
        head = chain.head
        store.close()

    assert head == last


def test_a_change_of_seats_rules_a_window_later(tmp_path: Path) -> None:
    """Headers name the set of their height and of the next; a restart knows the same epochs."""
    store = Store(tmp_path / "epochs")
    network = Network(store, genesis_of(4))
    window = network.genesis.window
    change = council.rotation(2)
    propose = network.sign("hospital-2.admin", "governance.propose", Propose("rotate", change, 100))
    approvals = [
        network.sign(f"hospital-{number}.admin", "governance.approve", Approve("rotate"))
        for number in (1, 3)
    ]

    headers = [network.block(propose, *approvals)]
    scheduled = network.chain.scheduled
    headers += [network.block() for _ in range(window + 1)]

    first, second = network.chain.epochs
    assert scheduled == second
    assert network.chain.scheduled is None
    assert second.first == 1 + window + 1
    assert [header.validators for header in headers] == [
        (first if header.height < second.first else second).digest for header in headers
    ]
    assert [header.next_validators for header in headers] == [
        (first if header.height + 1 < second.first else second).digest for header in headers
    ]
    assert network.chain.epoch_at(second.first - 1) == first
    assert network.chain.epoch == second
    assert Network(store, genesis_of(4)).chain.epochs == (first, second)
    store.close()
