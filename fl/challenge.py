"""What binds a verifier before it knows what it binds itself to, and what it must look at then.

A verifier commits to a secret while updates still come, seals its judgements before it sees
anybody else's, and then reveals both. Which segments it replays follows from its secret, from the
update, and from a seed that nobody knows before submissions have ended: so neither trainer nor
primary can tell what will be looked at, and no verifier can choose it (docs/adr/0019).
"""

from collections.abc import Sequence

from fl.sampling import Stream, permutation
from vm.digest import COMMITMENT, SEAL, SEED, digest
from vm.encoding import encode
from vm.shape import Digest


def commitment(task: str, number: int, verifier: str, secret: Digest) -> Digest:
    """What a verifier says of its secret of a round at first; nobody else can open it."""
    return digest(COMMITMENT, encode((task, number, verifier, secret)))


def seal(
    task: str, number: int, verifier: str, secret: Digest, judgements: Sequence[bytes]
) -> Digest:
    """What it says of its packed judgements before it shows them.

    Their blinds hide them: the secret is open after the reveal, and then a few hundred guesses
    would find a verdict from its digest.
    """
    return digest(SEAL, encode((task, number, verifier, secret, tuple(judgements))))


def round_seed(parent: Digest, task: str, number: int) -> Digest:
    """The seed of a round's challenges, from the header before the block that ends submissions.

    By then every update is on the chain and every secret committed to.
    """
    return digest(SEED, encode((parent, task, number)))


def draw(
    seed: Digest, update: Digest, secret: Digest, segments: int, count: int
) -> tuple[int, ...]:
    """The `count` of an update's segments that the holder of `secret` replays, ascending.

    `update` is the id of the transaction that brought it. All of them if there are no more.
    """
    order = permutation(segments, Stream("challenge", seed, update, secret))
    return tuple(sorted(order[:count]))
