"""Measures on this machine what pieces of a validator's work cost, each by the code that does it.

CPU seconds of the process, so that others' work on the machine counts for little. Only a sync is
timed by the clock on the wall; of many the fastest tenth is taken, for the rest wait for the syncs
of whoever else uses the disk.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import median, quantiles

from structlog.testing import capture_logs

from consensus.event import Effect, Event, Received
from consensus.journal import Held, Said
from consensus.message import (
    Envelope,
    Prepare,
    PrePrepare,
    decode_envelope,
    encode_envelope,
    payload_digest,
    signing_digest,
)
from consensus.outbox import Sign
from consensus.replica import Replica
from node.api.admission import SUBMIT_MAX
from node.program import program
from node.validator.chain import Chain
from node.validator.gossip import Gossip
from node.validator.intake import Intake
from node.validator.journal import Journal, create_journal
from node.validator.mempool import Mempool
from node.validator.runtime import THREADS
from node.validator.signatures import Check, Signatures
from tests.bench.scale.costs import FREE, Costs
from tests.bench.scale.requests import signed
from tests.bench.scale.run import Run
from tests.bench.scale.timeline import LAN
from tests.bench.scale.validator import named
from tests.consensus.node import CHAIN, key_of
from tests.harness import START_MS, as_read
from tests.node.network import HOSPITALS, NO_COMMITS, Network, open_network
from tests.node.parties import Consortium
from tests.node.wire.mesh import CONSENSUS, Node, validators
from vm.block import Payload, check_payload
from vm.encoding import encode
from vm.keys import SigningKey, verify
from vm.shape import pack

TIMES = 300  # of each small piece
SINGLES = 60  # messages with one transaction, and blocks of one
BLOCK = 500  # transactions of a larger block
BLOCKS = 4
BYTES = 512 * 1024  # of the payload by which bytes are measured
LARGE = 20  # times
SAMPLE_TPS, SAMPLE_S = 400.0, 2.0  # the load under which steps are timed
LISTENERS = ("b", "c", "d")  # of a broadcast: as many as the smallest network has
SEED = 1


class _Stopwatch:
    """Times a replica's steps by name, without what it signs, and keeps a message of each kind."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self.count: Counter[str] = Counter()
        self.samples: dict[str, Envelope] = {}
        self._signing_s = 0.0

    def ask(self, replica: Replica, event: Event) -> list[Effect]:
        """One step."""
        if isinstance(event, Received):
            self.samples.setdefault(event.envelope.body.TAG, event.envelope)
        begin_s, signing_s = time.thread_time(), self._signing_s
        effects = replica.step(event)
        spent_s = time.thread_time() - begin_s - (self._signing_s - signing_s)
        name, _ = named(event)
        self.spent_s[name] = self.spent_s.get(name, 0.0) + spent_s
        self.count[name] += 1
        return effects

    def sign(self, key: SigningKey) -> Sign:
        """The key's `sign`, timed apart."""

        def timed(message: bytes) -> bytes:
            begin_s = time.thread_time()
            signature = key.sign(message)
            self._signing_s += time.thread_time() - begin_s
            return signature

        return timed

    @property
    def step_s(self) -> dict[str, float]:
        """The mean of each name: what matters is the sum over a block."""
        return {name: spent_s / self.count[name] for name, spent_s in self.spent_s.items()}


def measure(folder: Path) -> Costs:
    """All costs that do not depend on the number of validators; no message or step yet."""
    vote = Envelope("v00", 0, Prepare(0, 1, bytes(32)), bytes(64), None)
    with capture_logs():  # three of four find their peers not yet listening
        frame_s, frame_byte_s = asyncio.run(_frames(folder))
    entry_s, sync_s, held_byte_s = _journal(folder, vote)
    with open_network(folder) as network:
        batch_s, intake_s, again_s = _intake(folder, network.chain)
        draw_s, check_s, block_s, transaction_s = _execution(network)
    proposal = Envelope("v00", 0, PrePrepare(0, 1, bytes(32)), bytes(64), bytes(BYTES))
    data = encode_envelope(proposal)
    return replace(
        FREE,
        verify_s=_each(TIMES, partial(verify, *_check_of(vote))),
        sign_s=_each(TIMES, lambda: key_of(0).sign(bytes(32))),
        frame_s=frame_s,
        entry_s=entry_s,
        sync_s=sync_s,
        decode_byte_s=_each(LARGE, lambda: decode_envelope(data)) / BYTES,
        encode_byte_s=_each(LARGE, lambda: encode_envelope(proposal)) / BYTES,
        frame_byte_s=frame_byte_s,
        held_byte_s=held_byte_s,
        batch_s=batch_s,
        intake_s=intake_s,
        again_s=again_s,
        draw_s=draw_s,
        check_s=check_s,
        block_s=block_s,
        transaction_s=transaction_s,
    )


def with_messages(costs: Costs, n: int) -> Costs:
    """The same with messages and steps among `n` validators: a replica's work grows with them."""
    watch = _Stopwatch()
    Run(n, LAN, FREE, SEED, ask=watch.ask, sign=watch.sign).offer(0.0, SAMPLE_TPS, SAMPLE_S)
    samples = {
        kind: sample if sample.payload is None else replace(sample, payload=b"x")
        for kind, sample in watch.samples.items()
    }
    data = {kind: encode_envelope(sample) for kind, sample in samples.items()}
    vote = Envelope("v00", 0, Prepare(0, 1, bytes(32)), bytes(64), None)
    return replace(
        costs,
        ask_s=asyncio.run(_asking(vote, n - 1)) - costs.verify_s,
        encode_s={k: _each(TIMES, partial(encode_envelope, samples[k])) for k in samples},
        decode_s={k: _each(TIMES, partial(decode_envelope, data[k])) for k in samples},
        step_s=watch.step_s,
    )


