"""A validator's aggregation: one attestation a round, equal bytes everywhere, and patience."""

import asyncio
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from fl.body import Aggregate
from fl.spec import logistic_regression
from fl.trace import Origin, Segment
from fl.weights import pack_update, pack_weights, unpack_weights
from node.validator.aggregator import TURNS_MAX, Aggregator, combine
from node.wire.cid import summarise
from tests.fl.dialogue import (
    TASK,
    TERMS,
    address,
    aggregate,
    approvals,
    commits,
    model,
    opened,
    opening,
    proof,
    settled,
    speak,
    submitted,
)
from tests.harness import Chain, organisation
from vm.learning import (
    Round,
    RoundPhase,
    Task,
)
from vm.refusal import Refused
from vm.terms import MICRO, Server, ServerOptimizer

SPEC = logistic_regression(2)
BITS = 24
BASE = pack_weights(SPEC, BITS, np.array([100, 200, 300], np.int64))
VALIDATOR = "hospital-1.validator"
MOMENTUM = Server(ServerOptimizer.MOMENTUM, MICRO, momentum=900_000, beta2=0, tau=0)


def update(number: int, task: str = TASK, round_number: int = 1) -> bytes:
    """The update of organisation `number`: `number` on each coordinate."""
    segments = [Segment(bytes(32), bytes(32), bytes(32), 1)] * 4
    origin = Origin(task, round_number, f"{organisation(number)}.trainer", f"opt-{number}")
    return pack_update(SPEC, BITS, origin, np.full(3, number, np.int64), segments)


BLOBS = {
    address("initial"): BASE,
    **{address(f"update of {organisation(n)} in 1"): update(n) for n in (1, 2, 3, 4)},
}


@dataclass
class Worker:
    """An aggregator, the blobs within its reach, and what it has kept and signed."""

    chain: Chain
    validator: str = VALIDATOR
    blobs: dict[str, bytes] = field(default_factory=lambda: dict(BLOBS))
    fetched: int = 0
    kept: list[bytes] = field(default_factory=list)
    signed: list[Aggregate] = field(default_factory=list)
    submitted: asyncio.Event = field(default_factory=asyncio.Event)

    def aggregator(self) -> Aggregator:
        """A fresh one, as after a restart."""
        return Aggregator(
            validator=self.validator,
            state=lambda: self.chain.state,
            fetch=self._fetch,
            keep=self._keep,
            submit=self._submit,
        )

    def attempt(self) -> bool:
        """One attempt of a fresh aggregator."""
        return asyncio.run(self.aggregator().attempt())

    async def _fetch(self, address: str, size: int) -> bytes:
        self.fetched += 1
        if address not in self.blobs:
            raise Refused("blob.unavailable", f"expected {address}, found nothing")
        return self.blobs[address]

    async def _keep(self, content: bytes) -> str:
        self.kept.append(content)
        kept, _ = summarise([content])
        self.blobs[kept] = content
        return kept

    async def _submit(self, kind: str, body: Aggregate) -> None:
        assert kind == "learning.aggregate"
        self.signed.append(body)
        self.chain.applied([(self.validator, kind, body)])
        self.submitted.set()


def aggregating() -> Chain:
    """A chain whose round has its accepted updates."""
    return settled(submitted(opened()))


def values(data: bytes) -> list[int]:
    """The weights in a file."""
    return [int(value) for value in unpack_weights(SPEC, BITS, data)]


def test_the_base_plus_the_weighted_mean_is_kept_and_attested() -> None:
    """The body names the accepted set and the new weights; sites weigh by their rows."""
    worker = Worker(aggregating())
    rnd = worker.chain.get(Round, TASK, 1)

    assert worker.attempt()

    mean = round((1 * 200 + 2 * 150 + 3 * 100 + 4 * 50) / 500)
    (kept,) = worker.kept
    assert values(kept) == [100 + mean, 200 + mean, 300 + mean]
    result, _ = summarise([kept])
    assert worker.signed == [Aggregate(TASK, 1, rnd.accepted or b"", result, len(kept), None)]


