"""Hospitals with made-up patients, their peers' parts, and a chain that answers at once."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from fl.dataset import leaves
from fl.spec import logistic_regression
from fl.train import train
from fl.verify import Judgement
from fl.weights import pack_weights
from node.client.board import Board
from node.client.submitter import Submitter
from node.peer.approval import Approvals, Mode
from node.peer.bases import Bases
from node.peer.drawer import Drawer
from node.peer.report import Report
from node.peer.reporter import Reporter
from node.peer.rowkeeper import Rowkeeper
from node.peer.site import LocalData, load_data
from node.peer.traces import TraceStore
from node.peer.trainer import Trainer
from node.peer.training import Local, Train, Training
from node.peer.verifier import Verifier
from node.program import program
from node.wire.cid import summarise
from node.wire.exchange import Exchange
from tests.fl.dialogue import (
    TASK,
    TERMS,
    approvals,
    dataset,
    model,
    opening,
    secret,
)
from tests.harness import Chain, organisation
from vm.block import Result
from vm.learning import Decision
from vm.refusal import Refused
from vm.state import Record
from vm.terms import Preprocessing
from vm.tree import root

ROWS = 120
SECRET = bytes(range(32))
BASE = pack_weights(logistic_regression(2), 24, np.zeros(3, np.int64))
BASE_ADDRESS, _ = summarise([BASE])
TRACES_BYTES = 1_000_000
PATIENT = "patient-4711"  # an identifier in the source's tables: it must never get out


def table(number: int) -> str:
    """The CSV of hospital `number`: the older more often give birth early."""
    chance = random.Random(number)
    lines = ["Name,Age,Smoker,Preterm"]
    for _ in range(ROWS):
        age = chance.randint(18, 45)
        early = chance.random() < (age - 15) / 40
        smoker = chance.choice(("No", "Yes"))
        lines.append(f"{PATIENT},{age},{smoker},{'yes' if early else 'no'}")
    return "\n".join(lines) + "\n"


async def not_opened(*_: object) -> Judgement:
    """What a verifier finds that gets no openings."""
    return Judgement(Decision.ABSTAIN, "replay.not_opened", "expected segments, found none")


def told(number: int, parts: tuple[str | int | bytes, ...]) -> bytes:
    """The secret of hospital `number`'s verifier, or what blinds a judgement of it."""
    match parts:
        case (_, int(round_number)):
            return secret(number, round_number)
        case _:
            return hashlib.sha256(repr((number, *parts)).encode()).digest()


