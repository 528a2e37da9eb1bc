"""Members with certificates and stores, between whom blobs go."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from node.wire.blobs import BlobStore
from node.wire.cid import CHUNK_BYTES, split, summarise
from node.wire.gate import build_peer_app
from node.wire.listen import listening
from node.wire.tls import client_context, server_context
from node.wire.transfer import BlobService, MayRead, MayWrite, open_session
from tests.node.parties import HOST, Consortium, Party
from vm.record import Role
from vm.refusal import Refused
from vm.shape import pack

STORE_BYTES = 64 * CHUNK_BYTES
SHORT = b"a short blob"
LONG = b"".join(bytes([i]) * CHUNK_BYTES for i in range(3)) + b"tail"  # four chunks


class Stage:
    """A consortium with a trainer, two validators and a store for each."""

    def __init__(self, folder: Path) -> None:
        self.consortium = Consortium(folder / "consortium")
        self.trainer = self.consortium.enrol("trainer", Role.TRAINER)
        self.one = self.consortium.enrol("one")
        self.two = self.consortium.enrol("two")
        self.gate = self.consortium.gate()
        self.store = Recorder(folder / "one")
        self.other = Recorder(folder / "two")
        self.own = Recorder(folder / "own")

    @asynccontextmanager
    async def serving(
        self,
        party: Party,
        store: BlobStore,
        may_read: MayRead = lambda member, address: True,
        may_write: MayWrite = lambda member, address, size: True,
    ) -> AsyncIterator[None]:
        """Serve a store on the party's port."""
        service = BlobService(store, may_read, may_write)
        app = build_peer_app(self.gate, service.routes())
        async with listening(app, HOST, party.port, server_context(party.files)):
            yield

    def session(self, party: Party) -> aiohttp.ClientSession:
        """A client session as members use it."""
        return open_session(client_context(party.files), self.gate.admit)


class Recorder(BlobStore):
    """A store that says which chunks it was asked to take and to give, and that can be cut off."""

    def __init__(self, folder: Path, puts_max: int = 1_000) -> None:
        super().__init__(folder, STORE_BYTES)
        self.taken: list[int] = []
        self.given: list[int] = []
        self._puts_max = puts_max

    def put(self, address: str, index: int, chunk: bytes) -> bool:
        """Take a chunk, or fail as a node that is shut down."""
        if len(self.taken) == self._puts_max:
            raise Refused("peer.stopping", "cut off by the test")
        self.taken.append(index)
        return super().put(address, index, chunk)

    def chunk(self, address: str, index: int) -> bytes:
        """Give a chunk."""
        self.given.append(index)
        return super().chunk(address, index)


def manifest_of(content: bytes) -> bytes:
    """The root of a long content."""
    manifest = summarise(split(content))[1]
    assert manifest is not None
    return pack(manifest)
