"""A real network on this machine: processes, sockets, disks and signals, and the command line.

Tests wait on conditions, with a deadline that only a hang reaches.
"""

import asyncio
import http.client
import itertools
import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from node.client.client import Client
from node.client.credentials import Credentials, credentials_of
from node.client.submitter import Submitter
from node.demo.processes import CONCILIUM, free_ports
from node.home import config
from node.home.genesis import read_genesis
from node.home.keyfile import read_key
from node.home.testnet import Layout
from node.readers.signature import Message, sign
from vm.block import Header
from vm.keys import SigningKey
from vm.record import Member, Role
from vm.refusal import Refused
from vm.registry import EnrolMember

DEADLINE_S = 60.0  # for anything that takes seconds on a machine with nothing else to do
POLL_S = 0.05
SERIAL = itertools.count()  # of names: an id is enrolled once in the life of a network
FLOW = 25  # transactions acknowledged before and after each blow
HOSPITALS = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}

T = TypeVar("T")


def until(ask: Callable[[], T | None], what: str) -> T:
    """What `ask` gives once it is true; fails past the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = ask()
        if found:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"expected {what} within {DEADLINE_S} s")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command wrote and exited with."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The result of a command that succeeded with --format json."""
        assert self.code == 0, self
        return json.loads(self.out)

    @property
    def error(self) -> tuple[str, str]:
        """Code and message of a command that failed with --format json."""
        assert self.code != 0, self
        found = json.loads(self.err.splitlines()[-1])["error"]
        return found["code"], found["message"]


