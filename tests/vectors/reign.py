"""Vectors of governance: organisations change who rules a chain, and how that is followed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from tests.harness import key_of
from tests.vectors.ledger import Ledger, blocks
from tests.vectors.spelling import code_of, hexes
from tests.vm.council import (
    admin,
    admission,
    approve,
    propose,
    rotation,
    seating,
    unseating,
    upgrade,
)
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.epoch import epochs
from vm.quorum import Epoch, Validator
from vm.shape import pack
from vm.succession import Step, follow

SIGNERS = {
    key.public: key
    for key in (
        *(key_of(f"hospital-{number}.validator") for number in range(1, 6)),
        key_of("new key of 2"),
    )
}


@cache
def reign() -> Ledger:
    """A fifth organisation comes, a key is rotated, the first leaves, a protocol is scheduled."""
    chain = Ledger()
    chain.applied(
        [
            propose(1, "admit", admission(5)),
            propose(1, "seat", seating(5)),
            propose(2, "rotate", rotation(2)),
            propose(4, "late", upgrade(9), 4),
        ]
    )
    changes = ("admit", "rotate", "seat")
    chain.applied([approve(3, id) for id in changes])
    chain.applied([approve(4, id) for id in changes])  # one epoch of both changes of seats
    chain.applied([propose(5, "out", unseating(1)), propose(3, "version", upgrade())])
    chain.block([approve(4, "late"), approve(4, "nothing"), approve(5, "out"), approve(1, "admit")])
    chain.applied([approve(number, "out") for number in (2, 3, 4)])
    chain.block([approve(1, "version"), propose(1, "more", upgrade())])  # it does not govern now
    chain.applied([approve(number, "version") for number in (2, 4)])
    while chain.height < epochs(chain.state)[-1].first:
        chain.deliver(b"")
    return chain


def certify(chain: Ledger, height: int, seats: Sequence[Validator]) -> CheckpointCertificate:
    """These seats' certificate of the block at `height`."""
    digest = chain.blocks[height].header.digest
    message = checkpoint_digest(chain.genesis.chain, height, digest)
    votes = (Vote(seat.id, SIGNERS[seat.key].sign(message)) for seat in seats)
    return CheckpointCertificate(height, digest, tuple(votes))


def step(chain: Ledger, epoch: Epoch, seats: Sequence[Validator] | None = None) -> Step:
    """The step to an epoch, certified by those who rule until then, or by others."""
    height = epoch.first - 1
    members = chain.epoch_at(height).validators
    signers = members.voters[: members.quorum] if seats is None else seats
    return Step(chain.blocks[height].header, certify(chain, height, signers), epoch)


def governance() -> dict[str, Any]:
    """The chain block by block, and its epochs."""
    chain = reign()
    return {
        "genesis": pack(chain.genesis).hex(),
        "admins": {admin(n): key_of(admin(n)).public.hex() for n in range(1, 6)},
        "blocks": blocks(chain),
        "epochs": hexes(pack(epoch) for epoch in epochs(chain.state)),
    }


def succession() -> dict[str, Any]:
    """The steps from genesis to the newest epoch, and steps that lead nowhere."""
    chain = reign()
    found = epochs(chain.state)
    steps = [step(chain, epoch) for epoch in found[1:]]
    assert follow(chain.genesis, steps) == found
    first, second = steps[:2]
    old, new = chain.epoch.validators, found[1].validators
    attacks = {
        "a set that the header does not name": [replace(first, epoch=second.epoch)],
        "an epoch left out": steps[1:],
        "a step twice": [first, first],
        "less than a quorum of the old set": [step(chain, found[1], old.voters[:2])],
        "a certificate by the new set": [step(chain, found[1], new.voters[:4])],
        "a header inside the epoch": [
            replace(
                first,
                header=chain.blocks[3].header,
                certificate=certify(chain, 3, old.voters),
                epoch=found[0],
            )
        ],
        "another chain's header": [replace(first, header=replace(first.header, chain=bytes(32)))],
    }
    return {
        "genesis": pack(chain.genesis).hex(),
        "steps": hexes(pack(item) for item in steps),
        "refused": [
            {
                "why": why,
                "steps": hexes(pack(item) for item in items),
                "code": code_of(follow, chain.genesis, items),
            }
            for why, items in attacks.items()
        ],
    }
