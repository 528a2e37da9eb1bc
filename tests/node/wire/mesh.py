"""A mesh with its port, to be connected, attacked and cut."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from node.wire import peers
from node.wire.gate import build_peer_app
from node.wire.listen import listening
from node.wire.peers import Mesh
from node.wire.tls import client_context, server_context
from tests.node.parties import HOST, Consortium, Party

CONSENSUS = 1
GOSSIP = 2


class Node:
    """A mesh with its port, and what it heard."""

    def __init__(
        self,
        consortium: Consortium,
        party: Party,
        others: Mapping[str, Party],
        heartbeat_s: float = peers.HEARTBEAT_S,
    ) -> None:
        self.party = party
        self.messages: asyncio.Queue[tuple[str, int, bytes]] = asyncio.Queue()
        self.events: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.dialled_in_vain = asyncio.Event()
        gate = consortium.gate()
        self.mesh = Mesh(
            me=party.id,
            addresses={name: f"{HOST}:{other.port}" for name, other in others.items()},
            context=client_context(party.files),
            gate=gate,
            on_message=self.hear,
            on_connected=self.connected,
            on_disconnected=lambda peer: self.events.put_nowait(("down", peer)),
            chance=self.chance,
            heartbeat_s=heartbeat_s,
        )
        self.app = build_peer_app(gate, self.mesh.routes())

    async def hear(self, sender: str, channel: int, data: bytes) -> None:
        """Keep a message."""
        await self.messages.put((sender, channel, data))

    async def connected(self, peer: str) -> None:
        """Keep the event."""
        await self.events.put(("up", peer))

    def chance(self) -> float:
        """The mesh asks for a chance before it dials again."""
        self.dialled_in_vain.set()
        return 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        """Serve and dial while the block runs."""
        context = server_context(self.party.files)
        async with listening(self.app, HOST, self.party.port, context):
            task = asyncio.create_task(self.mesh.run())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.wait({task})


def validators(consortium: Consortium, *names: str) -> dict[str, Party]:
    """Enrol validators."""
    return {name: consortium.enrol(name) for name in names}


async def raw_peer(session: aiohttp.ClientSession, server: Party) -> Any:
    """Upgrade to a WebSocket as an attacker would: no limits, no manners."""
    return await session.ws_connect(server.url + "/peer", max_msg_size=0)
