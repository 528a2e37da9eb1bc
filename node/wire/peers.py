"""The mesh of validators: one live connection for each pair, over mutual TLS.

Of two validators the one with the lower id dials, so there is never a second connection to choose
between, and both ends are connected at the same moment. Addresses change while the mesh runs, as
validators come, move and go. A frame is one byte of channel and the
message. Sending never waits: what finds its queue full, or no connection, is lost, and consensus
resends it after the next exchange of Status. Urgent channels have a queue of their own, which
leaves first: a vote waits neither behind gossip nor for room that gossip has taken. Receiving waits
for the handler, so a peer that sends faster than we work is slowed down by TCP.
"""

import asyncio
import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import structlog
from aiohttp import ClientWebSocketResponse, WSCloseCode, WSMsgType, web

from node.wire.gate import MEMBER, Gate
from vm.encoding import MESSAGE_BYTES_MAX
from vm.quorum import VALIDATORS_MAX
from vm.record import Member, Role
from vm.refusal import Refused

PATH = "/peer"
CHANNELS = 256
PEERS_MAX = 4 * VALIDATORS_MAX  # seats that are and were: more than can ever connect usefully
BULK_CHANNEL = 2  # from here on a channel is bulk; those below, consensus, are urgent
# aiohttp refuses a frame that reaches its limit: one byte of channel, one to stay below.
FRAME_LIMIT_BYTES = MESSAGE_BYTES_MAX + 2
URGENT_BYTES_MAX = 64 * 1024 * 1024  # waiting for one peer: eight of the largest messages
BULK_BYTES_MAX = 16 * 1024 * 1024  # the same of other channels: gossip is sent again every second
FRAME_COST_BYTES = 128  # what a queued frame takes beside its message, so that many are bounded too
HEARTBEAT_S = 10.0  # silence before a ping; without an answer in half of it the peer is gone
DIAL_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0  # a validator that came back is reached within this time

Socket = ClientWebSocketResponse | web.WebSocketResponse
OnMessage = Callable[[str, int, bytes], Awaitable[None]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """How one validator is connected; `failure` is why it is not, as last seen."""

    id: str
    connected: bool
    queued_bytes: int
    dropped: int
    failure: str | None


@dataclass(eq=False, slots=True)
class _Queue:
    """Frames that wait to leave, in order, and what they cost."""

    bytes_max: int
    frames: deque[bytes] = field(default_factory=deque)
    held_bytes: int = 0

    def add(self, frame: bytes) -> bool:
        """False if there is no room: what waits stays without a gap, and is what comes next."""
        cost = len(frame) + FRAME_COST_BYTES
        if self.held_bytes + cost > self.bytes_max:
            return False
        self.frames.append(frame)
        self.held_bytes += cost
        return True

    def take(self) -> bytes:
        """The frame that waited longest."""
        frame = self.frames.popleft()
        self.held_bytes -= len(frame) + FRAME_COST_BYTES
        return frame


@dataclass(eq=False, slots=True)
class _Link:
    """A live connection, and what waits to leave by it."""

    peer: str
    spki: bytes
    socket: Socket
    urgent: _Queue
    bulk: _Queue
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str = "closed"

    @property
    def queued_bytes(self) -> int:
        """What waits in both queues."""
        return self.urgent.held_bytes + self.bulk.held_bytes

    def end(self, failure: str) -> None:
        """Close from any place; the reason is told to the peer."""
        self.failure = failure
        if self.task is not None:
            self.task.cancel()


def backoff_s(failures: int, chance: float) -> float:
    """The pause before dialling again: doubled by each failure, capped, with jitter.

    `chance` is uniform in [0, 1): peers that lost one node at once do not all return at once.
    """
    return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(failures, 16)) * (1 + chance) / 2


