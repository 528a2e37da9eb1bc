"""Whom a command asks, and what it goes by: genesis, a pin, or what was followed earlier."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cyclopts import Parameter

from node.client.client import Client
from node.client.credentials import Credentials
from node.client.proven import Proven
from node.commands.reader import reader_of
from node.commands.report import Many
from node.home import config
from node.home.genesis import read_genesis
from node.home.logs import configure_logs
from node.light.follow import Follower, Round, State
from node.light.history import History
from node.light.store import Store
from node.light.watch import Line, describe_fork, follow_once, forked
from vm.genesis import Genesis
from vm.refusal import Refused
from vm.trust import Pin, Trust, from_genesis, parse_pin

FOLLOWED = "followed"  # an auditor's store, in his home


@dataclass(frozen=True, slots=True)
class Source:
    """`store` is where what was followed is kept; None where a command is given no folder.

    `reader` is who asks; None for nobody in particular.
    """

    genesis: Genesis
    urls: tuple[str, ...]
    reader: Credentials | None
    pin: Pin | None
    store: Store | None

    def held(self) -> History | None:
        """What was followed earlier; raises `Refused` with `store.*`."""
        return None if self.store is None else self.store.load(self.genesis, self.pin)

    def trust(self, held: History | None) -> Trust:
        """By what a file is verified, where no pin counts: what was followed, else genesis."""
        return from_genesis(self.genesis) if held is None else held.reached

    def require_store(self) -> Store:
        """The store; raises `Refused("usage.store")`."""
        if self.store is None:
            raise Refused(
                "usage.store", "expected --home, or --store with a folder of yours, found neither"
            )
        return self.store

    def connect(self, urls: Sequence[str], proven: Proven | None = None) -> Client:
        """A client of these nodes, by genesis alone or by what is proven already."""
        return Client(self.genesis, urls, self.reader, proven=proven)

    @asynccontextmanager
    async def follower(self) -> AsyncIterator[Follower]:
        """One client for each node, from where the store has come to."""
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self.connect([url])) for url in self.urls]
            yield Follower(self.genesis, clients, self.pin, self.held())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[Client, History | None]]:
        """A client of all nodes, and the history that it goes by; None for genesis alone.

        With a pin or a store it follows first, so that nothing is read of another history.
        """
        held = self.held()
        if held is None and self.pin is None:
            async with self.connect(self.urls) as client:
                yield client, None
            return
        async with self.follower() as follower:
            history = require_agreement(await follower.round())
        assert history.newest is not None, "a round that agrees has a checkpoint"
        proven = Proven(history.trust, history.steps, history.newest.header)
        async with self.connect(self.urls, proven) as client:
            yield client, history


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Options of a command that asks nodes.

    Parameters
    ----------
    home
        An auditor's folder with concilium.toml: genesis and validators are taken from it.
    genesis
        The genesis document, if no home is given.
    url
        HTTP API of a validator, if no home is given; may be given more than once.
    member
        Id of the member who reads, if no home is given and the network is not public.
    key
        Its signing key.
    """

    home: Path | None = None
    genesis: Path | None = None
    url: Many = ()
    member: str | None = None
    key: Path | None = None

    def source(self, *, offline: bool = False) -> Source:
        """What the options name; whom to ask is not needed offline.

        Raises `Refused` with `usage.*`, `config.*` or `genesis.*`.
        """
        configure_logs("warning", "auto")  # of nodes that lie, on stderr: results go to stdout
        genesis, urls = self.genesis, self.url
        if self.home is not None:
            settings = config.load(config.ClientConfig, self.home, os.environ)
            genesis = genesis or settings.chain.genesis
            urls = urls or settings.client.validators
        if genesis is None:
            raise Refused("usage.genesis", "expected --home or --genesis, found neither")
        if not urls and not offline:
            raise Refused("usage.url", "expected --url of a validator beside --genesis, found none")
        reader = None if offline else reader_of(self.home, self.member, self.key)
        return Source(read_genesis(genesis), urls, reader, None, None)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Followed(Nodes):
    """Options of a command that goes by what was followed.

    Parameters
    ----------
    home
        An auditor's folder with concilium.toml: genesis and validators are taken from it.
    genesis
        The genesis document, if no home is given.
    url
        HTTP API of a validator, if no home is given; may be given more than once.
    member
        Id of the member who reads, if no home is given and the network is not public.
    key
        Its signing key.
    pin
        HEIGHT:HEX of a checkpoint that you believe, as `concilium audit pin` prints it.
    store
        Folder of what was followed; HOME/followed if not given.
    """

    pin: str | None = None
    store: Path | None = None

    def source(self, *, offline: bool = False) -> Source:
        """As that of `Nodes`, with the pin and the store; raises `Refused("pin.invalid")` too."""
        folder = self.store or (None if self.home is None else self.home / FOLLOWED)
        return replace(
            Nodes.source(self, offline=offline),
            pin=None if self.pin is None else parse_pin(self.pin),
            store=None if folder is None else Store(folder),
        )


NODES = Nodes()  # none of the options given
AS_FOLLOWED = Followed()


async def sync(source: Source) -> tuple[Round, History]:
    """One round, kept in the store; raises `Refused` if it came to no agreement."""
    store = source.require_store()
    with store.locked():
        async with source.follower() as follower:
            found, forks = await follow_once(follower, store)
    return found, require_agreement(found, forks)


def require_agreement(found: Round, forks: Sequence[Line] = ()) -> History:
    """What is held after a round; raises what stands in the way of relying on it."""
    if found.conflicts:
        unkept = "not kept: run concilium audit sync, which keeps it"
        raise forked(forks or [describe_fork(fork, unkept) for fork in found.conflicts])
    if found.held is not None and any(seen.state is State.AGREES for seen in found.seen):
        return found.held
    for state in (State.FALSE, State.CONFLICT, State.BEHIND, State.REFUSED, State.UNREACHABLE):
        for seen in found.seen:
            if seen.state is state and state is not State.BEHIND:
                raise Refused(seen.code, seen.message)
            if seen.state is state:
                raise _stale(found)
    raise AssertionError("a round has asked somebody")


def _stale(found: Round) -> Refused:
    held = found.held
    followed = "the pinned height"
    if held is not None and held.newest is not None:
        followed = f"height {held.newest.header.height}, which was followed already,"
    heights = [seen.certified.header.height for seen in found.seen if seen.certified is not None]
    return Refused(
        "client.stale",
        f"expected {followed} or later, found {max(heights)}: ask other validators, for these hide "
        "what came since or are behind",
    )