def test_a_quorum_of_aggregators_closes_the_round() -> None:
    """Each on its own, they come to equal results."""
    chain = aggregating()

    for number in (1, 2, 3):
        assert Worker(chain, f"hospital-{number}.validator").attempt()

    rnd = chain.get(Round, TASK, 1)
    assert (rnd.phase, rnd.model_version) == (RoundPhase.CLOSED, 1)


def test_one_attestation_a_round() -> None:
    """Neither another attempt nor a restart signs a second."""
    worker = Worker(aggregating())

    attempts = [worker.attempt() for _ in range(3)]

    assert attempts == [True] * 3
    assert len(worker.signed) == 1


def test_there_is_nothing_to_do_in_other_phases() -> None:
    """Before verdicts are settled and after the round has closed."""
    for chain in (opened(), submitted(opened())):
        worker = Worker(chain)
        assert worker.attempt()
        assert worker.signed == []
    chain = aggregating()
    chain.applied([aggregate(chain, number) for number in (2, 3, 4)])
    worker = Worker(chain)

    assert worker.attempt()

    assert worker.signed == []


def test_missing_blobs_are_waited_for() -> None:
    """Nothing is signed without every accepted update, and all is well once they come."""
    worker = Worker(aggregating())
    missing = worker.blobs.popitem()

    waited = worker.attempt()
    signed = list(worker.signed)
    worker.blobs.update([missing])

    assert (waited, signed) == (False, [])
    assert worker.attempt()
    assert len(worker.signed) == 1


def test_a_blob_that_is_no_update_is_never_aggregated() -> None:
    """Verifiers who pass garbage cannot have it added to the model."""
    for garbage in (b"", BASE, update(1)[:-1], update(1) + b"\x00"):
        worker = Worker(aggregating())
        worker.blobs[address("update of hospital-4 in 1")] = garbage

        worker.attempt()

        assert worker.signed == []


def test_updates_that_cannot_be_combined_are_not_loaded_twice() -> None:
    """A sum beyond int32 stays beyond it: a gigabyte is not computed anew every second."""
    worker = Worker(aggregating())
    top = pack_weights(SPEC, BITS, np.full(3, 2**31 - 1, np.int64))
    worker.blobs[address("initial")] = top
    aggregator = worker.aggregator()

    attempts = [asyncio.run(aggregator.attempt()) for _ in range(3)]

    assert attempts == [True] * 3
    assert worker.fetched == 5
    assert worker.signed == []


def test_the_pause_between_tries_of_a_round_grows_to_a_bound() -> None:
    """Other blobs are loaded each time one is missing, so the tries become rarer."""
    worker = Worker(aggregating())
    del worker.blobs[address("update of hospital-4 in 1")]
    aggregator = worker.aggregator()
    tries: list[int] = []

    for turn in range(4 * TURNS_MAX):
        before = worker.fetched
        assert not asyncio.run(aggregator.attempt())
        if worker.fetched > before:
            tries.append(turn)

    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert set(pauses[7:]) == {TURNS_MAX}


def test_a_round_that_is_over_is_no_longer_paused() -> None:
    """What is remembered of a round goes with it."""
    worker = Worker(aggregating())
    del worker.blobs[address("update of hospital-4 in 1")]
    aggregator = worker.aggregator()
    assert not asyncio.run(aggregator.attempt())

    worker.chain.applied([aggregate(worker.chain, number) for number in (2, 3, 4)])

    assert asyncio.run(aggregator.attempt())
    assert not aggregator._pauses


def test_a_stuck_round_does_not_hold_up_other_tasks() -> None:
    """Members of one task who withhold an accepted blob cannot stop the others' rounds."""
    chain = aggregating()
    other = replace(TERMS, model="other")
    chain.applied([model(id="other"), opening("second", model="other")])
    chain.applied(approvals("second", model="other"))
    chain.applied([proof(n, task="second", blob=address(f"second {n}")) for n in (1, 2, 3, 4)])
    chain.applied(commits(task="second"))
    speak(chain, task="second")
    assert chain.get(Task, "second").terms == other
    worker = Worker(chain)
    del worker.blobs[address("update of hospital-1 in 1")]
    worker.blobs |= {address(f"second {n}"): update(n, "second") for n in (1, 2, 3, 4)}

    assert not worker.attempt()

    assert [body.task for body in worker.signed] == ["second"]


