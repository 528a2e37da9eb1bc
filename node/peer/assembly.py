"""A training peer, put together: what `concilium peer run` runs until it is told to stop."""

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from functools import partial

import structlog

from fl.train import OnStep, train
from node.client.client import Client
from node.client.submitter import Submitter
from node.client.watch import Watch
from node.home.config import Identity, PeerConfig
from node.home.genesis import read_genesis
from node.home.keyfile import read_key, read_secret
from node.peer.approval import Approvals
from node.peer.attendance import attend
from node.peer.rowkeeper import Rowkeeper
from node.peer.site import load_data
from node.peer.trainer import Train, Trainer
from node.peer.verifier import Verifier
from node.wire.exchange import Exchange

log = structlog.get_logger()


async def run_peer(
    config: PeerConfig, *, train: Train = train, on_step: OnStep | None = None
) -> None:
    """Train and verify until cancelled; raises `Refused` for keys, files and addresses."""
    genesis = read_genesis(config.chain.genesis)
    training = config.training
    secret = read_secret(training.secret)
    rowkeeper = Rowkeeper(partial(load_data, training.data, secret=secret))
    approvals = Approvals(config.store.folder, training.approve, training.listed)
    urls = [validator.http for validator in training.validators]
    async with AsyncExitStack() as stack:

        async def enter(identity: Identity) -> tuple[Submitter, Exchange]:
            client = await stack.enter_async_context(Client(genesis, urls))
            folder = config.store.folder / "blobs" / identity.id
            # A crash may have left others' updates here; whatever is needed is fetched again.
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            exchange = await stack.enter_async_context(
                Exchange(genesis, identity, config.tls, training.validators, folder)
            )
            return Submitter(client, identity.id, read_key(identity.key)), exchange

        submitter, exchange = await enter(config.trainer)
        trainer = Trainer(
            submitter,
            exchange,
            rowkeeper,
            approvals,
            opening=training.opening,
            train=train,
            on_step=on_step,
        )
        watch = Watch(submitter.client)
        submitter, exchange = await enter(config.verifier)
        verifier = Verifier(submitter, exchange, rowkeeper, approvals, _steady_ms)
        log.info("peer.started", tasks=list(training.listed))
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.run())
            group.create_task(attend(trainer.work, tuple(training.listed), watch))
            group.create_task(attend(verifier.work, tuple(training.listed), watch))


def _steady_ms() -> int:
    """Milliseconds that no correction of the wall clock changes."""
    return time.monotonic_ns() // 1_000_000
