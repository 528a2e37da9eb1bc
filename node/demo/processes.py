"""The demo's processes: started, watched, started again if they die, stopped in the end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vm.refusal import Refused

RESTARTS_MAX = 10  # of one process: a crash loop is a bug to be seen, not hidden
RESTART_S = 0.5  # before a dead process is started again
STOP_S = 10.0  # for a process to close its files after SIGTERM
PORT_LOW, PORT_HIGH = 20_000, 32_000  # below the range that the system draws from itself

CONCILIUM = (sys.executable, "-P", "-m", "node.cli")


class Processes:
    """A small supervisor: kill -9 of any one of its processes only costs it a restart."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.failed = asyncio.Event()

    def start(self, name: str, command: Sequence[str], log: Path) -> None:
        """Run `command` until `stop`, its output appended to the file `log`."""
        self._tasks.append(asyncio.create_task(self._watch(name, command, log)))

    async def stop(self) -> None:
        """Ask all to end, then insist."""
        self._stopping = True
        for process in self._running.values():
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        _, late = await asyncio.wait(self._tasks, timeout=STOP_S) if self._tasks else ((), ())
        for process in self._running.values():
            if process.returncode is None:
                process.kill()
        if late:
            await asyncio.wait(late)

    def pid(self, name: str) -> int | None:
        """The process id of `name` if it runs."""
        process = self._running.get(name)
        return None if process is None or process.returncode is not None else process.pid

    async def _watch(self, name: str, command: Sequence[str], log: Path) -> None:
        attempt = 0
        while not self._stopping and attempt <= RESTARTS_MAX:
            attempt += 1
            with log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    start_new_session=True,  # Ctrl-C reaches the demo, which stops them in order
                )
            self._running[name] = process
            code = await process.wait()
            if not self._stopping:
                self._tell(f"{name} ended with {code}; starting it again, see {log}")
                await asyncio.sleep(RESTART_S)
        if not self._stopping:
            self._tell(f"{name} does not stay up, see {log}")
            self.failed.set()


async def concilium(*arguments: str) -> str:
    """The output of one `concilium` command; raises `Refused("demo.command")`."""
    process = await asyncio.create_subprocess_exec(
        *CONCILIUM,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise Refused(
            "demo.command",
            f"expected concilium {' '.join(arguments[:2])} to succeed, found exit code "
            f"{process.returncode}: {errors.decode(errors='replace').strip()[-400:]}",
        )
    return output.decode()


def free_ports(count: int) -> int:
    """The first of `count` consecutive TCP ports that nobody listens on now."""
    for base in range(PORT_LOW + os.getpid() % 1_000 * 8, PORT_HIGH, count):
        if all(_free(base + offset) for offset in range(count)):
            return base
    raise Refused("demo.ports", f"expected {count} free ports from {PORT_LOW}, found too few")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
