"""Traitors: validators that share their keys and tell each half of the network another story."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from consensus.message import (
    NULL_DIGEST,
    BlockReply,
    Body,
    Checkpoint,
    Commit,
    CommitCertificate,
    Envelope,
    NewView,
    PayloadReply,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    SignedPrePrepare,
    SignedViewChange,
    Status,
    ViewChange,
    commit_digest,
    is_signed,
    payload_digest,
    prepare_digest,
    signing_digest,
)
from consensus.viewchange import plan
from tests.simulation.signatures import signer
from tests.simulation.world import World
from vm.block import Payload
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.keys import SigningKey
from vm.shape import Digest, pack, unpack
from vm.transaction import NONCE_BYTES, Intent, Transaction, transaction_id

MOODS = (
    "two-faced",
    "silent",
    "dead",
    "forgetful",
    "restless",
    "greedy",
    "lying",
    "stale",
    "slow",
    "censoring",
    "convicted",
    "outdated",
    "hoarding",
    "hasty",
    "hollow",
    "mad",
)
GREEDY_PROPOSALS = 8  # a full window
GREED_BYTES = 40 * 1024  # of one proposal; a window of them is more than the limits allow
SLOW_MS = 250  # just below the view timeout
STALE_KEPT = 64  # old messages to choose from
STALE_SHARE = 0.3
ECHOES = {"convicted": 0, "outdated": 1}  # epochs back, in which honest votes are repeated


class Plot:
    """Changes what the traitors' own replicas say, depending on who listens.

    two-faced: proposals, votes, headers and new views differ for each half of the honest. silent:
    says nothing to one half. dead: says nothing. forgetful: view changes deny what was prepared.
    restless: asks for the next view all the time. greedy: fills the window with long proposals,
    other ones for each validator, so that they take room and never prepare. lying: certificates
    with votes that nobody cast, too few, or one twice. stale: says again what it said long ago.
    slow: holds its proposals back. censoring: proposes nothing of one organisation. convicted:
    signs two headers, and votes on for whatever others vote for when its seat is suspended.
    outdated: votes in the epoch before only. hoarding: proposes to one half only, commits to
    nothing and gives no payload or block away: so what is prepared is missing where a view begins.
    hasty: votes in the next view before it proposes in this one, and claims as prepared what the
    backups alone voted for. hollow: orders empty blocks, one after the other. mad: now one, now
    another.
    """

    def __init__(
        self,
        world: World,
        chain: Digest,
        keys: Mapping[str, SigningKey],
        names: Sequence[str],
        base: Callable[[int], int],
        mood: str = "",
    ) -> None:
        """`keys` are the traitors' own, by name; `names` are all validators'.

        `base(epoch)` is the height before an epoch's first.
        """
        self.traitors = sorted(keys)
        self.mood = mood or world.rng.choice(MOODS)
        honest = [name for name in names if name not in keys]
        self.victim = world.rng.choice(honest or names).split(".")[0]  # of the censoring
        self._world = world
        self._chain = chain
        self._base = base
        self._signs = {name: signer(key) for name, key in keys.items()}
        self._there = frozenset(world.rng.sample(honest, len(honest) // 2))  # one of the halves
        self._variants: dict[tuple[int, int], bytes] = {}  # other digest by view and sequence
        self._all = sorted(names)
        self._past: list[Envelope] = []
        self._prepares: dict[tuple[int, Prepare], dict[str, Vote]] = {}  # by epoch, then by voter
        self._filler = _filler(chain, keys[self.traitors[0]]) if keys else b""

    def twist(
        self, sender: str, receiver: str, envelope: Envelope
    ) -> Iterator[tuple[int, Envelope]]:
        """What `receiver` gets of what `sender`'s replica says, each after a delay in ms."""
        if sender not in self._signs or receiver in self._signs:
            self._collect(envelope)
            yield 0, envelope
            if sender == envelope.sender and receiver not in self._signs:
                yield from self._echo(envelope)
            return
        mood = self._world.rng.choice(MOODS[:-1]) if self.mood == "mad" else self.mood
        there = receiver in self._there
        match mood:
            case "dead":
                return
            case "silent" if there:
                return
            case "hoarding" if isinstance(envelope.body, Commit | PayloadReply | BlockReply):
                return
            case "hoarding" if there and isinstance(envelope.body, PrePrepare):
                return
            case _ if envelope.sender not in self._signs:
                yield 0, envelope  # another's, passed on
            case "two-faced" if there:
                yield from self._other_face(sender, envelope)
            case _:
                yield from self._say(mood, sender, envelope)

    def _say(self, mood: str, sender: str, envelope: Envelope) -> Iterator[tuple[int, Envelope]]:
        """What everybody gets."""
        match mood:
            case "slow" if isinstance(envelope.body, PrePrepare):
                yield SLOW_MS, envelope
            case "forgetful" if isinstance(envelope.body, ViewChange):
                yield 0, self._sign(sender, envelope.epoch, replace(envelope.body, prepared=()))
            case "restless" if isinstance(envelope.body, Status):
                yield 0, envelope
                view, stable = envelope.body.view, envelope.body.stable
                yield 0, self._sign(sender, envelope.epoch, ViewChange(view + 1, stable, ()))
            case "greedy" if isinstance(envelope.body, PrePrepare) and envelope.payload:
                view, first = envelope.body.view, envelope.body.sequence
                for sequence in range(first, first + GREEDY_PROPOSALS):
                    yield 0, self._filling(envelope, view, sequence)
            case "convicted" if isinstance(envelope.body, Checkpoint):
                yield 0, envelope
                other = replace(envelope.body, header=bytes(32))
                yield 0, self._sign(sender, envelope.epoch, other)
            case "convicted":
                yield 0, self._swap_votes(sender, envelope)
            case "hasty":
                yield from self._hasten(sender, envelope)
            case "outdated" if isinstance(envelope.body, Prepare | Commit):
                return
            case "lying":
                yield from self._lies(sender, envelope)
                yield 0, envelope
            case "stale":
                yield 0, envelope
                yield from self._repeat(envelope)
            case _:
                yield 0, envelope

    def draw(self, name: str, drawn: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """What of the drawn transactions a validator proposes."""
        if name not in self._signs or self.mood != "censoring":
            return drawn
        return tuple(
            packed
            for packed in drawn
            if unpack(Transaction, packed).intent.sender.split(".")[0] != self.victim
        )

    def floods(self, name: str) -> bool:
        """Whether a validator proposes blocks that nobody wants."""
        return name in self._signs and self.mood == "hollow"

    def _echo(self, envelope: Envelope) -> Iterator[tuple[int, Envelope]]:
        """The traitors' own votes for what an honest validator votes for."""
        epoch = envelope.epoch - ECHOES.get(self.mood, envelope.epoch + 1)
        if epoch >= 0 and isinstance(envelope.body, Prepare | Commit | Checkpoint):
            for traitor in self.traitors:
                yield 0, self._sign(traitor, epoch, envelope.body)

    def _swap_votes(self, sender: str, envelope: Envelope) -> Envelope:
        """The same certificates, with the sender's vote in the place of another's."""
        match envelope.body:
            case Status(stable=CheckpointCertificate() as stable) as body:
                digest = checkpoint_digest(self._chain, stable.height, stable.header)
                swapped = replace(stable, votes=self._swapped(sender, stable.votes, digest))
                return replace(envelope, body=replace(body, stable=swapped))
            case _:
                return envelope

    def _swapped(self, sender: str, votes: tuple[Vote, ...], digest: Digest) -> tuple[Vote, ...]:
        own = Vote(sender, self._signs[sender](digest))
        others = tuple(vote for vote in votes if vote.validator != sender)
        return tuple(sorted((*others[: len(votes) - 1], own), key=lambda vote: vote.validator))

    def _other_face(self, sender: str, envelope: Envelope) -> Iterator[tuple[int, Envelope]]:
        match envelope.body:
            case ViewChange() as body:
                yield 0, self._sign(sender, envelope.epoch, replace(body, prepared=()))
            case NewView() as body if body.pre_prepares:
                yield 0, self._sign(sender, envelope.epoch, self._bend(envelope, body))
            case PrePrepare(view, sequence) as body if envelope.payload:
                variant = _other_payload(envelope.payload)
                self._variants[view, sequence] = payload_digest(variant)
                other = replace(body, digest=payload_digest(variant))
                yield 0, replace(self._sign(sender, envelope.epoch, other), payload=variant)
            case (Prepare(view, sequence) | Commit(view, sequence)) as body:
                digest = self._variants.get((view, sequence), body.digest)
                yield 0, self._sign(sender, envelope.epoch, replace(body, digest=digest))
                if isinstance(body, Prepare):  # and its commit before anybody has prepared
                    yield 0, self._sign(sender, envelope.epoch, Commit(view, sequence, digest))
            case Checkpoint() as body:
                yield 0, self._sign(sender, envelope.epoch, replace(body, header=bytes(32)))
            case _:
                yield 0, envelope

    def _bend(self, envelope: Envelope, body: NewView) -> NewView:
        """The same new view with a null request instead of its last proposal."""
        last = body.pre_prepares[-1].message
        bent = replace(last, digest=NULL_DIGEST)
        signature = self._sign(envelope.sender, envelope.epoch, bent).seal
        return replace(
            body, pre_prepares=(*body.pre_prepares[:-1], SignedPrePrepare(bent, signature))
        )

    def _lies(self, sender: str, envelope: Envelope) -> Iterator[tuple[int, Envelope]]:
        """Messages whose certificates prove nothing."""
        match envelope.body:
            case Status() as body:
                height = body.executed + 1
                digest = checkpoint_digest(self._chain, height, bytes(32))
                stable = CheckpointCertificate(height, bytes(32), self._votes(digest))
                yield (
                    0,
                    self._sign(
                        sender, envelope.epoch, replace(body, executed=height, stable=stable)
                    ),
                )
            case Prepare(view, sequence):
                proof = self._forge(envelope.epoch, view, sequence)
                yield 0, self._sign(sender, envelope.epoch, ViewChange(view + 1, None, (proof,)))
            case ViewChange(view, stable, prepared):
                numbers = [proof.sequence for proof in prepared] or [_height(stable) + 1]
                proofs = tuple(self._forge(envelope.epoch, view - 1, n) for n in numbers)
                claim = ViewChange(view, stable, proofs)
                yield 0, self._sign(sender, envelope.epoch, claim)
            case PrePrepare() | PayloadReply() if envelope.payload:
                yield 0, replace(envelope, payload=_other_payload(envelope.payload))
            case NewView() as body:
                for changes in (body.view_changes[:2], tuple(map(_deny, body.view_changes))):
                    yield 0, self._sign(sender, envelope.epoch, self._recount(envelope, changes))
            case BlockReply() as body if body.blocks:
                first = body.blocks[0]
                swapped = replace(first, payload=_other_payload(first.payload))
                others = (swapped, *body.blocks[1:])
                yield 0, self._sign(sender, envelope.epoch, replace(body, blocks=others))
                sequence = first.certificate.sequence
                digest = commit_digest(self._chain, envelope.epoch, 0, sequence, NULL_DIGEST)
                forged = CommitCertificate(0, sequence, NULL_DIGEST, self._votes(digest))
                blocks = (replace(first, payload=b"", certificate=forged), *body.blocks[1:])
                yield 0, self._sign(sender, envelope.epoch, replace(body, blocks=blocks))

    def _hasten(self, sender: str, envelope: Envelope) -> Iterator[tuple[int, Envelope]]:
        match envelope.body:
            case PrePrepare(view, sequence, digest):
                yield 0, self._sign(sender, envelope.epoch, Prepare(view + 1, sequence, digest))
                yield 0, envelope
            case ViewChange(prepared=prepared) as body:
                proofs = tuple(self._by_backups(envelope.epoch, proof) for proof in prepared)
                yield 0, self._sign(sender, envelope.epoch, replace(body, prepared=proofs))
            case _:
                yield 0, envelope

    def _collect(self, envelope: Envelope) -> None:
        if isinstance(envelope.body, Prepare) and self.mood == "hasty":
            ballots = self._prepares.setdefault((envelope.epoch, envelope.body), {})
            ballots[envelope.sender] = Vote(envelope.sender, envelope.seal)

    def _by_backups(self, epoch: int, proof: PreparedCertificate) -> PreparedCertificate:
        """As many votes of backups instead, if they were heard."""
        body = Prepare(proof.view, proof.sequence, proof.digest)
        votes = sorted(self._prepares.get((epoch, body), {}).items())[: len(proof.votes)]
        enough = len(votes) == len(proof.votes)
        return replace(proof, votes=tuple(vote for _, vote in votes)) if enough else proof

    def _recount(self, envelope: Envelope, changes: tuple[SignedViewChange, ...]) -> NewView:
        """The new view that would follow from other view changes than those that came."""
        assert isinstance(envelope.body, NewView)
        view, base = envelope.body.view, self._base(envelope.epoch)
        proposals = plan(view, changes, base).proposals
        signed = (
            SignedPrePrepare(item, self._sign(envelope.sender, envelope.epoch, item).seal)
            for item in proposals
        )
        return NewView(view, changes, tuple(signed))

    def _forge(self, epoch: int, view: int, sequence: int) -> PreparedCertificate:
        digest = prepare_digest(self._chain, epoch, view, sequence, NULL_DIGEST)
        return PreparedCertificate(view, sequence, NULL_DIGEST, self._votes(digest))

    def _votes(self, digest: Digest) -> tuple[Vote, ...]:
        """Votes of those who cast none: one traitor's over and over, or by all in its hand."""
        sign = self._signs[self.traitors[0]]
        names = self._world.rng.choice((self.traitors * 20, self.traitors, self._all))
        return tuple(Vote(name, sign(digest)) for name in names)

    def _repeat(self, envelope: Envelope) -> Iterator[tuple[int, Envelope]]:
        if len(self._past) < STALE_KEPT:
            self._past.append(envelope)
        if self._world.chance(STALE_SHARE):
            yield 0, self._world.rng.choice(self._past)

    def _filling(self, envelope: Envelope, view: int, sequence: int) -> Envelope:
        payload = pack(Payload(self._world.rng.randrange(1 << 30), (self._filler,)))
        body = PrePrepare(view, sequence, payload_digest(payload))
        return replace(self._sign(envelope.sender, envelope.epoch, body), payload=payload)

    def _sign(self, sender: str, epoch: int, body: Body) -> Envelope:
        if not is_signed(body):
            return Envelope(sender, epoch, body, None, None)
        signature = self._signs[sender](signing_digest(self._chain, epoch, body))
        return Envelope(sender, epoch, body, signature, None)


def _height(certificate: CheckpointCertificate | None) -> int:
    return 0 if certificate is None else certificate.height


def _deny(change: SignedViewChange) -> SignedViewChange:
    """The view change of one who prepared nothing, with a signature of something else."""
    return replace(change, message=replace(change.message, prepared=()))


def _other_payload(payload: bytes) -> bytes:
    """As good as this one, and another."""
    if not payload:
        return pack(Payload(0, ()))
    proposal = unpack(Payload, payload, len(payload), 10_000)
    return pack(replace(proposal, time_ms=proposal.time_ms + 1))


def _filler(chain: Digest, key: SigningKey) -> bytes:
    """A long transaction of nobody's: sound in form, so backups hold a proposal with it."""
    body, nonce = bytes(GREED_BYTES), bytes(NONCE_BYTES)
    intent = Intent(chain, "member.enrol", "nobody", key.public, body, 500, nonce)
    return pack(Transaction(intent, key.sign(transaction_id(intent))))
