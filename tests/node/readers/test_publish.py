"""The log's digest goes on chain: when it is due, if it grew, and again if it was lost."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from node.program import program
from node.readers import publish
from node.readers.log import Logbook
from node.readers.publish import Publisher
from tests.harness import Chain
from tests.node.readers.test_log import lines
from vm.accesslog import AccessLog, DigestLog
from vm.refusal import Refused

ME = "hospital-1.validator"
PERIOD_S = 3_600.0


class Set:
    """A validator with a log, whose transactions are executed at once unless they are lost."""

    def __init__(self, folder: Path) -> None:
        self.chain = Chain(program())
        self.logbook = Logbook(folder)
        self.lost = 0
        self.published = asyncio.Event()
        self.sent: list[int] = []
        self.publisher = Publisher(
            ME, self.logbook, lambda: self.chain.state, self._submit, PERIOD_S
        )

    async def _submit(self, kind: str, body: DigestLog) -> None:
        self.sent.append(body.size)
        if self.lost:
            self.lost -= 1
            raise Refused("mempool.full", "expected room, found none")
        self.chain.block([(ME, kind, body)])
        self.published.set()


def run(folder: Path, check: Callable[[Set], Awaitable[None]]) -> None:
    """Run a check beside an open log."""

    async def main() -> None:
        found = Set(folder)
        await check(found)
        found.logbook.close()

    asyncio.run(main())


def test_an_empty_log_is_not_published(tmp_path: Path) -> None:
    """Nor one that the chain has already: an idle validator sends nothing."""

    async def check(found: Set) -> None:
        assert found.publisher.wait_s(0) is None
        await found.logbook.append(lines(3))
        assert found.publisher.wait_s(0) == 0
        assert await found.publisher.attempt()
        assert found.publisher.wait_s(0) is None
        assert found.chain.get(AccessLog, ME).root == found.logbook.frontier.root

    run(tmp_path, check)


def test_between_two_digests_lies_the_period(tmp_path: Path) -> None:
    """Counted from the last one's block, so that a restart brings no other."""

    async def check(found: Set) -> None:
        await found.logbook.append(lines(1))
        await found.publisher.attempt()
        await found.logbook.append(lines(1))
        published_ms = found.chain.get(AccessLog, ME).time_ms
        waits = [found.publisher.wait_s(published_ms + at * 1_000) for at in (0, 600, 3_600, 9_999)]
        assert waits == [3_600, 3_000, 0, 0]

    run(tmp_path, check)


def test_a_digest_that_was_lost_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the log has come to by then."""
    monkeypatch.setattr(publish, "RETRY_S", 0.0)

    async def check(found: Set) -> None:
        found.lost = 2
        await found.logbook.append(lines(1))
        running = asyncio.create_task(found.publisher.run(lambda: 0))
        await found.published.wait()
        running.cancel()
        assert found.sent == [1, 1, 1]

    run(tmp_path, check)


def test_a_disk_that_fails_ends_no_validator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest waits until the log can be read again; the operator is told."""

    async def check(found: Set) -> None:
        def fail(*_: int) -> bytes:
            raise OSError(5, "Input/output error")

        await found.logbook.append(lines(1))
        with monkeypatch.context() as broken, structlog.testing.capture_logs() as logs:
            broken.setattr(Logbook, "root", fail)
            assert not await found.publisher.attempt()
        assert [entry["event"] for entry in logs] == ["access.unpublished"]
        assert await found.publisher.attempt()

    run(tmp_path, check)


def test_a_log_that_was_written_anew_is_not_published(tmp_path: Path) -> None:
    """No transaction would be taken for it; the operator is told instead."""

    async def check(found: Set) -> None:
        found.chain.block(
            [(ME, "access.digest", DigestLog(found.logbook.identity, 2, bytes(32), ()))]
        )
        await found.logbook.append(lines(3))
        assert not await found.publisher.attempt()
        assert found.sent == []

    run(tmp_path, check)


def test_a_log_that_lost_lines_is_not_published(tmp_path: Path) -> None:
    """The chain remembers more lines than there are: the operator is told, and nothing is sent."""

    async def check(found: Set) -> None:
        found.chain.block(
            [(ME, "access.digest", DigestLog(found.logbook.identity, 9, bytes(32), ()))]
        )
        await found.logbook.append(lines(3))
        assert found.publisher.wait_s(10**13) == 0
        with structlog.testing.capture_logs() as logs:
            assert not await found.publisher.attempt()
        assert [entry["code"] for entry in logs] == ["access.differs"]
        assert found.sent == []

    run(tmp_path, check)


def test_a_log_that_was_begun_anew_is_published(tmp_path: Path) -> None:
    """Whatever the chain knows of the one before: nobody can bring that back."""

    async def check(found: Set) -> None:
        found.chain.block([(ME, "access.digest", DigestLog(bytes(16), 9, bytes(32), ()))])
        await found.logbook.append(lines(3))
        assert found.publisher.wait_s(10**13) == 0
        assert await found.publisher.attempt()
        record = found.chain.get(AccessLog, ME)
        assert (record.log, record.number, record.size) == (found.logbook.identity, 2, 3)

    run(tmp_path, check)