@dataclass
class Town:
    """Four hospitals, their chain and the blobs that validators hold."""

    folder: Path
    scores_max: int = 1_000  # of each dataset
    chain: Chain = field(init=False)
    blobs: dict[str, bytes] = field(default_factory=lambda: {BASE_ADDRESS: BASE})
    time_ms: int = 0
    loads: int = 0
    brought: list[str] = field(default_factory=list)
    refusing: set[str] = field(default_factory=set)  # addresses that too few validators take
    forgotten: list[str] = field(default_factory=list)
    submitted: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.chain = Chain(program())
        for number in (1, 2, 3, 4):
            self.path(number).write_text(table(number))
        self.chain.applied(
            [
                *(dataset(n, root=self._root(n), scores_max=self.scores_max) for n in (1, 2, 3, 4)),
                model(weights=BASE_ADDRESS, weights_bytes=len(BASE)),
            ]
        )

    def open(self, **changes: Any) -> None:
        """Open the task, which all sites approve."""
        self.chain.applied([opening(**changes), *approvals(**changes)])

    def path(self, number: int) -> Path:
        """Hospital `number`'s data."""
        return self.folder / f"hospital-{number}.csv"

    def _root(self, number: int) -> bytes:
        data = load_data(self.path(number), TERMS.preprocessing, SECRET)
        return root(leaves(data.table, SECRET))

    def _rowkeeper(self, number: int) -> Rowkeeper:
        def load(preprocessing: Preprocessing) -> LocalData:
            self.loads += 1
            return load_data(self.path(number), preprocessing, SECRET)

        return Rowkeeper(load)

    def trainer(
        self,
        number: int,
        *,
        opening: bool = False,
        train: Train = train,
        on_stage: Any = None,
        own: Training | None = None,
        mode: Mode = "list",
    ) -> Trainer:
        """Hospital `number`'s trainer, as after a restart."""
        submitter, exchange = self._parts(f"{organisation(number)}.trainer")
        keeper, approvals = self._rowkeeper(number), self.approvals(number, mode)
        traces = self.traces(number)
        training = own or Local(traces, train, on_stage)
        bases = Bases(exchange)
        return Trainer(
            self.board(),
            submitter,
            exchange,
            bases,
            keeper,
            approvals,
            lambda task: training,
            traces,
            opening=opening,
        )

    def reporter(self, number: int) -> Reporter:
        """Hospital `number`'s reporter, as after a restart."""
        trainer = f"{organisation(number)}.trainer"
        _, exchange = self._parts(trainer)
        keeper, approvals = self._rowkeeper(number), self.approvals(number)
        bases, traces, report = Bases(exchange), self.traces(number), self.report(number)
        return Reporter(self.board(), trainer, bases, keeper, approvals, traces, report)

    def report(self, number: int) -> Report:
        """Hospital `number`'s own record of its rounds."""
        return Report(self.folder / organisation(number))

    def traces(self, number: int) -> TraceStore:
        """What hospital `number` kept of its training."""
        return TraceStore(self.folder / organisation(number), TRACES_BYTES)

    def verifier(self, number: int, **options: Any) -> Verifier:
        """Hospital `number`'s verifier, as after a restart."""
        submitter, exchange = self._parts(f"{organisation(number)}.verifier")
        keeper, approvals = self._rowkeeper(number), self.approvals(number)
        return Verifier(
            self.board(),
            submitter,
            exchange,
            keeper,
            approvals,
            self.folder / organisation(number),
            secret=lambda parts: told(number, parts),
            clock_ms=lambda: self.time_ms,
            **({"replay": not_opened} | options),
        )

    def drawer(self, number: int) -> Drawer:
        """Where hospital `number`'s verifier keeps what it has sealed."""
        return Drawer(self.folder / organisation(number))

    def approvals(
        self, number: int, mode: Mode = "list", listed: Mapping[str, bytes | None] | None = None
    ) -> Approvals:
        """What hospital `number` has approved: by its list, unless another is given."""
        folder = self.folder / organisation(number)
        return Approvals(
            folder, mode, dict.fromkeys((TASK, "another")) if listed is None else listed
        )

    def _parts(self, member: str) -> tuple[Submitter, Exchange]:
        return cast(Submitter, _Pen(self, member)), cast(Exchange, _Shelf(self))

    def board(self) -> Board:
        """What the executed chain has."""
        return cast(Board, _Reader(self))


@dataclass
class _Reader:
    """Reads the executed chain as a board reads a certified one."""

    town: Town

    @property
    def client(self) -> "_Reader":
        return self

    @property
    def count(self) -> int:
        return self.town.chain.height

    async def wait(self, seen: int) -> None:
        await asyncio.sleep(0)

    async def record(self, cls: type[Record], *key: str | int) -> Record | None:
        return self.town.chain.state.get(cls, *key)

    async def together(
        self, asked: Sequence[tuple[type[Record], tuple[str | int, ...]]]
    ) -> tuple[list[Record | None], None]:
        return [await self.record(cls, *key) for cls, key in asked], None

    async def records(self, cls: type[Record], *prefix: str | int) -> AsyncIterator[Record]:
        """A lying node's list, which leaves out whatever it likes."""
        nothing: tuple[Record, ...] = ()
        for record in nothing:
            yield record


@dataclass
class _Pen:
    """Submits into a block of its own."""

    town: Town
    member: str

    @property
    def client(self) -> _Reader:
        return _Reader(self.town)

    async def submit(self, kind: str, body: object) -> object:
        self.town.submitted.append(body)
        self.town.chain.block([(self.member, kind, body)])
        (receipt,) = self.town.chain.receipts
        if receipt.result is not Result.APPLIED:
            raise Refused(receipt.code, "")
        return receipt


@dataclass
class _Shelf:
    """Brings and fetches blobs."""

    town: Town

    async def bring(self, content: bytes) -> str:
        address, _ = summarise([content])
        if address in self.town.refusing:
            raise Refused("blob.too_few_copies", "expected 2 validators to take it, found 1")
        self.town.brought.append(address)
        self.town.blobs[address] = content
        return address

    async def fetch(self, address: str, size: int) -> bytes:
        found = self.town.blobs.get(address)
        if found is None:
            raise Refused("blob.unavailable", f"expected {address}, found nothing")
        assert len(found) == size
        return found

    async def forget(self, address: str) -> None:
        self.town.forgotten.append(address)
