"""A validator, put together: what `concilium run` runs until it is told to stop."""

import asyncio
import random
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from enum import IntEnum
from importlib.metadata import version

import aiohttp
import structlog

from consensus.event import Limits
from consensus.message import Status
from consensus.replica import History, Replica, Start
from fl.rounds import next_deadline
from fl.weights import HEAD_BYTES, read_origin
from node.api.admission import ADMITTED, Admission
from node.api.app import build_api
from node.api.context import ApiContext, NodeStatus, Part
from node.api.feed import Feed
from node.home.config import ValidatorConfig
from node.home.genesis import read_genesis
from node.program import program
from node.readers.publish import Publisher
from node.validator import journal, protocols
from node.validator.accuser import Accuser
from node.validator.aggregator import Aggregator
from node.validator.chain import Chain
from node.validator.custody import Custody
from node.validator.directory import Directory, wrote
from node.validator.gossip import Gossip
from node.validator.halted import Outdated
from node.validator.intake import Intake
from node.validator.journal import Journal
from node.validator.keyring import Keyring
from node.validator.mempool import Mempool
from node.validator.openings import Openings
from node.validator.prune import Pruner, keep_pruned
from node.validator.readiness import Readiness
from node.validator.reading import open_desk
from node.validator.recover import check_journal
from node.validator.runtime import Runtime, wall_clock_ms
from node.validator.serve import Source, SyncService
from node.validator.store import DAMAGE, FOLDER, BlockRow, Store
from node.validator.sync import LeftBehind, connect, synchronise, watch
from node.wire.blobs import BlobStore
from node.wire.disk import is_full, say
from node.wire.gate import Gate, build_peer_app
from node.wire.listen import listening
from node.wire.openings import OpeningService
from node.wire.peers import Mesh
from node.wire.sources import Sources
from node.wire.tls import client_context, reading_context, server_context
from node.wire.transfer import BlobService, obtain, open_session
from vm.certificate import CheckpointCertificate
from vm.evidence import Evidence
from vm.genesis import Genesis
from vm.keys import SigningKey
from vm.proposal import Endpoint
from vm.quorum import Epoch
from vm.record import Member
from vm.refusal import Refused
from vm.shape import Digest, pack
from vm.transaction import NONCE_BYTES, sign

BLOBS_BYTES_MAX = 64 * 1024**3  # blobs on one validator's disk
OPENINGS_BYTES_MAX = 64 * 1024**3  # of what its own trainer opens in rounds under judgement
OWN_LIFETIME_BLOCKS = 200  # of the validator's own transactions: minutes, even under load
SWEEP_MS = 10_000  # between looks for blobs whose time is over

log = structlog.get_logger()


class Channel(IntEnum):
    """What a frame between validators carries."""

    CONSENSUS = 1
    TRANSACTIONS = 2


async def run_validator(config: ValidatorConfig) -> None:
    """Run a validator until cancelled, with a state sync before it whenever it is left behind.

    Raises as `synchronise`, `Validator` and its `run` do.
    """
    while True:
        try:
            await synchronise(config)
        except OSError as error:
            raise _refuse_disk(error) from error
        except DAMAGE as error:
            raise _refuse_damage(error) from error
        try:
            await Validator(config).run()
        except LeftBehind:
            log.warning("validator.left_behind")
        else:
            return


