"""A training peer, put together: what `concilium peer run` runs until it is told to stop."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial

import structlog

from fl.train import train
from node.client.board import Board
from node.client.client import Client
from node.client.credentials import credentials_of
from node.client.submitter import Submitter
from node.home.config import Identity, PeerConfig
from node.home.genesis import read_genesis
from node.home.keyfile import read_key, read_secret
from node.peer import retention
from node.peer.approval import Approvals
from node.peer.attendance import attend_all, end_of, tasks_of
from node.peer.bases import Bases
from node.peer.loop import Loop
from node.peer.meeting import Meetings
from node.peer.opening import Opener
from node.peer.replaying import Replaying
from node.peer.report import Report
from node.peer.reporter import Reporter
from node.peer.rowkeeper import Rowkeeper
from node.peer.site import load_data
from node.peer.traces import TraceStore
from node.peer.trainer import Trainer
from node.peer.training import Local, OnStage, Train
from node.peer.verifier import Verifier
from node.wire.blobs import BlobStore
from node.wire.exchange import Exchange
from vm.encoding import encode
from vm.learning import SiteApproval, Task

MIB = 2**20
OPENINGS_BYTES_MAX = 16 * 1024**3  # others' pieces on their way here; each goes once it is whole

log = structlog.get_logger()


async def run_peer(
    config: PeerConfig, *, train: Train = train, on_stage: OnStage | None = None
) -> None:
    """Train and verify until cancelled; raises `Refused` for keys, files and addresses."""
    genesis = read_genesis(config.chain.genesis)
    training = config.training
    secret = read_secret(training.secret)
    load = partial(load_data, training.data, secret=secret)
    rowkeeper = Rowkeeper(load)
    approvals = Approvals(config.store.folder, training.approve, training.listed)
    traces = TraceStore(config.store.folder, config.store.traces_mib * MIB)
    local = Local(traces, train, on_stage)
    urls = [validator.http for validator in training.validators]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            Client(genesis, urls, credentials_of(config.trainer, config.tls))
        )
        board = Board(client)

        async def enter(identity: Identity) -> tuple[Submitter, Exchange]:
            folder = config.store.folder / "blobs" / identity.id
            # A crash may have left others' updates here; whatever is needed is fetched again.
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            exchange = await stack.enter_async_context(
                Exchange(client, identity, config.tls, training.validators, folder)
            )
            return Submitter(client, identity.id, read_key(identity.key)), exchange

        end = partial(end_of, board, config.trainer.id)
        loop = Loop(config.loop.socket, config.loop.tasks, traces, end)
        if config.loop.tasks:
            await stack.enter_async_context(loop)
        submitter, exchange = await enter(config.trainer)
        bases = Bases(exchange)
        trainer = Trainer(
            board,
            submitter,
            exchange,
            bases,
            rowkeeper,
            approvals,
            lambda task: loop if task in config.loop.tasks else local,
            traces,
            opening=training.opening,
        )
        meetings = Meetings(board, training.validators, config.tls.files(config.trainer))
        opener = Opener(
            board,
            config.trainer.id,
            bases,
            load,
            approvals,
            traces,
            meetings.at,
            opening=training.opening,
        )
        report = Report(config.store.folder)
        reporter = Reporter(board, config.trainer.id, bases, rowkeeper, approvals, traces, report)
        submitter, exchange = await enter(config.verifier)
        key = read_key(config.verifier.key)
        meetings = Meetings(board, training.validators, config.tls.files(config.verifier))
        folder = config.store.folder / "openings"  # others' rows, while they come: as for blobs
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        store = BlobStore(folder, OPENINGS_BYTES_MAX)
        replaying = Replaying(board, Bases(exchange), store, meetings.at, _steady_ms)
        verifier = Verifier(
            board,
            submitter,
            exchange,
            rowkeeper,
            approvals,
            config.store.folder,
            secret=lambda parts: key.secret(encode((genesis.chain, *parts))),
            clock_ms=_steady_ms,
            replay=replaying.judge,
        )
        log.info("peer.started", tasks=list(training.listed), approve=training.approve)
        async with asyncio.TaskGroup() as group:
            group.create_task(board.run())
            group.create_task(retention.run(traces, client))
            works = (trainer.work, opener.work, verifier.work, reporter.work)
            group.create_task(attend_all(works, training.listed, finder(config, board), board))


def finder(config: PeerConfig, board: Board) -> Callable[[], Awaitable[Iterable[str]]]:
    """Which tasks to attend to beside the listed ones: that name it, where the site is asked.

    What is found still waits for its approval. Also those that it has approved before: it may have
    withdrawn, and its verifier still keeps the word that it gave.
    """
    asked, trainer = config.training.approve == "ask", config.trainer.id

    async def find() -> Iterable[str]:
        return [
            task.id
            for task in await tasks_of(board, trainer)
            if asked or await board.record(SiteApproval, task.id, _organisation(task, trainer))
        ]

    return find


def _organisation(task: Task, trainer: str) -> str:
    (site,) = (site for site in task.terms.sites if site.trainer == trainer)
    return site.organisation


def _steady_ms() -> int:
    """Milliseconds that no correction of the wall clock changes."""
    return time.monotonic_ns() // 1_000_000
