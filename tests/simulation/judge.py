"""What must hold after every event of a simulated run, whatever fails."""

from collections import deque
from collections.abc import Iterator, Sequence

from consensus.event import Broadcast, Certified, Deliver, Effect, Fault, Halt, Persist, Send
from consensus.journal import Entry, Held, Said, Section
from consensus.message import (
    NULL_DIGEST,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    commit_digest,
    payload_digest,
    prepare_digest,
    signing_digest,
    slot_of,
)
from consensus.replica import Replica
from tests.simulation.shell import Proof, Shell
from vm.block import receipts_root
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.epoch import ruling
from vm.evidence import Evidence
from vm.genesis import Genesis, check_genesis
from vm.keys import verify
from vm.quorum import Epoch, ValidatorSet
from vm.statement import Slot, SlotKind, statement_digest

VOTES = (SlotKind.PREPARE, SlotKind.COMMIT)
ITEMS_MAX = 20_000  # in all maps and lists of one replica, whatever its peers do


class Violation(AssertionError):  # noqa: N818 - what a run ends in, not a fault of ours
    """A run broke a promise of the protocol; the message begins with the name of the promise."""


class Judge:
    """Watches the honest validators across crashes and restarts, and what clients hold."""

    def __init__(self, genesis: Genesis, traitors: list[str]) -> None:
        self.chain = genesis.chain
        self.epochs = [check_genesis(genesis)]
        self._window = genesis.window
        self.traitors = traitors
        self.decided: dict[int, bytes] = {}  # payload by height
        self.executed: dict[int, bytes] = {}  # header digest by height
        self.certified = 0  # highest height that an honest validator reported as certified
        self.acknowledged: dict[bytes, int] = {}  # height by transaction, once a client has proof
        self._scheduled: dict[int, Epoch | None] = {}  # by height of the block
        self._signed: dict[tuple[str, int, Slot], bytes] = {}  # by name, epoch and slot
        self._prepared: set[tuple[str, int, int]] = set()  # by name, view and sequence
        self._sections: dict[str, int] = {}  # by name, the epoch that its journal ends in
        self._told: dict[str, int] = {}  # by validator: highest height that it signed
        self._proposed = {NULL_DIGEST}  # by anybody: payloads that may be kept
        self._unproposed: dict[str, bytes] = {}  # by name, a payload just kept that may not be
        self._verified: set[tuple[bytes, tuple[Vote, ...]]] = set()

    def hear(self, envelope: Envelope) -> None:
        """A message is on its way."""
        if isinstance(envelope.body, PrePrepare):
            self._proposed.add(envelope.body.digest)

    def watch(self, shell: Shell, effect: Effect) -> None:
        """Judge one effect of an honest validator, just run."""
        if shell.forgetful:
            raise Violation(f"journal: {shell.name} lacks a promise that others hold")
        self._keeps_what_is_proposed(shell, effect)
        match effect:
            case Broadcast(envelope) | Send(_, envelope):
                self._one_signature(shell, envelope)
            case Persist(entry):
                self._journaled(shell, entry)
            case Deliver():
                self._delivered(shell, effect)
            case Certified(certificate):
                self._certificate(shell, certificate)
            case Fault(evidence):
                self._guilty(shell, evidence)
            case Halt(reason):
                raise Violation(f"halt: {shell.name} stopped: {reason}")

    def _keeps_what_is_proposed(self, shell: Shell, effect: Effect) -> None:
        """Else a traitor fills memory and journal; our own proposal is kept just before it is."""
        unproposed = self._unproposed.pop(shell.name, None)
        match effect:
            case Persist(Said(Envelope(body=PrePrepare(digest=digest)))):
                self._proposed.add(digest)
            case Persist(Held(_, payload)):
                digest = payload_digest(payload)
                if digest not in self._proposed:
                    self._unproposed[shell.name] = digest
        if unproposed is not None and unproposed not in self._proposed:
            raise Violation(f"journal: {shell.name} keeps a payload that nobody has proposed")

    def _journaled(self, shell: Shell, entry: Entry) -> None:
        """What is said stands in the section of its epoch."""
        match entry:
            case Section(number):
                self._sections[shell.name] = number
            case PreparedCertificate():
                self._prepared.add((shell.name, entry.view, entry.sequence))
                self._expect_prepared(shell.name, self._sections[shell.name], entry)
            case Said(envelope):
                if envelope.epoch != self._sections.get(shell.name):
                    raise Violation(f"journal: {shell.name} writes into another epoch's section")
                if isinstance(envelope.body, NewView):
                    self._new_view(shell, envelope.epoch, envelope.body)

    def rotated(self, shell: Shell, entries: Sequence[Entry]) -> None:
        """A fresh journal holds every vote above the stable checkpoint that still binds."""
        replica = shell.replica
        self._sections[shell.name] = replica.epoch.number
        if not replica.voting:
            return
        low = 0 if replica.stable is None else replica.stable.height
        kept = {
            signing_digest(self.chain, entry.envelope.epoch, entry.envelope.body)
            for entry in entries
            if isinstance(entry, Said)
        }
        for (name, epoch, slot), digest in self._signed.items():
            binds = slot.kind in VOTES and slot.view >= replica.view and slot.sequence > low
            ours = name == shell.name and epoch == replica.epoch.number
            if ours and binds and digest not in kept:
                raise Violation(f"journal: {name}'s fresh journal lacks its vote for {slot}")

    def excuse(self, shell: Shell) -> None:
        """Its journal or its store is gone: it need not come back with what it has told of."""
        self._told.pop(shell.name, None)

    def seats(self, height: int) -> ValidatorSet:
        """Who rules this height, as far as it is known."""
        return ruling(self.epochs, height).validators

    def ended(self, shell: Shell) -> None:
        """Its process has ended, perhaps between two steps that belong together."""
        self._unproposed.pop(shell.name, None)

    def restarted(self, shell: Shell) -> None:
        """What a validator has told of is there again after a crash."""
        if shell.forgetful:
            raise Violation(f"journal: {shell.name} has a certificate that its journal lacks")
        height, told = shell.chain.head.height, self._told.get(shell.name, 0)
        if height < told:
            raise Violation(
                f"no rollback: {shell.name} signed height {told}, came back at {height}"
            )

    def acknowledge(self, proof: Proof) -> None:
        """A client takes a certified receipt as the end of its worry."""
        header, certificate = proof.header, proof.certificate
        self._expect_certified("a client", certificate)
        sound = (
            proof.receipt in proof.receipts
            and receipts_root(proof.receipts) == header.receipts
            and certificate.height >= header.height
            and self.executed.get(header.height) == header.digest
            and self.executed.get(certificate.height) == certificate.header
        )
        if not sound:
            raise Violation(f"acknowledged: a client's proof at {header.height} proves nothing")
        self.acknowledged[proof.receipt.transaction] = header.height

    def kept(self, shell: Shell) -> None:
        """At the end: every acknowledged transaction is where it was acknowledged."""
        for transaction, height in self.acknowledged.items():
            place = shell.chain.store.place(transaction)
            if place is None or place.height != height:
                raise Violation(f"acknowledged: {shell.name} lost one of height {height}")

    def bounded(self, shell: Shell) -> None:
        """A replica holds a bounded number of things."""
        items = sum(1 for _ in _items(shell.replica))
        if items > ITEMS_MAX:
            raise Violation(f"memory: {shell.name} holds {items} items")

    def _delivered(self, shell: Shell, effect: Deliver) -> None:
        height, certificate = effect.sequence, effect.certificate
        if self.decided.setdefault(height, effect.payload) != effect.payload:
            raise Violation(f"agreement: {shell.name} delivered other bytes at {height}")
        if certificate.sequence != height:
            raise Violation(f"certificate: {shell.name} delivered {height} by another's votes")
        epoch = ruling(self.epochs, height)
        digest = commit_digest(
            self.chain, epoch.number, certificate.view, height, certificate.digest
        )
        self._verify(shell.name, certificate.votes, digest, epoch.validators)
        header = shell.chain.head.header
        if self.executed.setdefault(height, header) != header:
            raise Violation(f"equal headers: {shell.name} executed another one at {height}")
        self._schedules(shell, height)
        self._names_epochs(shell, height)

    def _new_view(self, shell: Shell, number: int, body: NewView) -> None:
        """A view begins by a quorum of view changes, each signed, and proven by quorums."""
        seats = self.epochs[number].validators
        keys = {seat.id: seat.key for seat in seats.validators if not seat.suspended}
        changes = {change.sender: change for change in body.view_changes}
        sound = all(
            name in keys
            and verify(
                keys[name], signing_digest(self.chain, number, change.message), change.signature
            )
            for name, change in changes.items()
        )
        if not sound or len(changes) < quorum_of(seats):
            raise Violation(
                f"new view: {shell.name} enters {body.view} by {len(changes)}, {sound=}"
            )
        for proof in (proof for change in changes.values() for proof in change.message.prepared):
            self._expect_prepared(shell.name, number, proof)

    def _expect_prepared(self, who: str, number: int, proof: PreparedCertificate) -> None:
        """A quorum of votes for the assignment, the vote of its view's primary among them."""
        seats, view = self.epochs[number].validators, proof.view
        digest = prepare_digest(self.chain, number, view, proof.sequence, proof.digest)
        self._verify(who, proof.votes, digest, seats)
        if all(vote.validator != seats.primary(view).id for vote in proof.votes):
            raise Violation(f"certificate: {who} takes {proof.sequence} for prepared by backups")

    def _names_epochs(self, shell: Shell, height: int) -> None:
        """The header holds the epochs of its height and of the next one."""
        row = shell.chain.store.row(height)
        assert row is not None, "the block was just executed"
        named = (row.header.validators, row.header.next_validators)
        if named != tuple(ruling(self.epochs, n).digest for n in (height, height + 1)):
            raise Violation(f"epochs: {shell.name} names others in its header {height}")

    def _schedules(self, shell: Shell, height: int) -> None:
        epoch = shell.chain.scheduled
        known = height in self._scheduled
        if self._scheduled.setdefault(height, epoch) != epoch:
            raise Violation(f"epochs: {shell.name} schedules another one at {height}")
        if epoch is not None and not known:
            self.epochs.append(epoch)

    def _guilty(self, shell: Shell, evidence: Evidence) -> None:
        faulty = evidence.validator
        if faulty not in self.traitors:
            raise Violation(f"evidence: {shell.name} accuses {faulty}, who is honest")
        seat = self.epochs[evidence.epoch].validators.get(faulty)
        assert seat is not None
        signed = [
            verify(
                seat.key,
                statement_digest(self.chain, evidence.epoch, evidence.slot, said.content),
                said.signature,
            )
            for said in (evidence.first, evidence.second)
        ]
        if evidence.first.content == evidence.second.content or not all(signed):
            raise Violation(f"evidence: {shell.name}'s proof against {faulty} is none")

    def _one_signature(self, shell: Shell, envelope: Envelope) -> None:
        slot = slot_of(envelope.body)
        if envelope.sender != shell.name or slot is None:
            return
        if isinstance(envelope.body, Checkpoint):
            height = envelope.body.height
            self._told[shell.name] = max(height, self._told.get(shell.name, 0))
        self._within_watermarks(shell, envelope)
        self._proven(shell, envelope.body)
        digest = signing_digest(self.chain, envelope.epoch, envelope.body)
        key = (shell.name, envelope.epoch, slot)
        if self._signed.setdefault(key, digest) != digest:
            raise Violation(f"one signature per slot: {shell.name} signed twice for {slot}")

    def _proven(self, shell: Shell, body: Body) -> None:
        """Whoever says that it has prepared keeps the proof: a view change may call for it."""
        if (
            isinstance(body, Commit)
            and (shell.name, body.view, body.sequence) not in self._prepared
        ):
            raise Violation(f"journal: {shell.name} commits {body.sequence} without its proof")

    def _within_watermarks(self, shell: Shell, envelope: Envelope) -> None:
        """Nobody votes more than a window above what is stable here, nor beyond its epoch."""
        body = envelope.body
        if not isinstance(body, PrePrepare | Prepare | Commit):
            return
        stable = shell.replica.stable
        high = (0 if stable is None else stable.height) + self._window
        if body.sequence > high or ruling(self.epochs, body.sequence).number != envelope.epoch:
            raise Violation(
                f"watermarks: {shell.name} votes for {body.sequence} in epoch {envelope.epoch}, "
                f"with {high} as the last height"
            )

    def _certificate(self, shell: Shell, certificate: CheckpointCertificate) -> None:
        height, header = certificate.height, certificate.header
        self._expect_certified(shell.name, certificate)
        if self.executed.get(height) != header:
            raise Violation(f"equal headers: {shell.name} certified another one at {height}")
        self.certified = max(self.certified, height)

    def _expect_certified(self, who: str, certificate: CheckpointCertificate) -> None:
        height = certificate.height
        digest = checkpoint_digest(self.chain, height, certificate.header)
        self._verify(who, certificate.votes, digest, self.seats(height))

    def _verify(
        self, who: str, votes: tuple[Vote, ...], digest: bytes, seats: ValidatorSet
    ) -> None:
        """A quorum of votes by seats that may vote."""
        if (digest, votes) in self._verified:
            return
        keys = {seat.id: seat.key for seat in seats.validators if not seat.suspended}
        voters = {vote.validator for vote in votes}
        sound = all(
            vote.validator in keys and verify(keys[vote.validator], digest, vote.signature)
            for vote in votes
        )
        if not sound or len(voters) < quorum_of(seats):
            raise Violation(f"certificate: {who} accepted {len(voters)} votes, {sound=}")
        self._verified.add((digest, votes))


def quorum_of(seats: ValidatorSet) -> int:
    """Counted here by its definition: the code under test may count wrongly."""
    n = len(seats.validators)
    return -(-(n + (n - 1) // 3 + 1) // 2)


def _items(replica: Replica) -> Iterator[object]:
    """Everything in the containers of a replica's parts, each part once."""
    seen: set[int] = set()
    waiting: list[object] = [replica]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            yield from thing
            waiting.extend(thing.values())
        elif isinstance(thing, list | set | deque):
            yield from thing
            waiting.extend(thing)
        elif type(thing).__module__.startswith("consensus."):
            slots = getattr(thing, "__slots__", ())
            waiting.extend(getattr(thing, name) for name in slots)
            waiting.extend(getattr(thing, "__dict__", {}).values())