def concilium(*arguments: str | Path, **environment: str) -> Answer:
    """Run one command to its end."""
    done = subprocess.run(
        [*CONCILIUM, *map(str, arguments)],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def fetch(url: str, reader: Credentials | None = None) -> tuple[int, bytes]:
    """Status and body of a GET, which `reader` signs; (0, b"") if nobody answers.

    Over https:// `reader` says whom to trust.
    """
    scheme, _, host, path = url.split("/", 3)
    connection = http.client.HTTPConnection(host, timeout=DEADLINE_S)
    if scheme == "https:" and reader is not None:
        connection = http.client.HTTPSConnection(host, timeout=DEADLINE_S, context=reader.tls)
    message = Message("GET", url, dict[str, str]())
    if reader is not None:
        sign(reader.key, reader.member, message, int(time.time()), secrets.token_hex())
    try:
        connection.request("GET", f"/{path}", headers=message.headers)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def speak_tls(directory: Path) -> None:
    """Have the validators of all homes serve TLS, and everybody else ask for it."""
    for path in directory.glob("**/concilium.toml"):
        text = path.read_text().replace("http://", "https://")
        path.write_text(text.replace("\ntls = false\n", "\ntls = true\n"))


class Running:
    """A testnet in a new folder and the processes that were started from it.

    With `tls` its validators serve https:// by themselves.
    """

    def __init__(
        self, directory: Path, *, size: int = 4, tasks: Iterable[str] = (), tls: bool = False
    ) -> None:
        base = str(free_ports(2 * size))
        flags = [flag for task in tasks for flag in ("--task", task)]
        flags += ["--organisations", str(size), "--base-port", base]
        answer = concilium("testnet", directory, *flags)
        assert answer.code == 0, answer
        if tls:
            speak_tls(directory)
        self.hospitals = tuple(f"hospital-{number}" for number in range(1, size + 1))
        self.layout = Layout(directory, self.hospitals)
        self.genesis = read_genesis(self.layout.genesis)
        settings = config.load(config.ClientConfig, self.layout.auditor, {})
        self.urls = list(settings.client.validators)
        self.auditor = credentials_of(settings.member, settings.tls)
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}

    @property
    def numbers(self) -> range:
        """The hospitals' numbers, from 1."""
        return range(1, len(self.hospitals) + 1)

    # Processes

    def home(self, number: int, role: str = "validator") -> Path:
        """A home of the hospital with this number."""
        return self.layout.home(f"hospital-{number}", role)

    def start(self, number: int, *, file_kib_max: int | None = None) -> None:
        """Start a validator; with `file_kib_max` no file of its may grow beyond."""
        home = self.home(number)
        command = [*CONCILIUM, "run", str(home)]
        if file_kib_max is not None:  # a disk that is full for it alone
            command = ["bash", "-c", 'ulimit -f "$0" && exec "$@"', str(file_kib_max), *command]
        self.spawn(home, command)

    def spawn(self, home: Path, command: Sequence[str]) -> None:
        """Start what lives in `home`; it logs there."""
        with (home / "log").open("ab") as log:
            self._processes[home] = subprocess.Popen(
                command,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, home: Path, number: signal.Signals) -> None:
        """Send a signal that does not end the process, to stop it or let it go on."""
        self._processes[home].send_signal(number)

    def signal(self, home: Path, number: signal.Signals) -> int:
        """Send a signal and wait for the exit code."""
        process = self._processes[home]
        process.send_signal(number)
        return process.wait(DEADLINE_S)

    def kill(self, number: int) -> None:
        """Kill a validator as the kernel would: no handler runs, nothing is closed."""
        assert self.signal(self.home(number), signal.SIGKILL) == -signal.SIGKILL

    def wait(self, number: int) -> int:
        """The exit code of a validator that ends by itself."""
        return self._processes[self.home(number)].wait(DEADLINE_S)

    def alive(self, number: int, role: str = "validator") -> bool:
        """Whether the process that was started last in a home runs."""
        return self._processes[self.home(number, role)].poll() is None

    def log(self, number: int, role: str = "validator") -> str:
        """All that a home's processes logged."""
        return (self.home(number, role) / "log").read_text()

    def start_all(self) -> None:
        """Start all validators and wait until they are ready."""
        for number in self.numbers:
            self.start(number)
        self.await_ready()

    def await_ready(self, *numbers: int) -> None:
        """Wait until these validators, or all, say that they are ready."""
        for number in numbers or self.numbers:
            until(partial(self._is_ready, number), f"validator {number} ready")

    def _is_ready(self, number: int) -> bool:
        return fetch(f"{self.urls[number - 1]}/readyz", self.auditor)[0] == 200

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(DEADLINE_S)

    # What the network says

    def status(self, number: int) -> dict[str, Any]:
        """What a validator says of itself."""
        code, body = fetch(f"{self.urls[number - 1]}/v1/status", self.auditor)
        assert code == 200, (number, code)
        found: dict[str, Any] = json.loads(body)
        return found

    def client(self, *numbers: int) -> Client:
        """A client of these validators, or of all."""
        wanted = numbers or self.numbers
        return Client(self.genesis, [self.urls[number - 1] for number in wanted], self.auditor)

    @asynccontextmanager
    async def pen(self, number: int, role: str = "admin") -> AsyncIterator[Submitter]:
        """The pen of a hospital's member, nearest validator first."""
        home = self.home(number, role)
        settings = config.load(config.OfficeConfig, home, {})
        urls = [validator.http for validator in settings.client.validators]
        reader = credentials_of(settings.member, settings.tls)
        async with Client(self.genesis, urls, reader) as client:
            yield Submitter(client, settings.member.id, read_key(settings.member.key))

    def headers(self) -> list[Header]:
        """Every validator's proven header at one height: the newest that any of them shows now."""

        async def ask() -> list[Header]:
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(self.client(number)) for number in self.numbers
                ]
                heights = [(await patiently(client.header)).height for client in clients]
                newest = max(heights)
                return [await patiently(partial(client.header_at, newest)) for client in clients]

        return asyncio.run(ask())


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` gives, tried again while it is refused: a validator may be catching up."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await ask()
            except Refused:
                await asyncio.sleep(POLL_S)


def newcomer(name: str) -> EnrolMember:
    """The body of a transaction that enrols a trainer with a key of its own."""
    key = SigningKey(secrets.token_bytes(32))
    return EnrolMember(name, Role.TRAINER, key.public, None)


class Flow:
    """Transactions of all four admins, one after the other, and those that were acknowledged."""

    def __init__(self, net: Running) -> None:
        self._net = net
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.acknowledged: list[str] = []

    def __enter__(self) -> "Flow":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def await_more(self, count: int = FLOW) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= wanted, f"{wanted} acknowledged transactions")

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(1, len(HOSPITALS) + 1):
                group.create_task(self._send(number))

    async def _send(self, number: int) -> None:
        async with self._net.pen(number) as pen:
            while not self._stop.is_set():
                name = f"trainer-{number}-{next(SERIAL)}"
                try:
                    await pen.submit("member.enrol", newcomer(name))
                except Refused as refused:
                    if refused.code != "client.unreachable":  # all four are down, for now
                        raise
                    continue
                self.acknowledged.append(name)


def assert_nothing_lost(net: Running, names: list[str]) -> None:
    """Every validator shows every acknowledged record, proven, and all have one state."""

    async def check(number: int) -> None:
        async with net.client(number) as client:
            for name in names:
                assert await patiently(partial(client.record, Member, name)), name

    async def check_all() -> None:
        await asyncio.gather(*(check(number) for number in range(1, len(HOSPITALS) + 1)))

    headers = net.headers()
    assert len({header.digest for header in headers}) == 1
    assert len({header.state for header in headers}) == 1
    asyncio.run(check_all())
