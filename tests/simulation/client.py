"""Clients: they sign once, ask again until they hold a certified receipt, and then are content."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.harness import key_of, organisation
from tests.simulation.shell import Proof
from tests.simulation.signatures import signer
from tests.simulation.world import World
from vm.digest import digest
from vm.genesis import Genesis
from vm.record import Role
from vm.registry import EnrolMember
from vm.shape import pack
from vm.transaction import NONCE_BYTES, Intent, Transaction, transaction_id

RETRY_MS = 150  # until a client asks the next validator
LIFETIME_BLOCKS = 900  # of most transactions: longer than a run
SHORT_LIFETIME_BLOCKS = 6
SHORT_SHARE = 0.05
REPEATED_SHARE = 0.1  # of transactions that enrol somebody who is enrolled: they fail


@dataclass(slots=True)
class Wish:
    """A transaction on its way."""

    sender: str  # its organisation
    packed: bytes
    valid_until_height: int
    patient: bool = True  # so long-lived that it must not expire
    proof: Proof | None = None
    given_up: bool = False

    @property
    def open(self) -> bool:
        """Whether the client still asks."""
        return self.proof is None and not self.given_up


class Clients:
    """All clients of a run. `ask` carries a wish to a validator and its answer back."""

    def __init__(
        self, world: World, genesis: Genesis, organisations: int, ask: Callable[[Wish], None]
    ) -> None:
        self.wishes: list[Wish] = []
        self._world = world
        self._genesis = genesis
        self._organisations = organisations
        self._ask = ask
        self._made = 0

    @property
    def open(self) -> int:
        """How many wishes wait."""
        return sum(wish.open for wish in self.wishes)

    def enrol(self, height: int) -> None:
        """An admin enrols an auditor; sometimes one that is there, or with little time."""
        world = self._world
        self._made += 1
        number = self._made
        if number > 1 and world.chance(REPEATED_SHARE):
            number -= 1
        admin = f"{organisation(world.rng.randint(1, self._organisations))}.admin"
        key = digest("simulation.key.v1", number.to_bytes(8, "big"))
        body = EnrolMember(f"auditor-{number}", Role.AUDITOR, key, None)
        short = world.chance(SHORT_SHARE)
        until = height + (SHORT_LIFETIME_BLOCKS if short else LIFETIME_BLOCKS)
        self.wish(admin, "member.enrol", body, until, patient=not short)

    def wish(
        self,
        sender: str,
        kind: str,
        body: object,
        valid_until_height: int,
        *,
        patient: bool = True,
    ) -> Wish:
        """Sign a transaction and ask for it until it is certified or can no longer be."""
        key, nonce = key_of(sender), len(self.wishes).to_bytes(NONCE_BYTES, "big")
        intent = Intent(
            self._genesis.chain, kind, sender, key.public, pack(body), valid_until_height, nonce
        )
        packed = pack(Transaction(intent, signer(key)(transaction_id(intent))))
        wish = Wish(sender.split(".", maxsplit=1)[0], packed, valid_until_height, patient)
        self.wishes.append(wish)
        self._try(wish)
        return wish

    def _try(self, wish: Wish) -> None:
        if wish.open:
            self._ask(wish)
            self._world.later(RETRY_MS, lambda: self._try(wish))
