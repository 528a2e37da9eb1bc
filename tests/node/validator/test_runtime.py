"""Four runtimes with real journals and stores agree, survive crashes and lose nothing."""

import asyncio
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from consensus.message import Envelope, Prepare, encode_envelope, signing_digest
from node.validator import mempool, runtime
from node.validator.halted import Halted
from node.validator.journal import Journal
from node.validator.runtime import DEADLINE_GRACE_MS, EVENTS_MAX, wall_clock_ms
from node.validator.store import KEY
from tests.harness import key_of
from tests.node.committee import LIMITS, Committee, enrol, members
from vm.evidence import judge
from vm.record import KeyOwner, Member
from vm.refusal import Refused
from vm.shape import pack
from vm.state import state_key


def test_validators_certify_equal_headers(tmp_path: Path) -> None:
    """A submitted transaction is executed and certified alike by all four validators."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()

        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(1)))
        await committee.certified(1)

        rows = [seat.chain.store.row(1) for seat in committee.seats.values()]
        assert len({row.header for row in rows if row is not None}) == 1
        for seat in committee.seats.values():
            assert members(seat) == ["hospital-1.extra-1"]
        await committee.stop_all()

    asyncio.run(scenario())


def test_what_comes_right_after_the_first_transaction_is_in_its_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites send at once what a round waits for, and each block is work for all validators."""
    monkeypatch.setattr(runtime, "GATHER_MS", LIMITS.view_timeout_ms // 2)

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()

        for number in (1, 2, 3):
            await committee.submit(
                committee.sign("hospital-1.admin", "member.enrol", enrol(number))
            )
        await committee.certified(1)

        for seat in committee.seats.values():
            assert len(members(seat)) == 3
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_block_that_has_enough_waits_for_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load nothing is gained by waiting."""
    monkeypatch.setattr(runtime, "GATHER_MS", 1_000_000)
    monkeypatch.setattr(runtime, "PIPELINE_TRANSACTIONS_MIN", 1)

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()

        for height in (1, 2):
            await committee.submit(
                committee.sign("hospital-1.admin", "member.enrol", enrol(height))
            )
            await committee.certified(height)
        await committee.stop_all()

    asyncio.run(scenario())


def test_the_network_outlives_its_primary_and_takes_it_back(tmp_path: Path) -> None:
    """With the primary down a new view goes on, and the old primary catches up when it returns."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(1)))
        await committee.certified(1)
        primary = committee.seats[committee.ids[0]].runtime.replica.primary

        await committee.stop(primary)
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(2)))
        await committee.certified(2)
        returned = committee.start(primary)
        await committee.certified(2)

        assert members(returned) == ["hospital-1.extra-1", "hospital-1.extra-2"]
        assert returned.runtime.replica.view > 0
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_turn_ends_when_it_has_executed_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many blocks a validator has to catch up on, peers get an answer in between."""
    monkeypatch.setattr(runtime, "TURN_TRANSACTIONS_MAX", 1)
    heights: list[int] = []  # at the end of each turn of the one that returns

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()
        late = committee.ids[3]
        await committee.stop(late)
        for number in range(1, 7):
            await committee.submit(
                committee.sign("hospital-1.admin", "member.enrol", enrol(number))
            )
            await committee.certified(number)

        seat = committee.start(late)
        flush = seat.runtime._flush

        def count() -> None:
            heights.append(seat.chain.head.height)
            flush()

        monkeypatch.setattr(seat.runtime, "_flush", count)
        await committee.certified(6)
        await committee.stop_all()

    asyncio.run(scenario())

    steps = [after - before for before, after in pairwise([0, *heights])]
    assert sum(steps) == 6
    assert max(steps) == 1


def test_a_restart_of_all_loses_nothing(tmp_path: Path) -> None:
    """What was certified is there when every validator has been stopped and started again."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(1)))
        await committee.certified(1)

        for id in committee.ids:
            await committee.stop(id)
        committee.start_all()
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(2)))
        await committee.certified(2)

        for seat in committee.seats.values():
            assert members(seat) == ["hospital-1.extra-1", "hospital-1.extra-2"]
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_journal_made_anew_remembers_all_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validator that replaces its journal after every block restarts without losing a block."""
    monkeypatch.setattr(Journal, "oversized", property(lambda journal: journal.bytes > 0))

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()
        for number in range(1, 6):
            await committee.submit(
                committee.sign("hospital-1.admin", "member.enrol", enrol(number))
            )
            await committee.certified(number)

        for id in committee.ids:
            await committee.stop(id)
        committee.start_all()
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(6)))
        await committee.certified(6)

        for seat in committee.seats.values():
            assert len(members(seat)) == 6
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_due_deadline_wakes_an_idle_chain(tmp_path: Path) -> None:
    """Without any transaction a block is made when a deadline in the state has come."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        due = [wall_clock_ms() + 100]
        committee.next_deadline = lambda state: due[0] if due else None
        committee.start_all()

        await committee.certified(1)
        due.clear()

        rows = [seat.chain.store.row(1) for seat in committee.seats.values()]
        assert {row.receipts for row in rows if row is not None} == {()}
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_due_deadline_is_work_for_which_backups_time_the_primary(tmp_path: Path) -> None:
    """With the primary away and no transaction waiting, a new view makes the block that is due."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        due = [wall_clock_ms() - DEADLINE_GRACE_MS]
        committee.next_deadline = lambda state: due[0] if due else None
        for id in committee.ids[1:]:
            committee.start(id)

        await committee.certified(1)
        due.clear()

        assert all(seat.runtime.replica.view > 0 for seat in committee.seats.values())
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_backup_whose_clock_is_ahead_does_not_leave_the_view_at_a_deadline(
    tmp_path: Path,
) -> None:
    """It allows the primary as much as the clocks of two validators may differ."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        ahead = committee.ids[3]
        due_ms = wall_clock_ms() + DEADLINE_GRACE_MS
        committee.clock_ms[ahead] = lambda: due_ms + DEADLINE_GRACE_MS - 1
        committee.next_deadline = lambda state: due_ms
        committee.start_all()

        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(1)))
        await committee.certified(1)
        within = committee.seats[ahead].runtime._pending.waiting
        committee.clock_ms[ahead] = lambda: due_ms + DEADLINE_GRACE_MS
        await committee.stop(ahead)
        committee.start(ahead)
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(2)))
        await committee.certified(2)
        beyond = committee.seats[ahead].runtime._pending.waiting

        assert (within, beyond) == (False, True)
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_primary_that_leaves_a_transaction_out_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: everything but one transaction is ordered, so that no timer ever fires."""
    monkeypatch.setattr(mempool, "OMITTED_BLOCKS_MAX", 3)
    patient = replace(LIMITS, view_timeout_ms=60_000)
    monkeypatch.setattr("tests.node.committee.LIMITS", patient)

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()
        victim = committee.sign("hospital-1.admin", "member.enrol", enrol(9))
        pool = committee.seats[committee.ids[0]].mempool
        draw = pool.draw
        monkeypatch.setattr(
            pool, "draw", lambda height: tuple(x for x in draw(height) if x != pack(victim))
        )

        await committee.submit(victim)
        for number in range(1, 4):
            body = enrol(number)
            await committee.submit(committee.sign("hospital-1.admin", "member.enrol", body))
            await committee.certified(number)
        await committee.certified(4)

        for seat in committee.seats.values():
            assert "hospital-1.extra-9" in members(seat)
            assert seat.runtime.replica.view == 1
            assert len(seat.mempool) == 0
        await committee.stop_all()

    asyncio.run(scenario())


def test_two_messages_for_one_slot_are_kept_as_evidence(tmp_path: Path) -> None:
    """Anybody can check later, with the liar's key alone, what it signed."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        seat = committee.start("hospital-1.validator")
        liar = "hospital-2.validator"

        for digest in (b"a" * 32, b"b" * 32):
            body = Prepare(0, 1, digest)
            message = signing_digest(committee.genesis.chain, 0, body)
            envelope = Envelope(liar, 0, body, key_of(liar).sign(message), None)
            await seat.runtime.receive(liar, encode_envelope(envelope))
        while not seat.chain.store.evidence():  # noqa: ASYNC110 - the runtime has no event for it
            await asyncio.sleep(0)

        (found,) = seat.chain.store.evidence()
        proven = judge(committee.genesis.chain, seat.chain.epochs[0].validators, found)
        assert proven.key == key_of(liar).public
        assert seat.heard.faults == [found]
        await committee.stop_all()

    asyncio.run(scenario())


