"""A TCP relay that can cut or delay each direction: partitions without root.

What is cut is held, as a network holds what TCP sends again: connections stay and go on when the
way is open again, unless one end gives up first.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
CHUNKS_MAX = 256  # on their way in one direction; more wait in the sender's socket


@dataclass(slots=True)
class Way:
    """One direction: open or cut, and how long bytes take."""

    delay_s: float = 0.0
    clear: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.clear.set()

    def cut(self) -> None:
        """Let nothing through."""
        self.clear.clear()

    def heal(self) -> None:
        """Let everything through at once, what was held first."""
        self.delay_s = 0.0
        self.clear.set()


class Relay:
    """A port of its own that stands for another; `there` is the way to that one."""

    def __init__(self, port: int) -> None:
        self.there, self.back = Way(), Way()
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen; the port to connect to."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """End every connection and stop listening."""
        assert self._server is not None, "started before"
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # one end is gone, and the other is told so
            try:
                await self._join(reader, writer)
            finally:
                writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        try:
            pipes = [
                asyncio.create_task(carry(reader, far_writer, self.there)),
                asyncio.create_task(carry(far_reader, writer, self.back)),
            ]
            try:
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
        finally:
            far_writer.close()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    """Carry bytes one way until they end."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
    clock = asyncio.get_running_loop().time

    async def read() -> None:
        data = b"begin"
        while data:
            data = await read_some(reader)
            await waiting.put((clock() + way.delay_s, data))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - clock())
            await way.clear.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()
    finally:
        reading.cancel()


async def read_some(reader: asyncio.StreamReader) -> bytes:
    """What came next; nothing at the end, however it ends."""
    with suppress(OSError):
        return await reader.read(CHUNK_BYTES)
    return b""
