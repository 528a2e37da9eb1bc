"""Batches of uses: what the chain takes, how it counts, and that nothing is counted twice."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fl import dialogue
from tests.fl.dialogue import MODEL, aggregate, attestation, registered, settled, submitted
from tests.harness import BLOCK_MS, START_MS, Chain, Item
from vm.conduct import AuditOutcome, MarkDecision, ModelMark
from vm.encoding import encode
from vm.genesis import ORGANISATIONS_MAX
from vm.record import Organisation, Standing
from vm.shape import HEIGHT_MAX, pack
from vm.state import state_key
from vm.transaction import Transaction
from vm.usage import (
    AGE_MS_MAX,
    AHEAD_MS_MAX,
    COUNT_MAX,
    HOUR_MS,
    Action,
    ModelUsage,
    OrganisationUsage,
    Purpose,
    UseBatch,
    UseBatchRecord,
    hours,
    note_digest,
)

FIRST_MS, LAST_MS = hours((START_MS - 1_000, START_MS))
BATCH = UseBatch(
    model=MODEL,
    version=0,
    purpose=Purpose.CARE,
    action=Action.INFERENCE,
    count=40,
    entries=3,
    root=hashlib.sha256(b"uses").digest(),
    first_ms=FIRST_MS,
    last_ms=LAST_MS,
)


def use(sender: str = "hospital-2.steward", **changes: Any) -> Item:
    """A member records a batch of three uses."""
    return sender, "model.use", replace(BATCH, **changes)


def keep(chain: Chain, record: Any) -> None:
    """Have a record in the state that no transaction of a short test leads to."""
    chain.stored[state_key(record.KIND, record.key)] = pack(record)


def blind_of(transaction: Transaction, before: bytes, *key: str | int) -> bytes:
    """What the protocol says that a restricted record's blind is made of."""
    made = before + transaction.signature + encode(key)
    return hashlib.sha256(b"\x12concilium.blind.v1" + made).digest()


def full_of(names: Sequence[str]) -> ModelUsage:
    """What is recorded of the model when each of these has used it once."""
    found = tuple(OrganisationUsage(name, 1, 1, 0) for name in names)
    return ModelUsage(MODEL, found, bytes(32))


def test_a_batch_is_kept_as_it_was_said() -> None:
    """The record holds the body, who sent it, its number and the block; totals hold its count."""
    chain = registered()
    transaction = chain.sign(use())

    chain.execute([transaction])

    assert chain.get(UseBatchRecord, MODEL, "hospital-2", 1) == UseBatchRecord(
        model=MODEL,
        organisation="hospital-2",
        number=1,
        member="hospital-2.steward",
        version=0,
        purpose=Purpose.CARE,
        action=Action.INFERENCE,
        count=40,
        entries=3,
        root=BATCH.root,
        first_ms=BATCH.first_ms,
        last_ms=BATCH.last_ms,
        transaction=chain.receipts[0].transaction,
        height=chain.height,
        time_ms=chain.time_ms,
        blind=blind_of(transaction, b"", "use_batch", MODEL, "hospital-2", 1),
    )
    usage = chain.get(ModelUsage, MODEL)
    assert usage.organisations == (OrganisationUsage("hospital-2", 1, 40, 0),)
    assert usage.of("hospital-1") == OrganisationUsage("hospital-1", 0, 0, 0)


def test_the_totals_are_blinded_by_all_who_wrote_them() -> None:
    """Whoever wrote them last knows one signature, and can try out no total of others."""
    chain = registered()
    transactions = [chain.sign(use(f"hospital-{number}.steward")) for number in (2, 3)]

    chain.execute(transactions)

    first = blind_of(transactions[0], bytes(32), "model_usage", MODEL)
    assert chain.get(ModelUsage, MODEL).blind == blind_of(
        transactions[1], first, "model_usage", MODEL
    )


@pytest.mark.parametrize("role", ["steward", "trainer", "verifier"])
def test_the_keys_of_a_site_record_uses(role: str) -> None:
    """A steward answers for models; trainer and verifier lie beside the rows, where models run."""
    registered().applied([use(f"hospital-3.{role}")])


@pytest.mark.parametrize("role", ["validator", "admin"])
def test_others_do_not(role: str) -> None:
    """Who orders transactions or enrols members uses no models."""
    assert registered().refused(use(f"hospital-3.{role}")) == "access.role"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 1}, "state.missing"),
        ({"model": "unknown"}, "state.missing"),
        ({"first_ms": BATCH.last_ms + 1}, "use.times"),
        ({"first_ms": BATCH.last_ms + HOUR_MS}, "use.times"),
        ({"first_ms": BATCH.first_ms + 1}, "use.times"),
        ({"last_ms": BATCH.last_ms - 1}, "use.times"),
        ({"entries": 1, "count": 1, "first_ms": BATCH.first_ms - HOUR_MS}, "use.times"),
        ({"count": 2}, "use.count"),
        ({"count": 0}, "use.count"),
        ({"count": 3 * COUNT_MAX + 1}, "use.count"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], code: str) -> None:
    """An unknown version, times out of order, and counts that the uses cannot have."""
    chain = registered()

    assert chain.refused(use(**changes)) == code
    assert chain.state.get(ModelUsage, MODEL) is None


