"""Sending uses: each batch once, through lost answers, crashes, expiry and refusals."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from node.audit.file import verify_file, write_file
from node.client import client as client_module
from node.client.client import Client
from node.client.listing import records
from node.client.submitter import LIFETIME_BLOCKS, Submitter
from node.usage.entry import Entry, make_entry
from node.usage.journal import Journal
from node.usage.sender import Sender, Sent
from node.usage.show import prove_uses
from tests.harness import START_MS, key_of
from tests.node.network import MODEL, Network, open_network, open_task, register_dataset
from tests.node.serving import Node, serve
from vm.opened import AllUses, verify_uses
from vm.refusal import Refused
from vm.transaction import Transaction, Verified
from vm.trust import from_genesis
from vm.usage import ModelUsage, UseBatchRecord

OWNER = "hospital-2"
STEWARD = f"{OWNER}.steward"


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A chain with a model, and a client that waits for nothing."""
    monkeypatch.setattr(client_module, "POLL_S", 0.001)
    monkeypatch.setattr(client_module, "RESEND_S", 0.02)
    monkeypatch.setattr(client_module, "RETRY_S", 0.001)
    with open_network(tmp_path / "chain") as made:
        for number in range(1, 5):
            made.block(register_dataset(made, f"hospital-{number}"))
        open_task(made, 1)
        yield made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal without uses."""
    with Journal(tmp_path / "usage") as made:
        yield made


def uses(count: int, version: int = 0, purpose: str = "care") -> list[Entry]:
    """So many uses of the model at the time of its first block."""
    return [
        make_entry(
            model=MODEL,
            version=version,
            purpose=purpose,
            action="inference",
            count=place + 1,
            note=None,
            time_ms=START_MS,
        )
        for place in range(count)
    ]


Check = Callable[[Sender, Client, Node], Awaitable[None]]


def run(network: Network, journal: Journal, check: Check, member: str = STEWARD) -> None:
    """Check a sender of `member` whose node executes at once."""

    async def main() -> None:
        async with (
            serve(network) as (url, node),
            Client(network.genesis, [url]) as client,
        ):
            node.prompt = True
            await check(Sender(Submitter(client, member, key_of(member)), journal), client, node)

    asyncio.run(main())


def told(found: list[Sent]) -> list[tuple[int | None, int | None, str | None]]:
    """Batch, number on the chain and code of each."""
    return [(sent.batch, sent.number, sent.code) for sent in found]


def recorded(network: Network) -> int:
    """How many batches the chain has of the owner."""
    usage = network.chain.state().get(ModelUsage, MODEL)
    return 0 if usage is None else usage.of(OWNER).batches


def test_what_waits_is_recorded_and_can_be_shown(network: Network, journal: Journal) -> None:
    """One transaction for each purpose; then nothing waits, and proofs of it hold."""
    journal.add([*uses(3), *uses(2, purpose="research")])
    steps: list[tuple[int, int]] = []

    async def check(sender: Sender, client: Client, _: Node) -> None:
        found = await sender.send(START_MS, lambda done, total: steps.append((done, total)))

        assert told(found) == [(1, 1, None), (2, 2, None)]
        assert steps == [(0, 5), (3, 5), (5, 5)]
        assert await sender.send(START_MS) == []
        batches = await records(client, UseBatchRecord, MODEL, OWNER)
        assert [(item.number, item.entries) for item in batches] == [(1, 3), (2, 2)]
        for use, opened in ((None, 3), (2, 1)):
            proof = await prove_uses(client, journal, STEWARD, 1, use)
            batch, shown = verify_uses(proof, client.chain, client.proven.epochs)
            assert (batch.organisation, batch.count, len(shown)) == (OWNER, 6, opened)
            assert isinstance(proof.opened, AllUses) == (use is None)
            audit = verify_file(
                from_genesis(network.genesis), write_file(proof, client.proven.steps)
            )
            assert audit.subject == f"uses of model {MODEL} by {OWNER}, batch 1"
            assert len(audit.content["uses"]) == opened
        with pytest.raises(Refused, match=r"use\.place"):
            await prove_uses(client, journal, STEWARD, 1, 3)

    run(network, journal, check)
    assert recorded(network) == 2


def test_a_crash_after_sending_records_nothing_twice(network: Network, journal: Journal) -> None:
    """The answer was lost and the process ended: the next one sends what was kept."""
    journal.add(uses(3))

    async def check(sender: Sender, client: Client, node: Node) -> None:
        submit = client.submit_and_wait

        async def lost(transaction: Transaction) -> None:
            await submit(transaction)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "submit_and_wait", lost)
            with pytest.raises(KeyboardInterrupt):
                await sender.send(START_MS)
        assert journal.batch(1).number is None

        assert told(await sender.send(START_MS)) == [(1, 1, None)]

    run(network, journal, check)
    assert recorded(network) == 1


def test_a_batch_that_expired_is_looked_for_before_it_is_signed_anew(
    network: Network, journal: Journal
) -> None:
    """Long after a crash the transaction is past its last height, and may stand on the chain."""
    journal.add([*uses(1), *uses(2, purpose="research")])

    async def check(sender: Sender, client: Client, node: Node) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "submit_and_wait", _die)
            with pytest.raises(KeyboardInterrupt):
                await sender.send(START_MS)
        kept = journal.batch(1).signed
        assert kept is not None
        network.block(kept)  # only this one came through; of the other nothing was signed
        last = kept.intent.valid_until_height
        for _ in range(last - network.chain.head.height + 1):
            network.block(certified=False)
        node.feed.publish(network.block().height)
        node.judge = _expired(last)

        assert told(await sender.send(START_MS)) == [(1, 1, None), (2, 2, None)]

    run(network, journal, check)
    assert recorded(network) == 2


async def _die(_: Transaction) -> None:
    raise KeyboardInterrupt


def _expired(last: int) -> Callable[[Verified], None]:
    def judge(transaction: Verified) -> None:
        if transaction.intent.valid_until_height <= last:
            raise Refused("transaction.expired", "too late for this one")

    return judge


def test_one_that_expired_unseen_is_signed_anew(network: Network, journal: Journal) -> None:
    """Past its last height no block can hold it, so a second one cannot be a second record."""
    journal.add(uses(1))

    async def check(sender: Sender, client: Client, node: Node) -> None:
        await sender._bind(START_MS)
        batch, first = await sender._signed(journal.batch(1), OWNER)
        for _ in range(LIFETIME_BLOCKS):
            network.block(certified=False)
        node.feed.publish(network.block().height)
        node.judge = _expired(first.intent.valid_until_height)
        sender._submitter._heard_s = None

        assert told(await sender.send(START_MS)) == [(1, 1, None)]
        assert journal.batch(1).signed != batch.signed

    run(network, journal, check)
    assert recorded(network) == 1


def test_a_node_that_lies_of_expiry_makes_nobody_sign_twice(
    network: Network, journal: Journal
) -> None:
    """While a block may still hold the first transaction, no second one is made."""
    journal.add(uses(1))

    async def check(sender: Sender, _: Client, node: Node) -> None:
        node.judge = _expired(10**6)

        with pytest.raises(Refused, match=r"transaction\.expired"):
            await sender.send(START_MS)

        kept = journal.batch(1).signed
        assert kept is not None
        node.judge = lambda transaction: None
        assert told(await sender.send(START_MS)) == [(1, 1, None)]
        assert journal.batch(1).signed == kept

    run(network, journal, check)
    assert recorded(network) == 1


def test_a_batch_that_the_chain_refuses_holds_up_no_other(
    network: Network, journal: Journal
) -> None:
    """Too old by the blocks' time, and after it one that is not: the first is given up."""
    journal.add(uses(1))

    async def check(sender: Sender, _: Client, node: Node) -> None:
        network.late_ms = 100 * 24 * 3_600_000
        header = network.block()
        node.feed.publish(header.height)
        now_ms = header.time_ms
        await sender._bind(START_MS)
        fresh = make_entry(
            model=MODEL,
            version=0,
            purpose="care",
            action="export",
            count=1,
            note=None,
            time_ms=now_ms,
        )
        journal.add([fresh])

        found = await sender.send(now_ms)

        assert told(found) == [(1, None, "use.old"), (2, 1, None)]
        assert [subject.waiting for subject in journal.late(now_ms)] == [1]
        assert await sender.send(now_ms) == []

    run(network, journal, check)
    assert recorded(network) == 1