def test_a_full_event_queue_slows_the_peers_down_and_loses_nothing(tmp_path: Path) -> None:
    """A wake-up more is not needed; a peer's event waits until there is room for it."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        seat = committee.start("hospital-1.validator")
        seat.task.cancel()  # the loop stands still, so nothing is taken out
        for _ in range(EVENTS_MAX + 10):
            seat.runtime.wake()

        late = asyncio.create_task(seat.runtime.connected("hospital-2.validator"))
        await asyncio.sleep(0)
        waiting, held = not late.done(), seat.runtime._events.qsize()
        seat.runtime._events.get_nowait()
        await late

        assert (waiting, held, seat.runtime._events.qsize()) == (True, EVENTS_MAX, EVENTS_MAX)
        await committee.stop("hospital-1.validator")

    asyncio.run(scenario())


def test_a_home_put_back_from_a_copy_stops_when_its_own_votes_come_back(tmp_path: Path) -> None:
    """Nothing in the copy tells that it is old; a certificate with a vote that it lacks does."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        one, two, _, four = committee.ids
        for id in (one, two, four):  # a quorum only together: no block goes without the fourth
            committee.start(id)
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(1)))
        await committee.certified(1)
        await committee.stop(four)
        shutil.copytree(tmp_path / four, tmp_path / "copy")
        committee.start(four)
        for number in (2, 3):
            await committee.submit(
                committee.sign("hospital-1.admin", "member.enrol", enrol(number))
            )
            await committee.certified(number)
        await committee.stop(four)

        shutil.rmtree(tmp_path / four)
        (tmp_path / "copy").rename(tmp_path / four)
        restored = committee.start(four)
        with pytest.raises(Refused) as refused:
            await asyncio.wait_for(restored.task, 30)

        assert refused.value.code == "journal.old"
        assert restored.heard.forgotten
        await committee.stop(four)
        await committee.stop_all()

    asyncio.run(scenario())


def test_who_has_lost_a_row_of_the_state_stops_at_the_next_checkpoint_that_shows_it(
    tmp_path: Path,
) -> None:
    """A record that reads as absent where it is not makes another header, which nobody signs."""

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(1)))
        await committee.certified(1)
        broken = committee.seats[committee.ids[3]]
        lost = ((Member.KIND, "hospital-1.extra-1"), (KeyOwner.KIND, enrol(1).public_key.hex()))
        with broken.chain.store.database.write_batch() as batch:
            for kind, id in lost:
                batch.delete(KEY + state_key(kind, (id,)))

        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol(1)))
        await committee.certified(2, lambda id: id != committee.ids[3])
        await asyncio.wait({broken.task}, timeout=30)

        assert isinstance(broken.task.exception(), Halted)
        await committee.stop(committee.ids[3])
        await committee.stop_all()

    asyncio.run(scenario())
