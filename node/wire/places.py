"""Places for what is held a while, as connections are: so many in all, and of one holder."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network

from vm.refusal import Refused

IPV6_BITS = 64  # of an address that count: one subscriber has as many as that leaves


def network_of(remote: str) -> str:
    """What of an address is counted by itself."""
    try:
        address = ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_BITS), strict=False))
    return str(address)


def is_loopback(remote: str) -> bool:
    """Whether an address is of this machine: its programs, or a proxy that stands for many."""
    try:
        return ip_address(remote.partition("%")[0]).is_loopback
    except ValueError:
        return False


class Places:
    """Gives places out while there are some, and none beyond a holder's share.

    `things` says what has them, and `code` is that of a refusal. Of holders are remembered those
    who have a place: never more than there are places.
    """

    def __init__(self, code: str, things: str, places_max: int, share_max: int) -> None:
        self._code = code
        self._things = things
        self._places_max = places_max
        self._share_max = share_max
        self._held = Counter[str]()
        self.taken = 0  # of all holders

    @property
    def holders(self) -> int:
        """How many have one."""
        return len(self._held)

    def take(self, holder: str, *, shared: bool = True) -> None:
        """Give one out; `shared` says whether a share bounds the holder. Raises `Refused(code)`."""
        if shared and self._held[holder] >= self._share_max:
            raise self._refuse(f"{self._share_max} {self._things} of {holder}")
        if self.taken >= self._places_max:
            raise self._refuse(f"{self._places_max} {self._things}")
        self._held[holder] += 1
        self.taken += 1

    def leave(self, holder: str) -> None:
        """Take one back."""
        self.taken -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]

    @contextmanager
    def place(self, holder: str) -> Iterator[None]:
        """Hold one while the block runs; raises `Refused(code)`."""
        self.take(holder)
        try:
            yield
        finally:
            self.leave(holder)

    def _refuse(self, bound: str) -> Refused:
        return Refused(self._code, f"expected at most {bound} at one time, found one more")
