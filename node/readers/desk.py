"""The desk: before a request is answered its reader is known, and after it what was shown is noted.

Whoever brings a credential is judged by it alone: one that does not hold is never overlooked in
favour of another, nor of reading without any.
"""

import secrets
import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import ceil

from aiohttp import web

from node.readers.identity import READER, Reader, Roster
from node.readers.log import Logbook
from node.readers.pace import Pace, TooMany
from node.readers.shown import Shown
from node.readers.signature import Message, Nonces, verify
from node.readers.tokens import Tokens
from node.wire.pki import spki_digest
from node.wire.places import network_of
from vm.accesslog import SALT_BYTES, AccessLine, Via
from vm.record import Member
from vm.refusal import Refused

READ_CPU_S = 0.005  # of a processor, that counts as a request: a pace of 100/s is half of one
DEBT_S_MAX = 60  # that reads can make their reader wait: what waits for long is not asked again
BURST_S = 10  # seconds' worth of requests that may come at once
FORGED_NAMES = 4  # at one address: 400 checks a second, by the default pace a tenth of a core
SIGNERS_MAX = 16_384  # addresses and members that are remembered to have signed there
TOKEN_BYTES = 32
BEARER = "Bearer "
ONCE = ("Host", "Authorization", "Signature-Input", "Signature", "Content-Digest")
ADMITTED = web.RequestKey("admitted", Member)  # the reader as the chain had it then