def test_the_result_does_not_depend_on_the_order_of_updates() -> None:
    """Two machines that list the accepted updates otherwise write the same bytes."""
    worker = Worker(aggregating())
    (job,) = worker.aggregator()._jobs()
    blobs = [update(n) for n in (1, 2, 3, 4)]

    results = {
        combine(
            replace(job, updates=tuple(job.updates[place] for place in order)),
            BASE,
            [blobs[place] for place in order],
            None,
        )
        for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1))
    }

    assert len(results) == 1


def test_the_servers_state_goes_from_round_to_round() -> None:
    """With momentum, a second round of equal updates moves the model by 1.9 times the mean."""
    (job,) = Worker(aggregating()).aggregator()._jobs()
    rule = replace(job.task.terms.aggregation, server=MOMENTUM)
    terms = replace(job.task.terms, aggregation=rule)
    job = replace(job, task=replace(job.task, terms=terms))
    blobs = [update(n) for n in (1, 2, 3, 4)]
    mean = round((1 * 200 + 2 * 150 + 3 * 100 + 4 * 50) / 500)

    once = combine(job, BASE, blobs, None)
    twice = combine(job, once.weights, blobs, once.state)

    assert values(once.weights) == [100 + mean, 200 + mean, 300 + mean]
    more = mean + round(0.9 * mean)
    assert values(twice.weights) == [value + more for value in values(once.weights)]
    assert once.state is not None
    assert twice.state != once.state


def test_a_round_begins_with_the_state_that_the_last_one_closed_with() -> None:
    """The chain says where it is; whoever did not make it fetches it, and comes to the same."""
    rule = replace(TERMS.aggregation, server=MOMENTUM)
    chain = settled(submitted(opened(aggregation=rule)))
    first = [Worker(chain, f"hospital-{number}.validator") for number in (1, 2, 3)]
    assert all(worker.attempt() for worker in first)
    before = chain.get(Task, TASK).server
    assert before is not None
    assert before == first[0].signed[0].state
    settled(submitted(chain, 2, base_version=1), 2)
    blobs = first[0].blobs
    for n in (1, 2, 3, 4):
        blobs[address(f"update of {organisation(n)} in 2")] = update(n, round_number=2)
    ours, late = (Worker(chain, f"hospital-{n}.validator", dict(blobs)) for n in (1, 4))

    assert ours.attempt()
    assert late.attempt()

    mean = round((1 * 200 + 2 * 150 + 3 * 100 + 4 * 50) / 500)
    weights, state = ours.kept
    assert values(weights) == [start + 2 * mean + round(0.9 * mean) for start in (100, 200, 300)]
    assert ours.signed == late.signed
    assert state != blobs[before.address]


def test_a_state_of_another_optimizer_is_never_built_upon() -> None:
    """Whatever an address holds, a file that is no state of this task's optimizer is refused."""
    (job,) = Worker(aggregating()).aggregator()._jobs()
    rule = replace(job.task.terms.aggregation, server=MOMENTUM)
    terms = replace(job.task.terms, aggregation=rule)
    job = replace(job, task=replace(job.task, terms=terms))

    with pytest.raises(Refused, match=r"server\."):
        combine(job, BASE, [update(n) for n in (1, 2, 3, 4)], BASE)


def test_it_wakes_for_a_block_and_sleeps_between() -> None:
    """A round that is settled by a later block is worked off when that block is executed."""

    async def scenario() -> list[int]:
        chain = submitted(opened())
        worker = Worker(chain)
        aggregator = worker.aggregator()
        task = asyncio.create_task(aggregator.run())
        await asyncio.sleep(0)
        counts = [len(worker.signed)]
        settled(chain)
        aggregator.wake()
        await worker.submitted.wait()
        counts.append(len(worker.signed))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return counts

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == [0, 1]
