"""Bearer tokens (RFC 6750): short-lived, of this node alone, and only their digests are kept.

A token stands for the key that it was minted with: once the chain has given the member another, it
is good no more. They live in memory; a restart ends them all.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from hashlib import sha256

from vm.refusal import Refused

TOKEN_S = 600  # long against minting, short against what a lost token may do
TOKENS_MAX = 65_536  # at a time: 16 MiB
TOKENS_OF_MEMBER_MAX = 64  # processes of one member; its oldest gives way to one more


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token stands for: a member, and the key by which it showed that it was this one."""

    member: str
    key: bytes
    until_s: float


class Tokens:
    """The tokens that are good now. Time and chance come in as arguments."""

    def __init__(self, tokens_max: int = TOKENS_MAX) -> None:
        self._tokens_max = tokens_max
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()  # by digest, the oldest first
        self._of: dict[str, deque[bytes]] = {}  # digests by member, the oldest first

    def mint(self, secret: str, member: str, key: bytes, now_s: float) -> None:
        """Let `secret` stand for `member`; raises `Refused("reader.tokens")` for want of room."""
        self._expire(now_s)
        own = self._of.setdefault(member, deque())
        if len(own) >= TOKENS_OF_MEMBER_MAX:
            del self._grants[own.popleft()]
        elif len(self._grants) >= self._tokens_max:
            raise Refused(
                "reader.tokens", f"expected at most {self._tokens_max} tokens, found one more"
            )
        digest = _digest(secret)
        own.append(digest)
        self._grants[digest] = Grant(member, key, now_s + TOKEN_S)

    def find(self, secret: str, now_s: float) -> Grant:
        """What `secret` stands for; raises `Refused("reader.expired")`."""
        grant = self._grants.get(_digest(secret))
        if grant is None or grant.until_s <= now_s:
            raise Refused(
                "reader.expired", "expected a token that this node minted lately, found another"
            )
        return grant

    def _expire(self, now_s: float) -> None:
        while self._grants and next(iter(self._grants.values())).until_s <= now_s:
            _, grant = self._grants.popitem(last=False)
            own = self._of[grant.member]
            own.popleft()
            if not own:
                del self._of[grant.member]


def _digest(secret: str) -> bytes:
    """A digest tells nothing of the token, and takes the same time for every guess."""
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()