class Desk:
    """Knows readers, counts their requests, and writes down what is restricted.

    `names` are the authorities (host:port) under which clients reach this node; `server` is the
    digest of the TLS key that it shows them, None where it does not end TLS; `now_s` is the time
    in seconds since 1970, `ticks_s` that of a clock that nobody sets.
    """

    def __init__(
        self,
        *,
        public: bool,
        names: Sequence[str],
        server: bytes | None,
        per_s: int,
        roster: Roster,
        logbook: Logbook,
        now_s: Callable[[], float],
        ticks_s: Callable[[], float],
    ) -> None:
        self.public = public
        self.server = server
        self.logbook = logbook
        self._names = frozenset(name.lower() for name in names)
        self._roster = roster
        self._now_s = now_s
        self._ticks_s = ticks_s
        self._started_s = int(now_s())
        self._tokens, self._nonces = Tokens(), Nonces()
        self._readers = Pace(per_s, ceil(per_s * BURST_S))
        self._strangers = Pace(per_s, ceil(per_s * BURST_S))
        self._forgeries = Pace(per_s, ceil(per_s * BURST_S))  # by address and who is claimed to ask
        forged_per_s = per_s * FORGED_NAMES
        self._forgers = Pace(forged_per_s, ceil(forged_per_s * BURST_S))  # by address
        self._signers: OrderedDict[str, None] = OrderedDict()  # address and member, oldest first

    async def admit(self, request: web.Request) -> None:
        """Put the reader into `request[READER]`, if there is one, and count the request.

        Raises `Refused("reader.*" | "body.unwanted")`, `TooMany` among them: whatever takes a body
        says itself who sends it, and does not come by here.
        """
        address = network_of(request.remote or "")
        try:
            found = self._identify(request, address)
        except Refused as refused:
            if not isinstance(refused, TooMany):
                self._count(self._strangers, address, "this address")
            raise
        if found is None:
            self._count(self._strangers, address, "this address")
            if not self.public:
                raise _required("this network's readers are its members")
            return
        member, via = found
        self._count(self._readers, member.id, member.id)
        request[READER] = Reader(member.id, member.role, via)
        request[ADMITTED] = member

    def look_again(self, request: web.Request) -> None:
        """Whether the reader of an answer that goes on may have more of it: nobody, or as it was.

        Raises `Refused("reader.unknown" | "reader.standing" | "reader.expired")`.
        """
        before = request.get(ADMITTED)
        if before is None:
            return
        member = self._roster.member(before.id)
        if (member.public_key, member.transport) != (before.public_key, before.transport):
            raise Refused("reader.expired", f"expected {member.id} with the keys that it came with")

    def spend(self, request: web.Request, cpu_s: float) -> None:
        """Count what a read took as so many requests, or parts of one, come what may.

        Else whoever keeps to the pace with long reads takes all of the node's processor.
        """
        now_s, count = self._ticks_s(), cpu_s / READ_CPU_S
        self._pace_of(request).charge(self._asking(request), count, now_s, DEBT_S_MAX)

    def debt_s(self, request: web.Request) -> float:
        """How long until whoever asks has paid for what its reads took; 0 if it has."""
        return self._pace_of(request).debt_s(self._asking(request), self._ticks_s())

    async def note(self, request: web.Request, shown: Sequence[Shown]) -> None:
        """Return once it is on disk that this reader was shown these.

        Each beyond the first counts as one more request, for each takes room for ever; what was
        read is shown, and the next request waits. Raises `Refused("reader.required")` for a reader
        that nobody knows, and as `Logbook.append` does.
        """
        if not shown:
            return
        reader = request.get(READER)
        if reader is None:
            raise _required(f"a {shown[0].kind} is shown to known readers only")
        if len(shown) > 1:
            count, now_s = len(shown) - 1, self._ticks_s()
            self._readers.charge(reader.member, count, now_s, DEBT_S_MAX)
        time_ms = int(self._now_s() * 1_000)
        await self.logbook.append(
            [
                AccessLine(
                    salt=secrets.token_bytes(SALT_BYTES),
                    time_ms=time_ms,
                    reader=reader.member,
                    via=reader.via,
                    kind=item.kind,
                    subject=item.subject,
                    height=item.height,
                )
                for item in shown
            ]
        )

    def mint(self, request: web.Request) -> tuple[Reader, str]:
        """A token for the reader of a request; raises `Refused("reader.required")`.

        A token mints none: it would live for ever.
        """
        reader = request.get(READER)
        if reader is None or reader.via is Via.TOKEN:
            raise _required("tokens are minted by a signed request or over mutual TLS")
        member = self._roster.member(reader.member)
        secret = secrets.token_urlsafe(TOKEN_BYTES)
        self._tokens.mint(secret, member.id, _key(member, reader.via), self._ticks_s())
        return reader, secret

    def _pace_of(self, request: web.Request) -> Pace:
        return self._readers if READER in request else self._strangers

    def _asking(self, request: web.Request) -> str:
        """Under what name a request is counted."""
        reader = request.get(READER)
        return network_of(request.remote or "") if reader is None else reader.member

    def _identify(self, request: web.Request, address: str) -> tuple[Member, Via] | None:
        if request.body_exists:
            raise Refused("body.unwanted", "expected a request without a body, found one with it")
        headers = request.headers
        for name in ONCE:
            if len(headers.getall(name, ())) > 1:
                raise Refused("reader.signature", f"expected one line of {name}, found several")
        signed = "Signature" in headers or "Signature-Input" in headers
        if signed and "Authorization" in headers:
            raise Refused("reader.signature", "expected a token or a signature, found both")
        if signed:
            return self._by_signature(request, address), Via.SIGNATURE
        if "Authorization" in headers:
            return self._by_token(headers["Authorization"]), Via.TOKEN
        connection = request.get_extra_info("ssl_object")
        der = None if connection is None else _certificate(connection)
        return None if der is None else (self._roster.owner(spki_digest(der)), Via.TLS)

    def _by_signature(self, request: web.Request, address: str) -> Member:
        claimed: list[str] = []  # the member, once a signature is to be checked with its key

        def find(id: str) -> bytes:
            public_key = self._roster.member(id).public_key
            self._check_forged(address, id)  # before it costs time
            claimed.append(id)
            return public_key

        try:
            member = self._signer(request, find)
        except Refused as refused:
            if claimed and not isinstance(refused, TooMany):
                self._forgeries.take(f"{address} {claimed[0]}", self._ticks_s())
                self._forgers.take(address, self._ticks_s())
            raise
        self._signers[f"{address} {member.id}"] = None
        self._signers.move_to_end(f"{address} {member.id}")
        if len(self._signers) > SIGNERS_MAX:
            self._signers.popitem(last=False)
        return member

    def _check_forged(self, address: str, id: str) -> None:
        """Raise `TooMany` if too much was forged at this address, as this member or as any.

        Whatever is forged as others, who has signed there before goes on: behind a proxy all have
        one address.
        """
        who = f"{address} {id}"
        self._check(self._forgeries, who, f"what is signed as {id} at this address")
        if who not in self._signers:
            self._check(self._forgers, address, "what is signed at this address")

    def _signer(self, request: web.Request, find: Callable[[str], bytes]) -> Member:
        if not request.raw_path.startswith("/"):
            raise Refused("reader.signature", "expected a path and query, found another target")
        host = request.headers.get("Host", "")
        if host.lower() not in self._names:  # before it becomes part of a URL, which it could bend
            names = " or ".join(sorted(self._names))
            raise Refused(
                "reader.signature",
                f"expected a request to {names}, found one to {host[:80]!r}: "
                "[http] names lists what this node is reached by",
            )
        url = f"{request.scheme}://{host}{request.raw_path}"
        message = Message(request.method, url, request.headers)
        now_s = self._now_s()
        signed = verify(message, b"", find, now_s, self.server)
        if signed.created_s < self._started_s:  # what was used before a restart is not remembered
            raise Refused("reader.expired", "expected a signature made since this node started")
        self._nonces.take(signed.member, signed.nonce, now_s)
        return self._roster.member(signed.member)

    def _by_token(self, value: str) -> Member:
        if not value.startswith(BEARER):
            raise _required("another scheme than Bearer is not taken")
        grant = self._tokens.find(value.removeprefix(BEARER), self._ticks_s())
        member = self._roster.member(grant.member)
        if grant.key not in (member.public_key, member.transport):
            raise Refused("reader.expired", "expected a token minted with the key of now")
        return member

    def _check(self, pace: Pace, who: str, label: str) -> None:
        """Raise `TooMany` if `who` may not ask now."""
        wait_s = pace.wait_s(who, self._ticks_s())
        if wait_s > 0:
            message = f"expected at most {pace.per_s} requests a second of {label}, found more"
            raise TooMany(wait_s, message)

    def _count(self, pace: Pace, who: str, label: str) -> None:
        self._check(pace, who, label)
        pace.take(who, self._ticks_s())


def _required(why: str) -> Refused:
    return Refused(
        "reader.required",
        f"expected a TLS key, a signed request (RFC 9421) or a token of POST /v1/tokens: {why}",
    )


def _key(member: Member, via: Via) -> bytes:
    """The key by which a member has shown that it is this one."""
    return member.transport or b"" if via is Via.TLS else member.public_key


def _certificate(connection: ssl.SSLObject) -> bytes | None:
    """The certificate of the consortium that a client has shown, if it did."""
    return connection.getpeercert(binary_form=True)
