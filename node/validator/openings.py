"""The validator as the meeting point of its own organisation's trainer and others' verifiers.

Training peers take no connection. So a verifier asks the validator of the trainer's organisation
for a piece of the trace; the trainer, who waits there, announces the piece and brings it; from then
on those verifiers who asked for it may read it. What is opened holds rows of patients: it passes
through no other validator, lies in a store of its own and is deleted when the round's judgement
ends, or once the organisation has withdrawn from the task.

Who may ask, and when, follows from the chain. What was asked is kept in memory alone.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from fl.opening import opening_size, part_size, rows_max, rows_opened_max
from fl.rounds import open_tasks
from node.wire.cid import CHUNK_BYTES
from node.wire.openings import Offer, Piece, segment_of
from vm.learning import Commitment, Round, RoundPhase, SiteApproval, Task, Update
from vm.record import Dataset, Member, Model, ModelSpec
from vm.refusal import Refused
from vm.state import State
from vm.terms import Evidence, Terms

OPENING_PHASES = (RoundPhase.VERDICT, RoundPhase.REVEAL, RoundPhase.RERUN)
POLLS_MAX = 4  # of one trainer waiting for one round: one, and those that it lost on the way

_Key: TypeAlias = tuple[str, int]  # task and number of the round


def piece_bytes_max(piece: Piece, spec: ModelSpec, terms: Terms, dataset: Dataset) -> int:
    """The most bytes that a piece of an update has, by what the chain says of its dataset."""
    segment, rows = segment_of(piece), rows_max(dataset)
    if segment is None:
        return part_size(rows, rows)
    columns = len(terms.preprocessing.columns)
    opened = rows_opened_max(terms.training, rows)
    return opening_size(spec, terms.training, segment, opened, columns)


@dataclass(slots=True)
class _Box:
    """One update's: at most a piece for each segment and the part, wanted by each verifier once."""

    trainer: str
    # By which verifiers, and how many others each of them had asked for before.
    wanted: dict[Piece, dict[str, int]] = field(default_factory=dict)
    offers: dict[Piece, Offer] = field(default_factory=dict)
    polls: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake who waits for news."""
        self.changed.set()
        self.changed = asyncio.Event()


class Openings:
    """The mailbox, and custody of what is opened; asks the executed state for every decision."""

    def __init__(
        self,
        state: Callable[[], State],
        validator: str,
        holds: Callable[[str], bool],
        leftover: Iterable[str],
    ) -> None:
        """`validator` is this one's id; `holds` says whether a blob of openings is whole.

        `leftover` are addresses that an earlier run left.
        """
        self._state = state
        self._validator = validator
        self._holds = holds
        self._boxes: dict[_Key, _Box] = {}
        self._leftover = set(leftover)
        self._before = set(self._live())  # rounds that the leftover may belong to
        self._doomed: set[str] = set()

    # The verifier

    def want(
        self, member: Member, task_id: str, number: int, organisation: str, piece: Piece
    ) -> Offer | None:
        """Note that a verifier wants a piece; what the trainer has announced, if it has.

        Raises `Refused("opening.*")`.
        """
        # 1. it is this organisation's trainer that is met here
        if organisation != self._home:
            raise Refused(
                "opening.organisation",
                f"expected an update of {self._home}, whose validator this is, "
                f"found {organisation}",
            )
        # 2. the round is being judged, and its update may be opened
        task, update = self._require_open(task_id, number)
        # 3. the sender verifies for another site of the task
        site = next((site for site in task.terms.sites if site.verifier == member.id), None)
        if site is None or site.organisation == self._home:
            raise Refused(
                "opening.verifier",
                f"expected a verifier of another site of task {task_id}, found {member.id}",
            )
        # 4. it has committed to its secret, else it may not judge
        if self._state().get(Commitment, task_id, number, site.organisation) is None:
            raise Refused(
                "opening.commitment",
                f"expected {member.id} to have committed to a secret in round {number}, found not",
            )
        # 5. the update has such a piece
        segment = segment_of(piece)
        if segment is not None and segment >= update.segments:
            raise Refused(
                "opening.piece", f"expected a segment below {update.segments}, found {segment}"
            )
        box = self._box(update)
        if member.id not in box.wanted.get(piece, ()):
            asked = sum(member.id in askers for askers in box.wanted.values())
            box.wanted.setdefault(piece, {})[member.id] = asked
            box.tell()
        return box.offers.get(piece)

    def offers(self, task_id: str, number: int) -> list[Offer]:
        """All that the trainer has announced in a round."""
        box = self._boxes.get((task_id, number))
        return [] if box is None else list(box.offers.values())

    def may_read(self, member: Member, address: str) -> bool:
        """Whether `member` has asked for a piece that the trainer announced at this address."""
        return any(
            offer.address == address and member.id in box.wanted[piece]
            for box in self._boxes.values()
            for piece, offer in box.offers.items()
        )

    # The trainer

    async def wanted(
        self, member: Member, task_id: str, number: int, wait_s: float
    ) -> tuple[Piece, ...]:
        """Pieces that are wanted and not here, waited for up to `wait_s`.

        Raises `Refused("opening.*")`, also when the round's judgement ends meanwhile, or the site
        withdraws.
        """
        _, update = self._require_trainer(member, task_id, number)
        box = self._box(update)
        if box.polls >= POLLS_MAX:
            raise Refused(
                "opening.busy",
                f"expected at most {POLLS_MAX} polls of {member.id} at a time, found one more",
            )
        box.polls += 1
        try:
            async with asyncio.timeout(wait_s):
                while not (pieces := self._missing(box)):
                    await box.changed.wait()
                    self._require_trainer(member, task_id, number)
        except TimeoutError:
            return ()
        finally:
            box.polls -= 1
        return pieces

    def announce(
        self, member: Member, task_id: str, number: int, piece: Piece, offer: Offer
    ) -> None:
        """Take note of what the trainer will bring; raises `Refused("opening.*")`."""
        # 1. the sender trained the update
        task, update = self._require_trainer(member, task_id, number)
        # 2. somebody asked: nobody stores here what nobody wants
        box = self._boxes.get((task_id, number))
        if box is None or piece not in box.wanted:
            raise Refused(
                "opening.unwanted", "expected a piece that a verifier wants now, found another"
            )
        # 3. it is no larger than such a piece can be
        state = self._state()
        model = state.require(Model, task.terms.model, update.base_version)
        dataset = state.require(Dataset, update.dataset)
        bytes_max = piece_bytes_max(piece, model.spec, task.terms, dataset)
        if offer.bytes > bytes_max:
            raise Refused(
                "opening.too_large", f"expected at most {bytes_max} bytes, found {offer.bytes}"
            )
        # 4. the first stands: every verifier is shown the same
        if box.offers.setdefault(piece, offer) != offer:
            raise Refused(
                "opening.offered",
                f"expected {box.offers[piece].address} again, found {offer.address}",
            )

    def may_write(self, member: Member, address: str, size: int) -> bool:
        """Whether `member` has announced a blob of this address and size, or a chunk of it."""
        return any(
            offer.address == address and (size == offer.bytes or size <= CHUNK_BYTES)
            for box in self._boxes.values()
            if box.trainer == member.id
            for offer in box.offers.values()
        )

    # The chain

    def follow(self) -> None:
        """A block was executed: rounds may have ended, and this site may have withdrawn."""
        for key in [key for key in self._boxes if not self._is_open(*key)]:
            box = self._boxes.pop(key)
            self._doomed.update(offer.address for offer in box.offers.values())
            box.tell()

    def due(self) -> list[str]:
        """Blobs to delete: those of rounds that are not open any more."""
        self._before = {key for key in self._before if self._is_open(*key)}
        if not self._before:
            self._doomed |= self._leftover
            self._leftover = set()
        doomed, self._doomed = self._doomed, set()
        return sorted(doomed - self._offered())

    def _require_open(self, task_id: str, number: int) -> tuple[Task, Update]:
        """The task and our organisation's update, if that may be opened now."""
        state = self._state()
        if not self._is_judged(task_id, number):
            raise Refused(
                "opening.phase", f"expected round {number} of {task_id} under judgement, found not"
            )
        if not self._takes_part(task_id):
            raise Refused(
                "opening.withdrawn",
                f"expected {self._home} to stand by task {task_id}, found that it has withdrawn",
            )
        task = state.require(Task, task_id)
        update = state.get(Update, task_id, number, self._home)
        if (
            update is None
            or update.evidence is not Evidence.REPLAYED
            or not state.require(Dataset, update.dataset).opening
        ):
            raise Refused(
                "opening.closed",
                f"expected an update of {self._home} of class replayed, "
                "whose dataset permits opening, found none",
            )
        return task, update

    def _require_trainer(self, member: Member, task_id: str, number: int) -> tuple[Task, Update]:
        task, update = self._require_open(task_id, number)
        if member.id != update.trainer:
            raise Refused(
                "opening.trainer", f"expected {update.trainer} in task {task_id}, found {member.id}"
            )
        return task, update

    @property
    def _home(self) -> str:
        """The organisation whose validator this is."""
        return self._state().require(Member, self._validator).organisation

    def _is_judged(self, task_id: str, number: int) -> bool:
        rnd = self._state().get(Round, task_id, number)
        return rnd is not None and rnd.phase in OPENING_PHASES

    def _takes_part(self, task_id: str) -> bool:
        """Whether this organisation's approval stands: what its rows are opened on.

        A newcomer that catches up stands at heights where it was no member yet.
        """
        state = self._state()
        own = state.get(Member, self._validator)
        if own is None:
            return False
        found = state.get(SiteApproval, task_id, own.organisation)
        return found is not None and found.stands

    def _is_open(self, task_id: str, number: int) -> bool:
        return self._is_judged(task_id, number) and self._takes_part(task_id)

    def _live(self) -> list[_Key]:
        """Rounds that are open now."""
        state = self._state()
        tasks = [state.require(Task, id) for id in open_tasks(state).tasks]
        return [(task.id, task.round) for task in tasks if self._is_open(task.id, task.round)]

    def _box(self, update: Update) -> _Box:
        return self._boxes.setdefault((update.task, update.round), _Box(update.trainer))

    def _missing(self, box: _Box) -> tuple[Piece, ...]:
        """What is begun, then each verifier's first piece, each one's second, and so on.

        Who asks for all segments so holds up nobody who asks for those that it drew.
        """
        found = [piece for piece in box.wanted if piece not in box.offers]
        found.sort(key=lambda piece: min(box.wanted[piece].values()))
        begun = (piece for piece, offer in box.offers.items() if not self._holds(offer.address))
        return (*begun, *found)

    def _offered(self) -> set[str]:
        return {offer.address for box in self._boxes.values() for offer in box.offers.values()}
