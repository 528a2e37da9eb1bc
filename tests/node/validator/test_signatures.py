"""Signatures of peers: each gets its own answer, and what waits together is verified together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from node.validator.signatures import ON_LOOP_MAX, Check, Signatures
from tests.harness import key_of

KEY = key_of("hospital-1.validator")


def check(number: int, *, good: bool = True) -> Check:
    """A signature over a message of its own, or over another one."""
    message = number.to_bytes(32, "big")
    return Check(
        KEY.public, message, KEY.sign(message if good else b"another message, of 32 bytes too!")
    )


class Hand(Executor):
    """Does what it is given when the test says so; keeps what was asked for in one visit."""

    def __init__(self) -> None:
        self.visits: list[list[Check]] = []
        self.ended = False
        self._waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        """Keep it for later; once ended, refuse it as a pool does."""
        if self.ended:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        self.visits.append(args[0])
        self._waiting.append((future, work, args))
        return future

    def work(self) -> None:
        """Do what was given."""
        waiting, self._waiting = self._waiting, []
        for future, work, args in waiting:
            try:
                future.set_result(work(*args))
            except ZeroDivisionError as bug:
                future.set_exception(bug)


def ask(signatures: Signatures, *checks: Check) -> list[asyncio.Task[bool]]:
    """Ask for these behind so many others that the loop verifies none of these itself."""
    for number in range(ON_LOOP_MAX):
        asyncio.create_task(signatures.good(check(number)))  # noqa: RUF006 - done in its first step
    return [asyncio.create_task(signatures.good(one)) for one in checks]


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_few_need_no_thread() -> None:
    """Votes of a small network come alone: the loop is done with them before a thread would be."""
    hand = Hand()

    async def scenario() -> list[bool]:
        signatures, found = Signatures(hand), list[bool]()
        for number in range(20):
            found.append(await signatures.good(check(number, good=number % 3 > 0)))
            await settle()
        return found

    assert asyncio.run(scenario()) == [n % 3 > 0 for n in range(20)]
    assert hand.visits == []


def test_the_loop_verifies_only_a_few_in_a_pass() -> None:
    """However many peers speak at the same time, it goes on with what else it has to do."""
    hand = Hand()

    async def scenario() -> None:
        signatures = Signatures(hand)
        asked = [asyncio.create_task(signatures.good(check(n))) for n in range(16)]
        await settle()
        assert sum(task.done() for task in asked) == ON_LOOP_MAX
        for _ in range(2):
            hand.work()
            await settle()
        assert all(await asyncio.gather(*asked))

    asyncio.run(scenario())

    assert [len(visit) for visit in hand.visits] == [1, 16 - ON_LOOP_MAX - 1]


def test_each_check_gets_its_own_answer() -> None:
    """In whatever company a signature is verified, it is its own that counts."""
    hand = Hand()

    async def scenario() -> list[bool]:
        signatures = Signatures(hand)
        asked = ask(signatures, *(check(n, good=n % 3 > 0) for n in range(7)))
        for _ in range(3):
            await settle()
            hand.work()
        return list(await asyncio.gather(*asked))

    assert asyncio.run(scenario()) == [n % 3 > 0 for n in range(7)]


def test_what_waits_during_a_visit_goes_with_the_next_one() -> None:
    """One visit is under way at a time; the next takes everything that came meanwhile."""
    hand = Hand()

    async def scenario() -> None:
        signatures = Signatures(hand)
        asked = ask(signatures, check(0))
        await settle()
        asked += ask(signatures, *(check(n) for n in range(1, 6)))
        await settle()
        hand.work()
        await settle()
        hand.work()
        assert all(await asyncio.gather(*asked))

    asyncio.run(scenario())

    assert [len(visit) for visit in hand.visits] == [1, 5]


def test_who_has_gone_holds_up_nobody() -> None:
    """A peer's connection may end while its signature is verified; the others are answered."""
    hand = Hand()

    async def scenario() -> bool:
        signatures = Signatures(hand)
        (gone,) = ask(signatures, check(0))
        await settle()
        (waiting,) = ask(signatures, check(1))
        await settle()
        gone.cancel()
        await settle()
        hand.work()
        await settle()
        hand.work()
        return await waiting

    assert asyncio.run(scenario())


def test_a_pool_that_has_ended_leaves_nobody_waiting() -> None:
    """At the end of a node what is asked for is cancelled, not forgotten."""
    hand = Hand()

    async def scenario() -> bool:
        signatures = Signatures(hand)
        (asked,) = ask(signatures, check(0))
        await settle()
        for future, _, _ in hand._waiting:
            future.cancel()
        await asyncio.wait({asked}, timeout=10)
        return asked.cancelled()

    assert asyncio.run(scenario())


def test_what_waits_when_the_pool_ends_is_cancelled_without_a_sound() -> None:
    """A node that stops, its disk being full, logs that and no failure of ours beside it."""
    hand, failures = Hand(), list[dict[str, Any]]()

    async def scenario() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda _, found: failures.append(found))
        signatures = Signatures(hand)
        (first,) = ask(signatures, check(0))
        await settle()
        (second,) = ask(signatures, check(1))
        await settle()
        hand.ended = True
        hand.work()
        await asyncio.wait({first, second}, timeout=10)
        return await first and second.cancelled()

    assert asyncio.run(scenario())
    assert failures == []


def test_a_bug_in_verifying_reaches_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the node loudly, where a peer that is never answered would be silent for ever."""

    def broken(checks: Sequence[Check]) -> list[bool]:
        raise ZeroDivisionError

    monkeypatch.setattr("node.validator.signatures._verify_all", broken)

    hand = Hand()

    async def scenario() -> None:
        (asked,) = ask(Signatures(hand), check(0))
        await settle()
        hand.work()
        await asyncio.wait_for(asked, 10)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(scenario())