class Validator:
    """Opens everything that must not be shared, and drives it in `run`."""

    def __init__(self, config: ValidatorConfig) -> None:
        """Open store, journal and keys; raises `Refused` saying which of them cannot be used."""
        self._config = config
        self._id = config.member.id
        self._resources = ExitStack()
        try:
            self._open()
        except OSError as error:
            self._resources.close()
            raise _refuse_disk(error) from error
        except DAMAGE as error:
            self._resources.close()
            raise _refuse_damage(error) from error
        except BaseException:
            self._resources.close()
            raise

    def _open(self) -> None:
        config = self._config
        genesis = read_genesis(config.chain.genesis)
        self._mempool = Mempool()
        folder = config.store.folder
        self._journal = self._resources.enter_context(Journal(folder / journal.FOLDER))
        self._keyring = Keyring(config.member, folder, self._journal.identity)
        store = Store(folder / FOLDER)
        self._resources.callback(store.close)
        check_journal(self._keyring, self._journal.identity, self._journal.entries, store)
        store.bind_journal(self._journal.identity)
        self._chain = Chain(store, genesis, program(), self._mempool.by_bytes)
        self._blobs = BlobStore(folder / "blobs", BLOBS_BYTES_MAX)
        self._directory = Directory(self._chain)
        self._custody = Custody(self._chain, self._origin_of)
        self._opened = BlobStore(folder / "openings", OPENINGS_BYTES_MAX)
        self._openings = Openings(
            self._chain.state, self._id, self._opened.has, self._opened.addresses()
        )
        if self._ruling().protocol not in protocols.SUPPORTED:
            raise Outdated(self._ruling(), protocols.SUPPORTED)
        view = self._chain.view()
        self._certified = Feed(0 if view is None else view.height)
        self._executed = Feed(self._chain.head.height)
        self._gate = Gate(self._directory.identify, lambda: datetime.now(UTC))
        self._readiness = Readiness(genesis.window)
        self._mesh = self._build_mesh()
        self._sources = Sources(())
        self._follow_addresses()
        self._runtime = self._build_runtime(genesis)
        self._intake = Intake(self._chain, self._mempool, folder, self._runtime.wake)
        self._gossip = Gossip(
            self._intake,
            self._mempool,
            lambda data: self._mesh.broadcast(Channel.TRANSACTIONS, data),
        )
        self._aggregator = Aggregator(
            validator=self._id,
            state=self._chain.state,
            fetch=self._fetch,
            keep=lambda content: asyncio.to_thread(self._blobs.add, content),
            submit=self._submit_own,
            votes=lambda: self._chain.epoch.validators.votes(self._id),
        )
        self._accuser = Accuser(self._chain, self._submit_own)
        self._desk = open_desk(config, genesis, self._chain)
        self._resources.callback(self._desk.logbook.close)
        self._publisher = Publisher(
            self._id,
            self._desk.logbook,
            self._chain.state,
            self._submit_own,
            config.http.access_digest_s,
        )

    def _origin_of(self, address: str) -> Digest | None:
        head = self._blobs.head(address, HEAD_BYTES)
        return None if head is None else read_origin(head)

    def _ruling(self) -> Epoch:
        """The epoch that the replica starts in: that of the first height not yet certified here."""
        certified = self._chain.store.certified(self._chain.head.height)
        return self._chain.epoch_at(1 if certified is None else certified.height + 1)

    def _build_mesh(self) -> Mesh:
        return Mesh(
            me=self._id,
            addresses={},
            context=client_context(self._config.tls.files(self._config.member)),
            gate=self._gate,
            on_message=self._on_message,
            on_connected=self._on_connected,
            on_disconnected=self._readiness.lost,
            chance=random.SystemRandom().random,
        )

    def _build_runtime(self, genesis: Genesis) -> Runtime:
        chain, store, head = self._chain, self._chain.store, self._chain.head
        first, stable = self._ruling().number, store.certified(head.height)
        replica = Replica(
            chain=chain.id,
            me=self._id,
            signer=self._keyring.signer,
            check=lambda height, payload: chain.check(height, payload, wall_clock_ms()),
            history=History(store.blocks, store.certified, chain.epoch_at),
            start=Start(head.height, head.header, stable, chain.epochs[first:]),
            limits=Limits(window=genesis.window, rotation=genesis.rotation),
        )
        return Runtime(
            replica=replica,
            chain=chain,
            journal=self._journal,
            mempool=self._mempool,
            network=_Consensus(self._mesh),
            node=self,
            protocols=protocols.SUPPORTED,
            next_deadline=next_deadline,
            clock_ms=wall_clock_ms,
        )

    def close(self) -> None:
        """Give files and locks back; `run` does it by itself."""
        self._resources.close()

    # What happens

    async def run(self) -> None:
        """Serve until cancelled; raises `Refused` for a busy port and `Halted` by consensus."""
        try:
            async with AsyncExitStack() as stack:
                await self._serve(stack)
                peers = await connect(self._config, self._chain.store, stack)
                log.info("validator.started", height=self._chain.head.height)
                retain = self._config.store.retain_blocks
                async with asyncio.TaskGroup() as group:
                    for work in (
                        self._runtime.run(),
                        self._mesh.run(),
                        self._aggregator.run(),
                        self._accuser.run(),
                        self._gossip.run(),
                        self._sweep(),
                        self._publisher.run(wall_clock_ms),
                        self._desk.logbook.failed(),
                        keep_pruned(Pruner(self._chain.store), retain, self._executed),
                        watch(self._chain.store, peers),
                    ):
                        group.create_task(work)
        except BaseExceptionGroup as failures:
            raise _cause(failures) from failures
        finally:
            self.close()

    async def _serve(self, stack: AsyncExitStack) -> None:
        config = self._config
        files = config.tls.files(config.member)
        self._session: aiohttp.ClientSession = await stack.enter_async_context(
            open_session(client_context(files), self._gate.admit)
        )
        blobs = BlobService(self._blobs, self._custody.may_read, self._custody.may_write)
        sync = SyncService(Source(self._chain.store))
        openings = OpeningService(self._openings, self._opened)
        peer_app = build_peer_app(
            self._gate, self._mesh.routes(), blobs.routes(), openings.routes(), sync.routes()
        )
        peer, http = config.peer.listen, config.http.listen
        await stack.enter_async_context(
            listening(peer_app, peer.host, peer.port, server_context(files))
        )
        context = ApiContext(
            chain=self._chain,
            feed=self._certified,
            kinds=program().kinds,
            submit=self._submit,
            pending=self._mempool.__contains__,
            status=self._status,
            ready=self._ready,
            desk=self._desk,
        )
        stack.push_async_callback(self._desk.logbook.flush)
        await stack.enter_async_context(
            listening(
                build_api(context),
                http.host,
                http.port,
                reading_context(files) if config.http.tls else None,
            )
        )

    async def _on_connected(self, peer: str) -> None:
        await self._runtime.connected(peer)

    async def _on_message(self, sender: str, channel: int, data: bytes) -> None:
        match channel:
            case Channel.CONSENSUS:
                await self._runtime.receive(sender, data)
            case Channel.TRANSACTIONS:
                await self._gossip.receive(sender, data)
            case _:
                log.warning("peer.channel", peer=sender, channel=channel)

    def on_executed(self, row: BlockRow) -> None:
        """A block was executed: members, addresses and rounds may have changed."""
        if wrote(row, Member):
            self._mesh.recheck()
            self._intake.recheck()
        if wrote(row, Member) or wrote(row, Endpoint):
            self._follow_addresses()
        self._custody.follow(row)
        self._openings.follow()
        self._executed.publish(row.header.height)
        self._aggregator.wake()

    def on_certified(self, certificate: CheckpointCertificate) -> None:
        """Readers may see up to this height."""
        self._certified.publish(min(certificate.height, self._chain.head.height))

    def on_turned(self, epoch: Epoch) -> None:
        """An epoch begins: from now on its seats' keys count."""
        seat = epoch.validators.get(self._id)
        if seat is not None:
            self._keyring.promote(seat.key)
        log.info("epoch.turned", epoch=epoch.number, first=epoch.first, role=self._role())

    def on_status(self, peer: str, status: Status) -> None:
        """A peer has said where it stands."""
        self._readiness.heard(peer, status.executed)

    def on_fault(self, evidence: Evidence) -> None:
        """A validator is proven faulty: the chain is told."""
        self._accuser.wake()

    def on_forgotten(self) -> None:
        """Our key has promised what our journal does not know."""
        seat = self._runtime.replica.epoch.validators.get(self._id)
        assert seat is not None, "a replica without a seat promises nothing"
        self._keyring.bar(seat.key)

    def _follow_addresses(self) -> None:
        """Reach every validator where the chain says, else where the configuration does."""
        configured = {id: str(at) for id, at in self._config.peer.validators.items()}
        addresses = configured | self._directory.addresses()
        addresses.pop(self._id, None)
        self._mesh.set_addresses(addresses)
        self._sources.follow([f"https://{at}" for at in addresses.values()])

    async def _sweep(self) -> None:
        """Delete blobs whose time is over."""
        while True:
            for address in self._custody.due(self._chain.head.time_ms):
                await asyncio.to_thread(self._blobs.delete, address)
                log.info("blob.deleted", address=address)
            for address in self._openings.due():
                await asyncio.to_thread(self._opened.delete, address)
                log.info("opening.deleted", address=address)
            await asyncio.sleep(SWEEP_MS / 1_000)

    # Transactions

    async def _submit(self, packed: Sequence[bytes]) -> Sequence[Admission]:
        answers = await self._intake.submit(packed)
        self._gossip.forward(
            [data for data, answer in zip(packed, answers, strict=True) if answer.code == ADMITTED]
        )
        return answers

    async def _submit_own(self, kind: str, body: object) -> None:
        """Sign and submit; return when it was executed or can no longer be."""
        transaction = sign(
            self._member_key(),
            chain=self._chain.id,
            kind=kind,
            sender=self._id,
            body=body,
            valid_until_height=self._chain.head.height + OWN_LIFETIME_BLOCKS,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        [answer] = await self._submit([pack(transaction)])
        if answer.code != ADMITTED:
            raise Refused(answer.code, answer.message)
        while self._chain.store.place(transaction.id) is None:
            height = await self._executed.wait(self._chain.head.height)
            if height > transaction.intent.valid_until_height:
                return

    def _member_key(self) -> SigningKey:
        """The key that the newest state has for us: it may be ahead of the seat's."""
        member = self._chain.state().get(Member, self._id)
        key = None if member is None else self._keyring.held(member.public_key)
        if key is None:
            raise Refused(
                "validator.key",
                f"expected the key that is enrolled for {self._id}, found it missing here",
            )
        return key

    async def _fetch(self, address: str, size: int) -> bytes:
        """A blob of `size` bytes, from here or from another validator."""
        return await obtain(self._session, self._sources, address, self._blobs, size)

    # What the API tells of us

    def _status(self) -> NodeStatus:
        replica = self._runtime.replica
        view = self._chain.view()
        row = self._chain.store.row(0) if view is None else view.row
        assert row is not None, "genesis was written when the store was made"
        return NodeStatus(
            name=self._id,
            version=version("concilium"),
            chain=self._chain.id,
            epoch=replica.epoch.number,
            role=self._role(),
            view=replica.view,
            primary=replica.primary,
            changing_view=not replica.active,
            executed_height=self._chain.head.height,
            certified_height=row.header.height,
            state_root=row.header.state,
            peers=self._connected(),
            pending=len(self._mempool),
        )

    def _role(self) -> Part:
        """What part we have in the epoch under way."""
        replica = self._runtime.replica
        seat = replica.epoch.validators.get(self._id)
        if seat is not None and seat.suspended:
            return "suspended"
        return "voting" if replica.voting else "observing"

    def _ready(self) -> tuple[bool, str]:
        replica, view = self._runtime.replica, self._chain.view()
        validators = replica.epoch.validators
        connected = {peer.id for peer in self._mesh.status() if peer.connected}
        found = sum(seat.id in connected for seat in validators.voters)
        needed = validators.quorum - 1
        if found < needed:
            return False, f"expected {needed} connected validators, found {found}"
        certified = 0 if view is None else view.height
        missing = self._readiness.missing(validators, certified)
        if missing is not None:
            return False, missing
        # A replica that gave up on a primary alone waits for others to join it, and follows the
        # chain by block transfer meanwhile: that is trouble only while something waits here.
        if not replica.active and len(self._mempool):
            return False, "expected an active view, found a view change under way"
        return True, "ready"

    def _connected(self) -> int:
        return sum(peer.connected for peer in self._mesh.status())


def _cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that stopped a node; trouble with the disk as a refusal that says what to do."""
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, DAMAGE):
        return _refuse_damage(first)
    return _refuse_disk(first) if isinstance(first, OSError) and is_full(first) else first


def _refuse_damage(error: Exception) -> Refused:
    return Refused(
        "store.corrupt",
        f"expected what was written to the store, found: {error}. Move its folder `chain` away: "
        "the node fetches the chain from its peers again",
    )


def _refuse_disk(error: OSError) -> Refused:
    if is_full(error):
        return Refused(
            "disk.full",
            f"expected room for the journal and the chain, found none ({say(error)}): free some "
            "and start again; nothing that was acknowledged is lost",
        )
    return Refused(
        "store.unusable", f"expected a folder to write the store to, found: {say(error)}"
    )


class _Consensus:
    """The mesh as the runtime's network."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def send(self, to: str, data: bytes) -> None:
        self._mesh.send(to, Channel.CONSENSUS, data)

    def broadcast(self, data: bytes) -> None:
        self._mesh.broadcast(Channel.CONSENSUS, data)
