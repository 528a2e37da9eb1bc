"""The ledger's figures, from blocks and looks made up by hand, and what is signed beforehand."""

import json
import os
from collections import Counter
from dataclasses import replace

from tests.bench.ledger import bound, machine
from tests.bench.ledger.blobs import Blobs
from tests.bench.ledger.figures import Latency, Status, Stretch, Use, certified, percentiles
from tests.bench.ledger.growth import Growth
from tests.bench.ledger.load import Load, Run, summarize
from tests.bench.ledger.machine import Machine
from tests.bench.ledger.purse import (
    BEHIND_BLOCKS,
    STRETCH_BLOCKS,
    WAIT_BLOCKS,
    Purse,
    Sender,
)
from tests.bench.ledger.report import Found, document, markdown
from tests.bench.ledger.sync import Synced
from tests.harness import key_of
from vm.shape import unpack
from vm.transaction import TX_LIFETIME_BLOCKS_MAX, Transaction, check_lifetime, read

CHAIN = bytes(32)
SENDERS = [Sender(name, key_of(name)) for name in ("hospital-1.steward", "hospital-2.steward")]
GOALS = ("bound_tps", "tps", "ratio", "latency_ms", "growth_ratio", "bytes_per_tx", "rss_mib")
PROCESS = os.getpid()


def seen(*looks: tuple[float, int]) -> list[Status]:
    """What validators said: when, and which height was certified."""
    return [Status(at_s, height, pending=height) for at_s, height in looks]


STRETCH = Stretch(
    batch=100,
    seconds=60.0,
    tps=1_000.0,
    transactions=60_000,
    blocks=300,
    validator_us=400.0,
    client_us=90.0,
    client_cpu_share=0.05,
    busy=0.99,
    pending=(5_000, 4_900),
    rss_mib=(100.0, 110.0, 111.0),
    own_mib=90.0,
    admitted=66_000,
    returned=0,
    late=0,
)
FOUND = Found(
    machine=Machine("a processor", 2, 24_000, "Linux", "3.11", "abc", 0.1),
    validators=4,
    verified_per_s=20_000.0,
    bound_tps=5_000.0,
    load=Load(
        transaction_bytes=278,
        batched=STRETCH,
        single=replace(STRETCH, batch=1, tps=250.0),
        latency=(Latency(0.1, 100.0, 1.0, 700, 20.0, 80.0, 99.0),),
        applied=100_000,
    ),
    growth=Growth(
        records=1_000_000,
        few=STRETCH,
        many=replace(STRETCH, tps=800.0, rss_mib=(300.0, 310.0, 320.0)),
        build_us=300.0,
        bytes_per_tx=1_400.0,
        bytes_per_tx_pruned=900.0,
        prune_s=60.0,
        restart_s=2.5,
        sync=Synced(sync_s=100.0, ready_s=102.0, store_mib=900.0, copy_s=2.0, ratio=50.0),
    ),
    blobs=Blobs(
        model_mb=500.0,
        files=4,
        seconds=10.0,
        mb_s=200.0,
        raw_mb_s=1_000.0,
        ratio=0.2,
        cipher="a cipher",
        validator_ms=5.0,
        client_ms=3.0,
    ),
)


def test_a_pace_is_of_whole_blocks_and_their_stalls() -> None:
    """From the last new certificate before a stretch to the first one after it."""
    looks = seen((0.1, 9), (0.5, 10), (1.5, 10), (2.0, 11), (2.1, 10), (4.0, 13), (9.5, 14))
    applied = {10: 1_000, 11: 100, 12: 20, 13: 30, 14: 50, 15: 7}

    found = certified(looks, applied, first_s=1.0, last_s=5.0)
    late = certified(looks[2:], applied, first_s=1.0, last_s=5.0)

    assert found == (9.0, 200, 4)
    assert late == (7.5, 100, 3)


def test_a_stretch_without_blocks_is_told_by_its_run() -> None:
    """And where a run has no two moments to count between, nothing is counted of it."""
    looks = seen((1.0, 3), (6.0, 4), (8.0, 6))

    assert certified(looks, {4: 1, 5: 10, 6: 20}, first_s=2.0, last_s=5.0) == (2.0, 30, 2)
    assert certified(looks[:2], {4: 1}, first_s=2.0, last_s=5.0) == (3.0, 0, 0)


