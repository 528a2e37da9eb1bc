"""Which blobs the chain's records name, who may read them, and when they must go.

An update goes only to the task's verifiers and to validators, after submissions have ended, so
that no trainer can copy another's; it is deleted once the task's retention is over. A model's
weights are for every enrolled member, and so is the state of a server's optimizer, which follows
from them; it is deleted with the updates of its round, but not before another takes its place.

Whoever may send a transaction may name any address in it, and addresses are known early. So a
blob is what its own header says: an update file names its origin (`fl.weights`), and a record that
names the file of another origin gives no rights to it, closes, opens and deletes nothing. A steward
who registers a rival's update as a model does not open it; a trainer who submits the base model or
another's update does not close or delete it. A blob that is not here gives no rights here.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fl.rounds import open_tasks
from fl.spec import PARAMETERS_MAX
from fl.submit import EVIDENCE_ORDER
from fl.trace import origin, origin_digest, segments_due
from fl.weights import update_size
from node.validator.chain import Chain
from node.validator.store import BlockRow
from node.wire.cid import CHUNK_BYTES
from vm.encoding import decode
from vm.learning import Round, RoundPhase, Task, TaskPhase, Update
from vm.record import Member, Model, Role, Standing
from vm.shape import Digest, unpack
from vm.sparse import VALUE_BYTES_MAX

UPDATES_MAX = 100_000  # update blobs under custody at one time; the oldest is dropped past that
STATE_PAUSE_MS = 60_000  # before a server's state that a round still needs is looked at again
BROUGHT_MAX = 8  # newest blobs of one member; past that the oldest goes unless a record keeps it
MODEL_BYTES_MAX = 4 * PARAMETERS_MAX + 64 * 1024  # int32 weights and a header

_UpdateKey: TypeAlias = tuple[str, Digest]  # blob and origin


@dataclass(frozen=True, slots=True, order=True)
class _Held:
    """The round that decides who reads an update's blob."""

    task: str
    round: int


