"""Traitors: validators that share their keys and tell each half of the network another story."""

import random
from collections.abc import Iterator
from dataclasses import replace

from consensus.message import (
    NULL_DIGEST,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PrePrepare,
    SignedPrePrepare,
    Status,
    ViewChange,
    payload_digest,
    signing_digest,
)
from tests.consensus.node import CHAIN, KEYS
from vm.quorum import ValidatorSet

MOODS = ("two-faced", "silent", "dead", "forgetful", "restless", "greedy", "mad")
GREEDY_PROPOSALS = 8  # a full window
GREED_BYTES = (120, 60, 30, 16)  # together one less than the simulator has room for


class Plot:
    """Changes what the traitors' own replicas say, depending on who listens.

    two-faced: proposals, votes and new views differ for each half of the honest. silent: sends
    nothing to one half. dead: sends nothing. forgetful: view changes deny what was prepared.
    restless: asks for the next view all the time. greedy: fills the window with long proposals,
    other ones for each replica, so that they take room and never prepare. mad: now one, now
    another, and also votes for headers that nobody executed.
    """

    def __init__(
        self, validators: ValidatorSet, traitors: list[str], rng: random.Random, mood: str = ""
    ) -> None:
        self.traitors = traitors
        self._rng = rng
        honest = [seat.id for seat in validators.validators if seat.id not in traitors]
        self._other_half = set(rng.sample(honest, len(honest) // 2))
        self._mood = mood or rng.choice(MOODS)
        self._keys = {seat.id: KEYS[i] for i, seat in enumerate(validators.validators)}
        self._variants: dict[tuple[int, int], bytes] = {}  # other digest by view and sequence

    def twist(self, sender: str, receiver: str, envelope: Envelope) -> Iterator[Envelope]:
        """What `receiver` gets of what `sender`'s replica says."""
        if sender not in self.traitors or receiver in self.traitors:
            yield envelope
            return
        mood = self._rng.choice(MOODS[:-1]) if self._mood == "mad" else self._mood
        there = receiver in self._other_half
        if mood == "dead" or (mood == "silent" and there):
            return
        match envelope.body:
            case PrePrepare(view, sequence) if mood == "greedy" and envelope.payload is not None:
                for n in range(sequence, sequence + GREEDY_PROPOSALS):
                    yield self._filling(sender, receiver, PrePrepare(view, n, b""))
            case ViewChange() as body if mood == "forgetful" or there:
                yield self._sign(sender, replace(body, prepared=()))
            case NewView() as body if there and body.pre_prepares:
                yield self._sign(sender, self._bend(sender, body))
            case PrePrepare(view, sequence) as body if there and envelope.payload is not None:
                variant = b"!" + envelope.payload
                self._variants[view, sequence] = payload_digest(variant)
                other = replace(body, digest=payload_digest(variant))
                yield replace(self._sign(sender, other), payload=variant)
            case (Prepare(view, sequence) | Commit(view, sequence)) as body if there:
                digest = self._variants.get((view, sequence), body.digest)
                yield self._sign(sender, replace(body, digest=digest))
                if isinstance(body, Prepare):  # and its commit before anybody has prepared
                    yield self._sign(sender, Commit(view, sequence, digest))
            case Checkpoint() as body if there and self._mood == "mad":
                yield self._sign(sender, replace(body, header=bytes(32)))
            case Status(view, stable=stable) if mood == "restless":
                yield envelope
                yield self._sign(sender, ViewChange(view + 1, stable, ()))
            case _:
                yield envelope

    def _bend(self, sender: str, body: NewView) -> NewView:
        """The same new view with a null request instead of its last proposal."""
        last = body.pre_prepares[-1].message
        bent = replace(last, digest=NULL_DIGEST)
        signature = self._sign(sender, bent).seal
        return replace(
            body, pre_prepares=(*body.pre_prepares[:-1], SignedPrePrepare(bent, signature))
        )

    def _filling(self, sender: str, receiver: str, body: PrePrepare) -> Envelope:
        commas = int(receiver[1:]) + 1
        payload = b"!" * (GREED_BYTES[body.sequence % 4] - commas) + b"," * commas
        filled = replace(body, digest=payload_digest(payload))
        return replace(self._sign(sender, filled), payload=payload)

    def _sign(self, sender: str, body: Body) -> Envelope:
        signature = self._keys[sender].sign(signing_digest(CHAIN, 0, body))
        return Envelope(sender, 0, body, signature, None)