@pytest.mark.parametrize(
    ("first_ms", "last_ms", "code"),
    [
        (-AGE_MS_MAX, AHEAD_MS_MAX, None),
        (-AGE_MS_MAX - HOUR_MS, 0, "use.old"),
        (0, AHEAD_MS_MAX + HOUR_MS, "use.future"),
    ],
)
def test_uses_are_recorded_in_time(first_ms: int, last_ms: int, code: str | None) -> None:
    """Neither before they took place, but for clocks, nor after anybody may have made them up."""
    chain = registered()
    now_ms = chain.time_ms + BLOCK_MS
    first, last = hours((now_ms + first_ms, now_ms + last_ms))
    item = use(first_ms=first, last_ms=last)

    codes = chain.block([item])

    assert codes == [code or "applied"]


def test_an_organisation_that_is_not_enrolled_records_none() -> None:
    """The member may be in good standing: its organisation has to be, too."""
    chain = registered()
    keep(chain, replace(chain.get(Organisation, "hospital-2"), standing=Standing.SUSPENDED))

    assert chain.refused(use()) == "use.organisation"


def test_totals_stay_within_what_readers_can_hold() -> None:
    """One more would be a number that the record cannot have, and no node may fall over it."""
    chain = registered()
    full = OrganisationUsage("hospital-2", 7, HEIGHT_MAX - 39, 0)
    keep(chain, ModelUsage(MODEL, (full,), bytes(32)))

    assert chain.refused(use(count=40)) == "use.total"
    chain.applied([use(count=39)])


def test_there_is_room_for_so_many_organisations_and_no_more() -> None:
    """The record of totals has a bound; who stands in it already goes on."""
    chain = registered()
    names = [f"h{number:04}" for number in range(ORGANISATIONS_MAX)]
    keep(chain, full_of(names))
    assert chain.refused(use()) == "use.organisations"

    names[-1] = "hospital-2"
    keep(chain, full_of(names))
    chain.applied([use()])


def test_a_mark_on_the_model_hinders_no_record() -> None:
    """Whoever used a model before or after an audit failed can and must be able to say so."""
    chain = settled(submitted(dialogue.with_auditors(dialogue.opened())))
    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])
    chain.applied([dialogue.visit(2, 1)])
    chain.applied([attestation(2, 1, AuditOutcome.FAILED)])
    assert chain.get(ModelMark, MODEL).decision is MarkDecision.OPEN
    first_ms, last_ms = hours((chain.time_ms,))

    chain.applied([use(version=1, first_ms=first_ms, last_ms=last_ms)])


def test_a_batch_that_comes_again_is_counted_once() -> None:
    """The transaction's id is remembered: what is resent after a crash has no second receipt."""
    chain = registered()
    sent = chain.sign(use())
    chain.execute([sent])

    codes = chain.execute([sent])

    assert codes == []
    assert chain.get(ModelUsage, MODEL).of("hospital-2").batches == 1


BATCHES = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sampled_from(Action),
        st.sampled_from(Purpose),
        st.integers(1, 5),
        st.integers(1, 9),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(BATCHES, st.randoms(use_true_random=False), st.integers(1, 4))
def test_totals_are_the_sum_of_the_batches_in_any_order(
    said: list[tuple[int, Action, Purpose, int, int]], chance: Any, blocks: int
) -> None:
    """Whoever sends first, and in however many blocks, totals and numbers come to the same."""
    items = [
        use(
            f"hospital-{site}.trainer",
            action=action,
            purpose=purpose,
            entries=entries,
            count=entries * each,
            last_ms=LAST_MS,
            first_ms=FIRST_MS,
        )
        for site, action, purpose, entries, each in said
    ]
    expected: Counter[tuple[str, Action]] = Counter()
    for site, action, _, entries, each in said:
        expected[f"hospital-{site}", action] += entries * each
    chance.shuffle(items)
    chain = registered()

    for part in range(blocks):
        chain.applied(items[part::blocks])

    usage = chain.state.get(ModelUsage, MODEL) or ModelUsage(MODEL, (), bytes(32))
    names = [item.organisation for item in usage.organisations]
    assert names == sorted({f"hospital-{site}" for site, *_ in said})
    for item in usage.organisations:
        records = [
            chain.get(UseBatchRecord, MODEL, item.organisation, number + 1)
            for number in range(item.batches)
        ]
        assert chain.state.get(UseBatchRecord, MODEL, item.organisation, item.batches + 1) is None
        for done, total in ((Action.INFERENCE, item.inferences), (Action.EXPORT, item.exports)):
            assert sum(found.count for found in records if found.action is done) == total
            assert total == expected[item.organisation, done]


def test_a_note_is_a_digest_under_a_salt_of_its_own() -> None:
    """Two equal notes look different, and a leaf that is shown gives no salt to guess one with."""
    assert note_digest(bytes(16), "ward 3") != note_digest(bytes(15) + b"1", "ward 3")
    assert len(note_digest(bytes(16), "ward 3")) == 32