def test_one_old_use_takes_no_younger_ones_with_it(network: Network, journal: Journal) -> None:
    """Bound before an outage, refused after it for one use: the others are bound and sent anew."""
    day_ms = 24 * 3_600_000

    def use(time_ms: int) -> Entry:
        return make_entry(
            model=MODEL,
            version=0,
            purpose="care",
            action="inference",
            count=1,
            note=None,
            time_ms=time_ms,
        )

    async def check(sender: Sender, _: Client, node: Node) -> None:
        network.late_ms = 100 * day_ms
        header = network.block()
        node.feed.publish(header.height)
        now_ms = header.time_ms
        journal.add([use(now_ms - 91 * day_ms), use(now_ms - 1), use(now_ms)])
        await sender._bind(now_ms - 5 * day_ms)
        assert [batch.entries for batch in (item.body for item in journal.batches())] == [3]

        found = await sender.send(now_ms)

        assert told(found) == [(1, None, "use.old"), (2, 1, None)]
        assert [sent.entries for sent in found] == [3, 2]
        assert [subject.waiting for subject in journal.late(now_ms)] == [1]

    run(network, journal, check)
    assert recorded(network) == 1


def test_a_version_that_the_chain_lacks_goes_on_waiting(network: Network, journal: Journal) -> None:
    """A batch is for good; a version may be registered yet, and a mistyped one is shown."""
    journal.add([*uses(2, version=7), *uses(1)])

    async def check(sender: Sender, _: Client, node: Node) -> None:
        found = await sender.send(START_MS)

        assert told(found) == [(None, None, "model.missing"), (1, 1, None)]
        assert [subject.version for subject in journal.waiting(START_MS)] == [7]

    run(network, journal, check)


def test_a_member_of_another_role_records_nothing(network: Network, journal: Journal) -> None:
    """An admin enrols members and uses no models: the chain says so, and the batch stays."""
    journal.add(uses(1))

    async def check(sender: Sender, client: Client, _: Node) -> None:
        assert told(await sender.send(START_MS)) == [(1, None, "access.role")]
        with pytest.raises(Refused, match=r"use\.unsent"):
            await prove_uses(client, journal, STEWARD, 1, None)

    run(network, journal, check, f"{OWNER}.admin")
    assert recorded(network) == 0


def test_a_stranger_is_told_before_anything_is_signed(network: Network, journal: Journal) -> None:
    """Whoever is not enrolled has no organisation to record for."""
    journal.add(uses(1))

    async def check(sender: Sender, client: Client, _: Node) -> None:
        with pytest.raises(Refused, match=r"access\.unknown_member"):
            await sender.send(START_MS)

    run(network, journal, check, "nobody")
