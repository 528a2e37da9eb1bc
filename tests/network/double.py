"""A validator's home in the hands of an attacker: its keys, and nothing of its software.

`python -m tests.network.double HOME VIEW SEQUENCE` signs two prepares for one slot of epoch 0 and
sends both to everybody.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from consensus.message import Envelope, Prepare, encode_envelope, signing_digest
from node.home import config
from node.home.genesis import read_genesis
from node.home.keyfile import read_key
from node.validator.assembly import Channel
from node.wire.gate import Gate, build_peer_app
from node.wire.listen import listening
from node.wire.peers import Mesh
from node.wire.tls import client_context, server_context

OTHERS = 3


async def lie(home: Path, view: int, sequence: int) -> None:
    """Send once all others are connected; then stay, as an attacker would."""
    settings = config.load(config.ValidatorConfig, home, {})
    genesis = read_genesis(settings.chain.genesis)
    member, key = settings.member.id, read_key(settings.member.key)
    files = settings.tls.files(settings.member)
    members = {item.transport: item for item in genesis.members}
    gate = Gate(members.get, lambda: datetime.now(UTC))
    reached: set[str] = set()

    async def connected(peer: str) -> None:
        reached.add(peer)
        if len(reached) == OTHERS:
            for digest in (b"a" * 32, b"b" * 32):
                body = Prepare(view, sequence, digest)
                signature = key.sign(signing_digest(genesis.chain, 0, body))
                envelope = Envelope(member, 0, body, signature, None)
                mesh.broadcast(Channel.CONSENSUS, encode_envelope(envelope))

    async def ignore(peer: str, channel: int, data: bytes) -> None:
        pass

    mesh = Mesh(
        me=member,
        addresses={id: str(at) for id, at in settings.peer.validators.items()},
        context=client_context(files),
        gate=gate,
        on_message=ignore,
        on_connected=connected,
        on_disconnected=lambda peer: None,
        chance=lambda: 0.0,
    )
    at, app = settings.peer.listen, build_peer_app(gate, mesh.routes())
    async with listening(app, at.host, at.port, server_context(files)):
        await mesh.run()


if __name__ == "__main__":
    asyncio.run(lie(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