def _each(times: int, work: Callable[[], object]) -> float:
    begin_s = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begin_s) / times


def _check_of(vote: Envelope) -> Check:
    key, message = key_of(0), signing_digest(CHAIN, 0, vote.body)
    return Check(key.public, message, key.sign(message))


async def _asking(vote: Envelope, peers: int) -> float:
    """A vote's signature where those of all peers come together: some on the loop, some not."""
    check = _check_of(vote)
    with ThreadPoolExecutor(THREADS) as pool:
        signatures = Signatures(pool)
        begin_s = time.process_time()
        for _ in range(TIMES // peers):
            await asyncio.gather(*(signatures.good(check) for _ in range(peers)))
        return (time.process_time() - begin_s) / (TIMES // peers * peers)


async def _frames(folder: Path) -> tuple[float, float]:
    """A frame and a byte of a payload at either end, over WebSockets and mutual TLS."""
    consortium = Consortium(folder / "mesh")
    parties = validators(consortium, "a", *LISTENERS)
    a, b, c, d = (Node(consortium, party, parties) for party in parties.values())

    async def broadcast_s(data: bytes, times: int) -> float:
        begin_s = time.process_time()
        for _ in range(times):
            a.mesh.broadcast(CONSENSUS, data)
            for node in (b, c, d):
                await node.messages.get()
        return (time.process_time() - begin_s) / times / len(LISTENERS) / 2

    async with a.running(), b.running(), c.running(), d.running():
        for _ in LISTENERS:
            await a.events.get()
        small_s = await broadcast_s(bytes(200), TIMES)
        return small_s, (await broadcast_s(bytes(BYTES), LARGE) - small_s) / BYTES


def _journal(folder: Path, vote: Envelope) -> tuple[float, float, float]:
    """An entry, a sync, and a byte of a payload, which is hashed twice."""
    create_journal(folder / "journal")
    with Journal(folder / "journal") as journal:
        entry_s = _each(TIMES, lambda: journal.append(Said(vote)))
        syncs_s = []
        for _ in range(TIMES):
            journal.append(Said(vote))
            begin_s = time.perf_counter()
            journal.sync()
            syncs_s.append(time.perf_counter() - begin_s)

        def hold() -> None:
            payload_digest(payload)
            payload_digest(payload)
            journal.append(Held(1, payload))

        payload = bytes(BYTES)
        return entry_s, quantiles(syncs_s, n=10)[0], _each(LARGE, hold) / BYTES


def _intake(folder: Path, chain: Chain) -> tuple[float, float, float]:
    """A message of transactions, one more transaction in it, and one that comes again."""
    pool = Mempool()
    gossip = Gossip(Intake(chain, pool, folder, lambda: None), pool, lambda _data: None)
    packed = [pack(signed(chain.id, 0, serial, 0)) for serial in range(SINGLES + 9 * SUBMIT_MAX)]
    singles = [(item,) for item in packed[:SINGLES]]
    rest = range(SINGLES, len(packed), SUBMIT_MAX)
    fulls = [tuple(packed[at : at + SUBMIT_MAX]) for at in rest]

    async def take(batches: Sequence[tuple[bytes, ...]]) -> float:
        messages = [encode(batch) for batch in batches]
        begin_s = time.process_time()
        for message in messages:
            await gossip.receive("hospital-2.validator", message)
        return (time.process_time() - begin_s) / len(batches)

    async def all_of_it() -> tuple[float, float, float]:
        return await take(singles), await take(fulls), await take(fulls)

    single_s, full_s, repeated_s = asyncio.run(all_of_it())
    assert len(pool) == len(packed), "every transaction was admitted"
    intake_s = (full_s - single_s) / (SUBMIT_MAX - 1)
    batch_s = single_s - intake_s
    return batch_s, intake_s, (repeated_s - batch_s) / SUBMIT_MAX


def _execution(network: Network) -> tuple[float, float, float, float]:
    """A transaction drawn, one checked, a block, and one more transaction in it."""
    pool = Mempool()
    chain = Chain(network.chain.store, network.genesis, program(), pool.by_bytes)
    serials = count(1)

    def block(size: int) -> tuple[float, float, float]:
        height = chain.head.height + 1
        for serial in islice(serials, size):
            made = signed(chain.id, serial % len(HOSPITALS), serial, height)
            pool.admit(as_read(made), height)
        begin_s = time.process_time()
        drawn = pool.draw(height)
        payload = pack(Payload(START_MS + height, drawn))
        drawn_s = time.process_time()
        check_payload(payload, height, chain.id, pool.by_bytes)
        checked_s = time.process_time()
        chain.execute(height, payload, NO_COMMITS)
        row = chain.store.row(height)
        assert row is not None, "the block was just written"
        pool.remove(receipt.transaction for receipt in row.receipts)
        pool.expire(height + 1)
        pool.passed_over(drawn)
        return drawn_s - begin_s, checked_s - drawn_s, time.process_time() - checked_s

    single_s = median(block(1)[2] for _ in range(SINGLES))
    draw_s, check_s, full_s = map(median, zip(*(block(BLOCK) for _ in range(BLOCKS)), strict=True))
    transaction_s = (full_s - single_s) / (BLOCK - 1)
    return draw_s / BLOCK, check_s / BLOCK, single_s - transaction_s, transaction_s