class Custody:
    """Follows the executed chain; asks the state again for every decision."""

    def __init__(self, chain: Chain, origin_of: Callable[[str], Digest | None]) -> None:
        """`origin_of` gives what `fl.weights.read_origin` finds in a blob that is held here."""
        self._chain = chain
        self._origin_of = origin_of
        self._models: set[str] = set()  # addresses that models' records name
        self._updates: OrderedDict[_UpdateKey, _Held] = OrderedDict()
        self._of_round: dict[_Held, dict[_UpdateKey, None]] = {}
        self._states: set[str] = set()  # addresses of servers' states that closed rounds name
        self._ended: list[tuple[int, _Held]] = []  # heap: when a round's retention is over, in ms
        self._brought: dict[str, OrderedDict[str, None]] = {}
        self._dropped: list[str] = []
        for key in chain.store.keys(Model.KIND, (), 2):
            self._note(key)
        self._recall()

    def follow(self, row: BlockRow) -> None:
        """Take in what an executed block wrote."""
        for key in row.writes:
            self._note(key)

    def may_read(self, member: Member, address: str) -> bool:
        """Whether `member` may have the blob now."""
        if member.standing is not Standing.ENROLLED:
            return False
        if self._is_model(address):
            return True
        held = self._held(address)
        if held is None:
            return False
        state = self._chain.state()
        if state.require(Round, held.task, held.round).phase is RoundPhase.SUBMIT:
            return False
        sites = state.require(Task, held.task).terms.sites
        return member.role is Role.VALIDATOR or any(site.verifier == member.id for site in sites)

    def may_write(self, member: Member, address: str, size: int) -> bool:
        """Whether `member` may bring a blob: it comes before the transaction that names it.

        A chunk is taken of a blob whose whole size was right when its root came.
        """
        if member.standing is not Standing.ENROLLED:
            return False
        named = self.names(address)
        if not self._fits(member, size) and not self._judged(member, address, size):
            begun = address in self._brought.get(member.id, ())
            return size <= CHUNK_BYTES and (begun or (named and member.role is Role.TRAINER))
        if named:
            return True
        brought = self._brought.setdefault(member.id, OrderedDict())
        brought[address] = None
        if len(brought) > BROUGHT_MAX:
            self._dropped.append(brought.popitem(last=False)[0])
        return True

    def names(self, address: str) -> bool:
        """Whether a record of the blob's own origin names it and its time is not over."""
        return self._is_model(address) or self._held(address) is not None

    def _fits(self, member: Member, size: int) -> bool:
        """A steward brings models, a trainer brings updates of the size that its task asks."""
        if member.role is Role.STEWARD:
            return size <= MODEL_BYTES_MAX
        if member.role is not Role.TRAINER:
            return False
        state = self._chain.state()
        for id in open_tasks(state).tasks:
            terms = state.require(Task, id).terms
            if not any(site.trainer == member.id for site in terms.sites):
                continue
            model = state.require(Model, terms.model, 0)
            taken = EVIDENCE_ORDER[EVIDENCE_ORDER.index(terms.evidence) :]
            for segments in {segments_due(terms.training, evidence) for evidence in taken}:
                if size == update_size(model.spec, model.grid_bits, segments):
                    return True
        return False

    def _judged(self, member: Member, address: str, size: int) -> bool:
        """A verifier brings the update that it passes, lest its trainer's validator hold it back.

        What the records say is enough to take it; rights to it follow from its header, as always.
        """
        if member.role is not Role.VERIFIER:
            return False
        state = self._chain.state()
        for id in open_tasks(state).tasks:
            task = state.require(Task, id)
            rnd = state.require(Round, id, task.round)
            if rnd.phase is RoundPhase.SUBMIT:
                continue
            if not any(site.verifier == member.id for site in task.terms.sites):
                continue
            for site in task.terms.sites:
                update = state.get(Update, id, rnd.number, site.organisation)
                if update is not None and (update.blob, update.blob_bytes) == (address, size):
                    return True
        return False

    def due(self, time_ms: int) -> list[str]:
        """Blobs to delete at `time_ms`: updates whose retention is over, and what nobody named."""
        gone: list[str] = []
        later: list[tuple[int, _Held]] = []
        while self._ended and self._ended[0][0] <= time_ms:
            _, ended = heapq.heappop(self._ended)
            for key in list(self._of_round.get(ended, ())):
                address, found = key
                self._forget(key)
                if self._origin_of(address) == found:  # else the file is another's
                    gone.append(address)
            address = self._state_of(ended)
            if address in self._states and self._is_needed(ended.task, address):
                later.append((time_ms + STATE_PAUSE_MS, ended))
            elif address in self._states:
                self._states.remove(address)
                if not self.names(address):
                    gone.append(address)
        for item in later:
            heapq.heappush(self._ended, item)
        dropped, self._dropped = self._dropped, []
        return gone + [address for address in dropped if not self._wanted(address)]

    def _wanted(self, address: str) -> bool:
        """Whether the blob is named, or was brought again since it was dropped."""
        return self.names(address) or any(address in items for items in self._brought.values())

    def _is_model(self, address: str) -> bool:
        """Whether a model's or a server's state is named so, and it is no update by its header."""
        named = address in self._models or address in self._states
        return named and self._origin_of(address) is None

    def _state_of(self, held: _Held) -> str:
        """The address of the server's state that a closed round ended in; "" of one without.

        A quorum of attestations is equal, so that what others name, in error or in bad faith, is
        never the most frequent.
        """
        rnd = self._chain.state().require(Round, held.task, held.round)
        if rnd.phase is not RoundPhase.CLOSED:
            return ""
        results = Counter((one.result, one.result_bytes, one.state) for one in rnd.attestations)
        state = max(results, key=lambda result: results[result])[2]
        return "" if state is None else state.address

    def _is_needed(self, task: str, address: str) -> bool:
        """Whether the next round of a task begins with this state of its server's optimizer."""
        found = self._chain.state().require(Task, task)
        newest = None if found.server is None else found.server.address
        return found.phase is TaskPhase.OPEN and newest == address

    def _held(self, address: str) -> _Held | None:
        """The round of the update whose file this is, if its record names the blob."""
        found = self._origin_of(address)
        return None if found is None else self._updates.get((address, found))

    def _recall(self) -> None:
        """Take in the updates of the past, oldest first; not what is gone already."""
        now_ms = self._chain.head.time_ms
        due_ms: dict[_Held, int | None] = {}
        found: list[tuple[int, _UpdateKey, _Held]] = []
        for name in self._chain.store.keys(Update.KIND, (), 3):
            update = unpack(Update, self._read(name), VALUE_BYTES_MAX)
            key, held = _claim(update)
            if held not in due_ms:
                due_ms[held] = self._due_ms(held)
            due = due_ms[held]
            if due is None or due > now_ms or self._origin_of(update.blob) == key[1]:
                found.append((update.height, key, held))
        self._ended = [(due, held) for held, due in due_ms.items() if due is not None]
        heapq.heapify(self._ended)
        self._states = {address for held in due_ms if (address := self._state_of(held))}
        for _, key, held in sorted(found):
            self._hold(key, held)

    def _due_ms(self, held: _Held) -> int | None:
        """When the retention of a round's updates is over; None while the round goes on."""
        state = self._chain.state()
        rnd = state.require(Round, held.task, held.round)
        if rnd.phase not in (RoundPhase.CLOSED, RoundPhase.FAILED):
            return None
        return rnd.deadline_ms + state.require(Task, held.task).terms.retention_ms

    def _note(self, key: bytes) -> None:
        match decode(key):
            case (Model.KIND, *_):
                self._models.add(unpack(Model, self._read(key), VALUE_BYTES_MAX).weights)
            case (Update.KIND, *_):
                claimed, held = _claim(unpack(Update, self._read(key), VALUE_BYTES_MAX))
                due = self._due_ms(held)
                # An audit writes the record again, maybe long after its blob has gone.
                if due is None or due > self._chain.head.time_ms:
                    self._hold(claimed, held)
            case (Round.KIND, str(task), int(number)):
                held = _Held(task, number)
                due_ms = self._due_ms(held)
                if address := self._state_of(held):
                    self._states.add(address)
                if due_ms is not None:
                    heapq.heappush(self._ended, (due_ms, held))

    def _read(self, key: bytes) -> bytes:
        data = self._chain.store.read(self._chain.head.root, key)
        assert data is not None, "a key that a block wrote has a value"
        return data

    def _hold(self, key: _UpdateKey, held: _Held) -> None:
        self._updates[key] = held
        self._of_round.setdefault(held, {})[key] = None
        if len(self._updates) > UPDATES_MAX:
            oldest = next(iter(self._updates))
            self._forget(oldest)
            self._dropped.append(oldest[0])

    def _forget(self, key: _UpdateKey) -> None:
        """The update is no longer under custody."""
        held = self._updates.pop(key)
        others = self._of_round[held]
        del others[key]
        if not others:
            del self._of_round[held]


def _claim(update: Update) -> tuple[_UpdateKey, _Held]:
    """The blob and origin that a record names, and the round that it stands in."""
    return (update.blob, origin_digest(origin(update))), _Held(update.task, update.round)