class Mesh:
    """Sends to and receives from the other validators.

    `addresses` maps each validator's id to its `host:port`. `context` is a TLS client context.
    `on_message(sender, channel, message)` and `on_connected(peer)` are awaited in the order of
    events of one peer; `on_disconnected(peer)` is called. `chance` draws from [0, 1).
    """

    def __init__(
        self,
        *,
        me: str,
        addresses: Mapping[str, str],
        context: ssl.SSLContext,
        gate: Gate,
        on_message: OnMessage,
        on_connected: Callable[[str], Awaitable[None]],
        on_disconnected: Callable[[str], None],
        chance: Callable[[], float],
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._me = me
        self._addresses: dict[str, str] = {}
        self._context = context
        self._gate = gate
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._chance = chance
        self._heartbeat_s = heartbeat_s
        self._links: dict[str, _Link] = {}
        self._dropped: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._group: asyncio.TaskGroup | None = None
        self.set_addresses(addresses)

    def routes(self) -> list[web.RouteDef]:
        """What the peer port serves for the mesh."""
        return [web.get(PATH, self._accept, allow_head=False)]

    async def run(self) -> None:
        """Keep connected until cancelled. An exception of a handler ends it: that is our bug."""
        forever = aiohttp.ClientTimeout(total=None)  # dialling has its own time-out
        async with (
            aiohttp.ClientSession(timeout=forever) as session,
            asyncio.TaskGroup() as group,
        ):
            self._group, self._session = group, session
            try:
                self.set_addresses(self._addresses)
                await asyncio.Event().wait()
            finally:
                self._group, self._session = None, None

    def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """From now on these are the other validators, and where each is reached.

        A connection to one that has moved stands as long as it holds: its key says who it is. One
        that is not named any more is not dialled, and a connection that was dialled to it ends.
        """
        assert len(addresses) <= PEERS_MAX, f"a mesh of {len(addresses)} breaks its bound"
        self._addresses = {peer: at for peer, at in addresses.items() if peer != self._me}
        if self._group is None or self._session is None:
            return
        wanted = {peer for peer in self._addresses if self._me < peer}
        for peer in self._dialers.keys() - wanted:
            self._dialers.pop(peer).cancel()
        for peer in wanted - self._dialers.keys():
            self._dialers[peer] = self._group.create_task(self._dial(self._session, peer))

    def send(self, to: str, channel: int, data: bytes) -> None:
        """Queue a message for one validator; it is lost if that one is not connected."""
        link = self._links.get(to)
        if link is not None:
            self._queue(link, _frame(channel, data))

    def broadcast(self, channel: int, data: bytes) -> None:
        """Queue a message for every connected validator."""
        frame = _frame(channel, data)
        for link in self._links.values():
            self._queue(link, frame)

    def recheck(self) -> None:
        """Close the connections of members who may no longer connect; call it after each block."""
        for link in self._links.values():
            try:
                member = self._gate.judge(link.spki)
                _require_validator(member)
            except Refused as refused:
                log.warning("peer.expelled", peer=link.peer, code=refused.code)
                link.end(refused.code)

    def status(self) -> tuple[PeerStatus, ...]:
        """How each validator is connected, by id."""
        return tuple(
            PeerStatus(
                id=peer,
                connected=link is not None,
                queued_bytes=link.queued_bytes if link else 0,
                dropped=self._dropped[peer],
                failure=None if link else self._failures.get(peer),
            )
            for peer in sorted({*self._addresses, *self._links})
            for link in [self._links.get(peer)]
        )

    def _queue(self, link: _Link, frame: bytes) -> None:
        queue = link.urgent if frame[0] < BULK_CHANNEL else link.bulk
        if queue.add(frame):
            link.wake.set()
            return
        self._dropped[link.peer] += 1
        if self._gate.reminders.due(link.peer, "queue"):
            log.warning(
                "peer.queue_full", peer=link.peer, channel=frame[0], queued_bytes=queue.held_bytes
            )

    # How connections come about

    async def _dial(self, session: aiohttp.ClientSession, peer: str) -> None:
        failures, address = 0, ""
        while True:
            if self._addresses[peer] != address:  # it moved: what failed before says nothing
                failures, address = 0, self._addresses[peer]
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    socket = await session.ws_connect(
                        f"https://{address}{PATH}",
                        ssl=self._context,
                        heartbeat=self._heartbeat_s,
                        max_msg_size=FRAME_LIMIT_BYTES,
                        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                    )
            except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
                failures += 1
                self._fail(peer, f"{type(error).__name__}: {error}")
            else:
                failures = 0
                await self._reached(peer, socket)
            await asyncio.sleep(backoff_s(failures, self._chance()))

    async def _reached(self, peer: str, socket: ClientWebSocketResponse) -> None:
        """Carry a connection that we dialled, if the server has the key of whom we meant."""
        connection = socket.get_extra_info("ssl_object")
        try:
            if connection is None:
                raise Refused("peer.gone", "expected an open TLS connection, found it closed")
            member = self._gate.admit(connection)
            if member.id != peer:
                raise Refused(
                    "peer.impersonation",
                    f"expected {peer} at {self._addresses.get(peer)}, found the key of {member.id}",
                )
            _require_validator(member)
        except Refused as refused:
            self._fail(peer, str(refused))
            await _close(socket, refused.code)
            return
        await self._join(member, socket)

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        """GET /peer: the upgrade to a WebSocket (RFC 6455) by a validator with a lower id."""
        member = request[MEMBER]
        _require_validator(member)
        if not member.id < self._me:
            raise Refused(
                "peer.direction",
                f"expected {self._me} to dial {member.id}: of two validators the lower id dials",
            )
        if self._group is None:
            raise Refused(
                "peer.stopping", f"expected {self._me} to run, found it starting or ending"
            )
        socket = web.WebSocketResponse(
            heartbeat=self._heartbeat_s,
            max_msg_size=FRAME_LIMIT_BYTES,
            compress=False,
            timeout=CLOSE_TIMEOUT_S,
        )
        await socket.prepare(request)
        await self._join(member, socket)
        return socket

    def _fail(self, peer: str, failure: str) -> None:
        self._failures[peer] = failure
        if self._gate.reminders.due(peer, failure):
            log.warning("peer.unreachable", peer=peer, reason=failure)

    # How a connection is carried, the same at both ends

    async def _join(self, member: Member, socket: Socket) -> None:
        """Carry a connection to its end, in place of an earlier one that the peer has lost."""
        if self._group is None:
            await _close(socket, "peer.stopping")
            return
        assert member.transport is not None, "it was found by its key"
        queues = _Queue(URGENT_BYTES_MAX), _Queue(BULK_BYTES_MAX)
        link = _Link(member.id, member.transport, socket, *queues)
        earlier = self._links.get(member.id)
        self._links[member.id] = link
        link.task = self._group.create_task(self._carry(link, earlier))
        try:
            await asyncio.wait({link.task})
        finally:  # here, as a task that is cancelled before its first step runs no line of its own
            link.task.cancel()
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
                self._failures[link.peer] = link.failure
            await _close(socket, link.failure)

    async def _carry(self, link: _Link, earlier: _Link | None) -> None:
        if earlier is not None and earlier.task is not None:
            earlier.end("peer.replaced")
            await asyncio.wait({earlier.task})
        writer = asyncio.create_task(_write(link))
        log.info("peer.connected", peer=link.peer)
        try:
            await self._on_connected(link.peer)
            await self._read(link)
        finally:
            writer.cancel()
            log.info("peer.disconnected", peer=link.peer, reason=link.failure)
            self._on_disconnected(link.peer)

    async def _read(self, link: _Link) -> None:
        while True:
            try:
                message = await link.socket.receive()
            except ConnectionError as error:  # it answers pings itself, and the peer may be gone
                link.failure = f"peer.broken: {error}"
                return
            match message.type:
                case WSMsgType.BINARY if message.data:
                    await self._on_message(link.peer, message.data[0], message.data[1:])
                case WSMsgType.BINARY | WSMsgType.TEXT:
                    link.failure = "peer.frame"  # empty, or not ours
                    return
                case WSMsgType.ERROR:
                    link.failure = f"peer.broken: {message.data}"
                    return
                case WSMsgType.CLOSE:
                    link.failure = f"closed by the peer: {message.extra}"
                    return
                case _:
                    return


def _frame(channel: int, data: bytes) -> bytes:
    assert 0 <= channel < CHANNELS, f"a channel is one byte, not {channel}"
    assert len(data) <= MESSAGE_BYTES_MAX, f"a message of {len(data)} bytes cannot be received"
    return bytes([channel]) + data


def _require_validator(member: Member) -> None:
    if member.role is not Role.VALIDATOR:
        raise Refused("peer.role", f"expected a validator, found {member.id}, a {member.role}")


async def _write(link: _Link) -> None:
    while True:
        await link.wake.wait()
        link.wake.clear()
        while link.urgent.frames or link.bulk.frames:
            frame = (link.urgent if link.urgent.frames else link.bulk).take()
            try:
                await link.socket.send_bytes(frame)
            except ConnectionError:
                return  # reading ends too, and says why
            except Exception as error:  # of whatever kind: a link that only listens is no link
                log.exception("peer.write_failed", peer=link.peer)
                link.end(f"peer.broken: {type(error).__name__}")
                return


async def _close(socket: Socket, reason: str) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=reason.encode()[:123])
    except (TimeoutError, ConnectionError):
        log.debug("peer.close_timeout", reason=reason)
