"""Who comes in at the peer port: members, known by the TLS key that is enrolled on chain.

The consortium's authority keeps strangers out in the handshake. Here the key of each connection is
looked up, for every request, so a revocation on chain needs no restart. The dates of a certificate
only warn.
"""

import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from node.api.problem import problem
from node.wire.cid import CHUNK_BYTES
from node.wire.pki import warn_validity
from node.wire.tls import peer_certificate, peer_spki
from vm.record import Member, Standing
from vm.refusal import Refused

REMINDER = timedelta(minutes=10)  # between two log lines about the same key or peer
REMINDERS_MAX = 1_024  # remembered at one time; past it the oldest is forgotten

MEMBER = web.RequestKey("member", Member)

STATUS = {
    "blob.absent": 404,
    "blob.corrupt": 500,
    "blob.disk_full": 507,
    "blob.forbidden": 403,
    "blob.not_begun": 409,
    "blob.store_full": 507,
    "blob.too_large": 413,
    "opening.busy": 503,
    "opening.closed": 403,
    "opening.commitment": 403,
    "opening.offered": 409,
    "opening.organisation": 404,
    "opening.phase": 409,
    "opening.too_large": 413,
    "opening.trainer": 403,
    "opening.unwanted": 409,
    "opening.verifier": 403,
    "opening.withdrawn": 403,
    "peer.direction": 409,
    "peer.gone": 400,
    "peer.role": 403,
    "peer.standing": 403,
    "peer.stopping": 503,
    "peer.unknown_key": 403,
    "sync.busy": 503,
    "sync.gone": 410,
}

log = structlog.get_logger()


class WrongServer(ssl.SSLCertVerificationError):
    """The server proved to hold a key that we do not speak to; the handshake was broken off."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(1, str(refused))
        self.refused = refused


class Reminders:
    """Says whether a line is due, so that what happens often is logged once per `REMINDER`."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._said: OrderedDict[tuple[object, ...], datetime] = OrderedDict()

    def due(self, *subject: object) -> bool:
        """Whether `subject` was not spoken of lately; from now on it was."""
        now, before = self._now(), self._said.get(subject)
        if before is not None and now - before < REMINDER:
            return False
        self._said[subject] = now
        self._said.move_to_end(subject)
        if len(self._said) > REMINDERS_MAX:
            self._said.popitem(last=False)
        return True


class Gate:
    """Admits connections of enrolled members.

    `identify` finds the member whose `transport` is the given digest in the certified state; `now`
    is the time in UTC.
    """

    def __init__(
        self, identify: Callable[[bytes], Member | None], now: Callable[[], datetime]
    ) -> None:
        self._identify = identify
        self._now = now
        self.reminders = Reminders(now)

    def judge(self, spki: bytes) -> Member:
        """The member with this key; raises `Refused("peer.unknown_key" | "peer.standing")`."""
        member = self._identify(spki)
        if member is None:
            raise Refused(
                "peer.unknown_key",
                f"expected a TLS key enrolled on chain, found one of digest {spki.hex()}",
            )
        if member.standing is not Standing.ENROLLED:
            raise Refused(
                "peer.standing", f"expected {member.id} to be enrolled, found {member.standing}"
            )
        return member

    def admit(self, connection: ssl.SSLObject) -> Member:
        """The member at the other end, as `judge`; says in the log who is refused or warned."""
        spki = peer_spki(connection)
        try:
            member = self.judge(spki)
        except Refused as refused:
            if self.reminders.due(spki, refused.code):
                log.warning("peer.refused", code=refused.code, reason=refused.message)
            raise
        warning = warn_validity(peer_certificate(connection), self._now())
        if warning is not None and self.reminders.due(spki, "dates"):
            log.warning("peer.certificate", peer=member.id, reason=warning)
        return member


def guard(context: ssl.SSLContext, admit: Callable[[ssl.SSLObject], object]) -> None:
    """Have every handshake of a client `context` end by asking `admit` about the server.

    Where that raises `Refused` the connection fails with `WrongServer` before a request is sent.
    """

    class Guarded(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                admit(self)
            except Refused as refused:
                raise WrongServer(refused) from refused

    context.sslobject_class = Guarded


def build_peer_app(gate: Gate, *tables: Iterable[web.RouteDef]) -> web.Application:
    """The peer port's routes behind `gate`, which puts the member into `request[MEMBER]`.

    Errors are problem documents. No request is larger than a chunk of a blob.
    """

    @web.middleware
    async def identified(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            connection = request.get_extra_info("ssl_object")
            if connection is None:
                raise Refused("peer.gone", "expected an open TLS connection, found it closed")
            request[MEMBER] = gate.admit(connection)
            return await handler(request)
        except Refused as refused:
            return problem(STATUS.get(refused.code, 400), refused)
        except web.HTTPException as error:
            return problem(error.status, Refused("http.error", error.text or error.reason))

    app = web.Application(middlewares=[identified], client_max_size=CHUNK_BYTES)
    for table in tables:
        app.add_routes(table)
    return app
