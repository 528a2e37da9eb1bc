"""The door: a listening socket that lets so many connections in, and shuts out what comes beyond.

A connection is counted from its accept until its socket is closed, so that one counts too whose
TLS handshake never ends and of which no protocol ever hears.
"""

import socket
from datetime import UTC, datetime
from typing import Any

import structlog

from node.wire.gate import Reminders
from node.wire.places import Places, is_loopback, network_of
from vm.refusal import Refused

BACKLOG = 128  # connections that wait to be let in

log = structlog.get_logger()


class Door(socket.socket):
    """Listens in place of `opened`, whose descriptor it takes over.

    Loopback has no share of its own: behind a proxy all readers come from there.
    """

    def __init__(self, opened: socket.socket, places: Places) -> None:
        super().__init__(fileno=opened.detach())
        self._places = places
        self._reminders = Reminders(lambda: datetime.now(UTC))

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is a place for; closes those before it.

        Raises `BlockingIOError` where none waits, as of any socket that does not block.
        """
        for _ in range(BACKLOG):
            connection, peer = super().accept()
            holder = network_of(peer[0])
            try:
                self._places.take(holder, shared=not is_loopback(peer[0]))
            except Refused as refused:
                connection.close()
                if self._reminders.due(refused.code):
                    log.warning(refused.code, port=self.getsockname()[1], reason=refused.message)
            else:
                return _Counted(connection, self._places, holder), peer
        raise BlockingIOError("a crowd was shut out: the loop has its turn before the rest of it")


class _Counted(socket.socket):
    """A connection that gives its place back when it is closed."""

    def __init__(self, opened: socket.socket, places: Places, holder: str) -> None:
        super().__init__(fileno=opened.detach())
        self._places: Places | None = places
        self._holder = holder

    def close(self) -> None:
        """Close it; a second time does nothing."""
        super().close()
        if self._places is not None:
            self._places.leave(self._holder)
            self._places = None