def test_processor_time_is_told_by_transaction() -> None:
    """Of one validator among four, and of all clients together."""
    run = Run(
        batch=100,
        seen=seen((9.0, 0), (10.0, 1), (12.0, 2), (20.0, 3), (21.0, 3)),
        begin=Use(10.0, validators=100.0, clients=5.0, bench=1.0),
        end=Use(20.0, validators=108.0, clients=7.0, bench=1.0),
        rss_mib=(1.0, 2.0, 3.0),
        own_mib=2.5,
        tally={"admitted": 1_000, "returned": 7, "late": 3},
    )

    found = summarize(run, Counter({2: 400, 3: 600}))

    assert (found.tps, found.transactions, found.blocks) == (100.0, 1_000, 2)
    assert (found.validator_us, found.client_us) == (2_000.0, 2_000.0)
    assert found.client_cpu_share == 0.2
    assert found.busy == round(1.0 / (os.cpu_count() or 1), 3)
    assert found.pending == (1, 3)  # the most of the last look at each


def test_waits_are_told_by_percentiles() -> None:
    """The median, what 99 of 100 stay below, and the worst."""
    assert percentiles([float(number) for number in range(101)]) == (50.0, 99.0, 100.0)


def test_what_is_signed_beforehand_stands_where_the_chain_is_then() -> None:
    """A lot is handed out from the height on for which it was signed, and stands there."""
    purse = Purse(CHAIN, SENDERS)
    purse.fill(height=5_000, lots=2, count=3)

    first, second = purse.take(3, 5_000), purse.take(3, 5_000 + STRETCH_BLOCKS)

    assert purse.late == 0
    for height, packed in ((5_000, first), (5_000 + STRETCH_BLOCKS, second)):
        for transaction in packed:
            check_lifetime(read(transaction, CHAIN).intent, height - BEHIND_BLOCKS + 1)
            check_lifetime(read(transaction, CHAIN).intent, height + WAIT_BLOCKS)


def test_what_is_not_there_is_signed_late_and_counted() -> None:
    """Neither a lot of heights to come nor one that the chain has outrun is handed out."""
    purse = Purse(CHAIN, SENDERS)
    purse.fill(height=5_000, lots=2, count=3)

    purse.take(5, 5_000)
    early = purse.late
    purse.take(1, 5_000 + STRETCH_BLOCKS + TX_LIFETIME_BLOCKS_MAX)

    assert (early, purse.late) == (2, 3)


def test_each_transaction_writes_a_key_of_its_own() -> None:
    """Senders take turns; what was given back is taken again before anything else."""
    purse = Purse(CHAIN, SENDERS)
    size = purse.fill(height=0, lots=1, count=10)

    taken = purse.take(10, 0)
    purse.give_back(taken[:2])

    found = [unpack(Transaction, packed).intent for packed in taken]
    assert len({intent.body for intent in found}) == 10
    assert {intent.sender for intent in found} == {sender.id for sender in SENDERS}
    assert {len(packed) for packed in taken} == {size}
    assert purse.take(2, 0) == taken[:2]


def test_every_core_verifies() -> None:
    """The bound's processes say how many signatures they have verified in a second."""
    assert bound.verified_per_s(1, 0.01) > 0


def test_the_kernel_counts_what_a_process_uses() -> None:
    """Its processor time only grows, and its memory is some."""
    before = machine.cpu_s(PROCESS)

    assert machine.cpu_s(PROCESS) >= before
    assert machine.rss_mib(PROCESS) > machine.own_mib(PROCESS) > 1
    assert machine.describe().cores >= 1


def test_the_document_begins_with_the_goals() -> None:
    """All of them are there, also those that were left out, and all is JSON."""
    found = json.loads(json.dumps(document(FOUND)))

    assert tuple(found)[: len(GOALS)] == GOALS
    assert (found["tps"], found["ratio"]) == (1_000.0, 0.2)
    assert found["latency_ms"] == {"p50": 20.0, "p99": 80.0}
    assert found["load"]["single"]["tps"] == 250.0
    assert (found["growth_ratio"], found["bytes_per_tx"], found["rss_mib"]) == (0.8, 1_400.0, 320.0)
    nothing = document(replace(FOUND, load=None, growth=None, blobs=None))
    assert [name for name in GOALS if nothing[name] is not None] == ["bound_tps"]


def test_the_tables_tell_machine_and_bound() -> None:
    """A part that was left out has no table."""
    text = markdown(FOUND)

    assert "load 0.1 before" in text
    assert "**5,000 transactions a second**" in text
    assert "| 100 | 1,000 for 60 s | 0.200 | 400 |" in text
    assert "| 10% | 100 | 1.0 | 700 | 20.0 | 80.0 | 99.0 |" in text
    assert "| 1,000,000 | 800 for 60 s | 0.160 | 400 |" in text
    assert "takes **0.8** of what it takes with few" in text
    assert "| from start to first vote after kill -9, s | 2.5 |" in text
    assert "**0.2** of the 1,000 MB/s of one connection (a cipher)" in text
    assert "| sync by copy | 50.0 |" in text
    assert "|" not in markdown(replace(FOUND, load=None, growth=None, blobs=None))
