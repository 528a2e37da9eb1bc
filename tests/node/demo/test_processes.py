"""The demo's supervisor, with small real processes."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from node.demo import processes
from node.demo.processes import Processes, concilium, free_ports
from vm.refusal import Refused

DEADLINE_S = 30  # for what takes milliseconds


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition; fails past the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0)


def test_a_killed_process_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so; asked to stop, it starts nothing any more, and SIGTERM comes first."""
    monkeypatch.setattr(processes, "RESTART_S", 0)
    said: list[str] = []
    program = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('closed in order')))\n"
        "print('started', os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log"

    async def run() -> None:
        running = Processes(said.append)
        running.start("one", [sys.executable, "-c", program], log)
        await until(lambda: running.pid("one"))
        first = running.pid("one")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: running.pid("one") not in (None, first))
        second = running.pid("one")
        assert second is not None
        await until(lambda: f"started {second}" in log.read_text())
        await running.stop()
        assert running.pid("one") is None
        with pytest.raises(ProcessLookupError):
            os.kill(second, 0)

    asyncio.run(run())

    assert said == [f"one ended with -9; starting it again, see {log}"]
    assert log.read_text().endswith("closed in order\n")


def test_a_process_that_does_not_stay_up_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash loop is a bug to be seen: `failed` is set, and the log is named."""
    monkeypatch.setattr(processes, "RESTART_S", 0)
    monkeypatch.setattr(processes, "RESTARTS_MAX", 2)
    said: list[str] = []

    async def run() -> None:
        running = Processes(said.append)
        running.start("one", [sys.executable, "-c", "import os; os._exit(7)"], tmp_path / "log")
        async with asyncio.timeout(DEADLINE_S):
            await running.failed.wait()
        await running.stop()

    asyncio.run(run())

    assert len(said) == 4  # three ends, and the last word
    assert said[0].startswith("one ended with 7")
    assert said[-1] == f"one does not stay up, see {tmp_path / 'log'}"


def test_stopping_nothing_ends_at_once() -> None:
    """A demo that failed before its first process ends as it should."""
    asyncio.run(Processes(print).stop())


def test_a_command_that_fails_is_quoted() -> None:
    """Its words and exit code come back as a refusal."""
    with pytest.raises(Refused, match=r"exit code 2: usage\.arguments: ") as refused:
        asyncio.run(concilium("no-such-command"))

    assert refused.value.code == "demo.command"


def test_free_ports_are_free() -> None:
    """Consecutive ones, past any that is taken."""
    base = free_ports(4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 2))

        other = free_ports(4)

    assert not {*range(other, other + 4)} & {base + 2}


def test_no_ports_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was wanted."""
    monkeypatch.setattr(processes, "PORT_HIGH", 0)

    with pytest.raises(Refused) as refused:
        free_ports(8)

    assert refused.value.code == "demo.ports"
