"""Members with real certificates, for tests over real sockets."""

import socket
import weakref
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives.serialization import Encoding

from node.wire.gate import Gate
from node.wire.pki import (
    AUTHORITY_DAYS,
    LOCAL_HOSTS,
    create_authority,
    issue,
    spki_digest,
    write_credential,
)
from node.wire.tls import TlsFiles, client_context
from vm.record import Member, Role, Standing

HOST = "127.0.0.1"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=2 * AUTHORITY_DAYS)


@dataclass(frozen=True, slots=True)
class Party:
    """One who holds a certificate, enrolled or not, and a port of its own."""

    id: str
    files: TlsFiles
    spki: bytes
    port: int

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://{HOST}:{self.port}"


class Consortium:
    """An authority, the members that it vouches for, and a clock that tests may turn."""

    def __init__(self, folder: Path, issued: datetime = NOW) -> None:
        folder.mkdir()
        self._folder = folder
        self._issued = issued
        self._authority = create_authority("testnet", issued)
        self.members: dict[bytes, Member] = {}
        self.time = NOW

    def certify(self, name: str) -> Party:
        """Give out a certificate without enrolling its key."""
        home = self._folder / f"{name}-{len(list(self._folder.iterdir()))}"
        home.mkdir()
        credential = issue(
            self._authority, member=name, organisation="h", hosts=LOCAL_HOSTS, now=self._issued
        )
        files = TlsFiles(home / "key.pem", home / "certificate.pem", home / "authority.pem")
        write_credential(credential, certificate=files.certificate, key=files.key)
        files.authority.write_bytes(self._authority.certificate.public_bytes(Encoding.PEM))
        der = credential.certificate.public_bytes(Encoding.DER)
        return Party(name, files, spki_digest(der), self.free_port())

    def free_port(self) -> int:
        """A port of this machine that nobody listens on, nor can come by as long as this lives.

        It stays bound, which keeps it from every other connection and test; who listens on it
        with SO_REUSEADDR, as servers do, may do so since the one that holds it does not listen.
        """
        held = socket.socket()
        weakref.finalize(self, held.close)
        held.bind((HOST, 0))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = held.getsockname()[1]
        return port

    def enrol(self, name: str, role: Role = Role.VALIDATOR) -> Party:
        """Give out a certificate and enrol its key."""
        party = self.certify(name)
        self.members[party.spki] = Member(
            id=name,
            organisation="h",
            role=role,
            public_key=bytes(32),
            transport=party.spki,
            standing=Standing.ENROLLED,
            enrolled_height=0,
            changed_height=0,
        )
        return party

    def set_standing(self, party: Party, standing: Standing) -> None:
        """Change what the chain says of a member."""
        self.members[party.spki] = replace(self.members[party.spki], standing=standing)

    def gate(self) -> Gate:
        """A gate that knows this consortium's members."""
        return Gate(self.members.get, lambda: self.time)


def plain_session(party: Party) -> aiohttp.ClientSession:
    """An HTTP client with the party's certificate and no checks of ours: what an attacker has."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context(party.files)))
