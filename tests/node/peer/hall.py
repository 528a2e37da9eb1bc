"""Where the hospitals of a town meet: a validator's mailbox without a network, and who uses it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, cast

from fl.train import train
from fl.verify import Judgement
from node.client.board import Board
from node.peer.bases import Bases
from node.peer.opening import Opener
from node.peer.replaying import Replaying
from node.peer.site import LocalData, load_data
from node.peer.stage import Stage
from node.peer.training import Train
from node.wire.blobs import BlobStore
from node.wire.openings import Pending, Piece, Rendezvous
from tests.fl.dialogue import TASK
from tests.harness import organisation
from tests.node.hospital import SECRET, Town, _Reader
from tests.node.peer.looks import committed, phase, run
from vm.learning import Round, RoundPhase, Task, Update
from vm.record import Model
from vm.refusal import Refused
from vm.terms import Evidence, Preprocessing, Replay

STORE_BYTES = 2**24
TERMS: dict[str, Any] = {"evidence": Evidence.REPLAYED, "replay": Replay(2, 0, 0)}
Door = Callable[[Piece, bytes], bytes | Pending]  # what the validator gives for what it has


@dataclass
class Hall:
    """The first hospital's validator, as the round's one meeting point.

    `door` may hold back what was opened, or give something else. When a verifier finds nothing the
    trainer takes a look, unless it is `away`.
    """

    town: Town
    wanted_pieces: list[Piece] = field(default_factory=list)
    opened: dict[Piece, bytes] = field(default_factory=dict)
    asked: list[Piece] = field(default_factory=list)
    door: Door = lambda piece, content: content
    away: bool = False
    opening: bool = True
    refusal: Refused | None = None  # of whoever comes
    now_ms: int = 0
    past_ms: int = 0  # of the phase, by the chain

    def clock_ms(self) -> int:
        """Steady: each reading is ten milliseconds after the one before."""
        self.now_ms += 10
        return self.now_ms

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def wanted(self, task: str, number: int) -> tuple[Piece, ...]:
        """What is asked for and not here; nothing more ends the trainer's look."""
        pieces = tuple(piece for piece in self.wanted_pieces if piece not in self.opened)
        if not pieces:
            raise Refused("test.idle", "expected a verifier that asks, found none")
        return pieces

    async def open(self, task: str, number: int, piece: Piece, content: bytes) -> None:
        """Take what the trainer brings."""
        self.opened[piece] = content

    async def take(
        self,
        task: str,
        number: int,
        organisation: str,
        piece: Piece,
        store: BlobStore,
        bytes_max: int,
    ) -> bytes | Pending:
        """Give what is here."""
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(piece)
        if piece not in self.opened:
            if piece not in self.wanted_pieces:
                self.wanted_pieces.append(piece)
            if self.away:
                return Pending(0)
            await self.answer()
        found = self.door(piece, self.opened[piece])
        if not isinstance(found, Pending) and len(found) > bytes_max:
            raise Refused("blob.too_large", f"expected {bytes_max} bytes, found {len(found)}")
        return found

    async def answer(self) -> None:
        """The trainer brings what is wanted."""
        try:
            await self.opener().work(TASK)
        except Refused as refused:
            if refused.code != "test.idle":
                raise

    # Who comes

    async def meet(self, organisation: str) -> Rendezvous:
        """The same hall for all."""
        return cast(Rendezvous, self)

    def opener(self, number: int = 1) -> Opener:
        """A hospital's trainer, ready to open."""
        trainer = f"{organisation(number)}.trainer"
        _, exchange = self.town._parts(trainer)

        def load(preprocessing: Preprocessing) -> LocalData:
            return load_data(self.town.path(number), preprocessing, SECRET)

        return Opener(
            self.town.board(),
            trainer,
            Bases(exchange),
            load,
            self.town.approvals(number),
            self.town.traces(number),
            self.meet,
            opening=self.opening,
        )

    def replaying(self, number: int = 2) -> Replaying:
        """A hospital's verifier, ready to replay."""
        _, exchange = self.town._parts(f"{organisation(number)}.verifier")
        store = BlobStore(self.town.folder / f"openings-{number}", STORE_BYTES)
        board = cast(Board, Timed(self.town, self.past_ms))
        return Replaying(board, Bases(exchange), store, self.meet, self.clock_ms)

    def update(self, number: int = 1) -> Update:
        """A hospital's update of the first round."""
        return self.town.chain.get(Update, TASK, 1, organisation(number))

    def stage(self) -> Stage:
        """The first round as it stands."""
        task, rnd = self.town.chain.get(Task, TASK), self.town.chain.get(Round, TASK, 1)
        return Stage(task, rnd, self.town.chain.get(Model, task.terms.model, 0))

    async def judge(
        self,
        *segments: int,
        suspect: Callable[[Any], str | None] | None = None,
    ) -> Judgement | None:
        """Hospital 2 replays segments of hospital 1's update."""
        update = self.update()
        blob = self.town.blobs[update.blob]
        return await self.replaying().judge(self.stage(), update, blob, segments, suspect)


@dataclass
class Timed(_Reader):
    """A reader that knows the chain's time."""

    past_ms: int

    @property
    def client(self) -> "Timed":
        """The board's client."""
        return self

    async def header(self) -> SimpleNamespace:
        """As much of the newest header as is asked for."""
        return SimpleNamespace(time_ms=self.town.chain.time_ms + self.past_ms)


def judged(folder: Path, **trains: Train) -> Hall:
    """A round of class replayed under judgement; `first` may train hospital 1's update."""
    town = Town(folder)
    town.open(**TERMS)
    committed(town)
    for number in (1, 2, 3, 4):
        how = trains.get("first", train) if number == 1 else train
        run(town.trainer(number, opening=True, train=how).work(TASK))
    assert phase(town) is RoundPhase.VERDICT
    return Hall(town)
