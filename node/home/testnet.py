"""A network on one machine: genesis, and a home for each member, in a folder of its own.

```
DIRECTORY/
  genesis.json              what every member holds a copy of
  authority/                the consortium's certificate authority, to issue more certificates
  hospital-1/validator/     concilium.toml  genesis.json  keys/  tls/  store/journal/
  hospital-1/peer/          the same without a journal, for the members trainer and verifier
  hospital-1/steward/       the same
  hospital-1/admin/         the same
  hospital-2/ ...
  auditor/                  concilium.toml  genesis.json  keys/  tls/authority.crt
```
"""

import json
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from consensus.window import window_max
from node.home.config import (
    CONFIG_FILE,
    PORT_MAX,
    Chain,
    ChainStore,
    Client,
    ClientConfig,
    Endpoint,
    Http,
    Identity,
    Office,
    OfficeConfig,
    Peer,
    PeerConfig,
    PeerStore,
    Section,
    Signer,
    Store,
    Tls,
    Training,
    ValidatorAddress,
    ValidatorConfig,
    Voter,
    render,
)
from node.home.document import dump
from node.home.keyfile import create_key, create_secret, create_voting_key
from node.validator.journal import FOLDER, create_journal
from node.wire.pki import (
    LOCAL_HOSTS,
    Credential,
    create_authority,
    issue,
    spki_digest,
    write_credential,
)
from vm.genesis import PROTOCOL, Genesis, check_genesis
from vm.quorum import VALIDATORS_MAX, VALIDATORS_MIN
from vm.record import Member, Organisation, Role, Sanction, Standing
from vm.refusal import Refused

TITLE = "testnet"
GENESIS_FILE = "genesis.json"
AUDITOR = "auditor"  # an organisation of its own: who audits depends on no hospital
REGION = "ZZ"  # ISO 3166-1 leaves it to users: nowhere in particular
BASE_PORT = 7100
WINDOW = 32  # sequence numbers in flight
HOST = "127.0.0.1"
AUTHORITY = Tls(authority=Path("tls/authority.crt"))
CHAIN = Chain(genesis=Path(GENESIS_FILE))
STORE = Store(folder=Path("store"))
ROWS_SECRET = Path("keys/rows.secret")
NEXT_KEY = Path("keys/next.key")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a network is, and the names of its hospitals in order."""

    directory: Path
    hospitals: tuple[str, ...]

    @property
    def genesis(self) -> Path:
        """The genesis document."""
        return self.directory / GENESIS_FILE

    @property
    def auditor(self) -> Path:
        """The auditor's home."""
        return self.directory / AUDITOR

    def home(self, hospital: str, role: str) -> Path:
        """The home `validator`, `peer`, `steward` or `admin` of a hospital."""
        return self.directory / hospital / role


def write_testnet(
    directory: Path,
    *,
    now: datetime,
    organisations: int = VALIDATORS_MIN,
    base_port: int = BASE_PORT,
    tasks: tuple[str, ...] = (),
    opening: bool = False,
    public: bool = False,
) -> Layout:
    """Write a network of `organisations` hospitals and one auditor into the new `directory`.

    Validator i (from 0) listens for peers at base_port + 2i and for HTTP at the port after it.
    `tasks` are those that every training peer takes part in; `opening` is whether its snapshots
    may be opened, `public` whether reading needs no membership. Nothing appears at `directory`
    unless all of it does. Raises `Refused` with code `testnet.exists`, `testnet.organisations`,
    `testnet.ports` or `testnet.write`.
    """
    if not VALIDATORS_MIN <= organisations <= VALIDATORS_MAX:
        raise Refused(
            "testnet.organisations",
            f"expected {VALIDATORS_MIN} to {VALIDATORS_MAX}, found {organisations}",
        )
    last_port = base_port + 2 * organisations - 1
    if base_port < 1 or last_port > PORT_MAX:
        raise Refused(
            "testnet.ports", f"expected ports of 1 to {PORT_MAX}, found {base_port} to {last_port}"
        )
    directory = directory.absolute()
    if directory.exists():
        raise Refused("testnet.exists", f"{directory}: expected nothing there, found something")
    hospitals = tuple(f"hospital-{i + 1}" for i in range(organisations))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".testnet-") as folder:
            draft = Layout(Path(folder) / directory.name, hospitals)
            _Writer(draft, base_port, tasks, opening, public, now).write()
            draft.directory.rename(directory)
    except OSError as error:
        raise Refused(
            "testnet.write", f"{directory}: expected to write a network, found: {error}"
        ) from error
    return Layout(directory, hospitals)


class _Writer:
    """Writes every home, and enrols whom it made keys for."""

    def __init__(
        self,
        layout: Layout,
        base_port: int,
        tasks: tuple[str, ...],
        opening: bool,
        public: bool,
        now: datetime,
    ) -> None:
        self._layout = layout
        self._tasks = tasks
        self._opening = opening
        self._public = public
        self._now = now
        self._authority = create_authority(TITLE, now)
        self._members: list[Member] = []
        self._validators = tuple(
            ValidatorAddress(
                id=f"{hospital}.validator",
                http=f"http://{HOST}:{base_port + 2 * i + 1}",
                peer=Endpoint(HOST, base_port + 2 * i),
            )
            for i, hospital in enumerate(layout.hospitals)
        )

    def write(self) -> None:
        homes = [self._write_auditor()]
        for hospital, address in zip(self._layout.hospitals, self._validators, strict=True):
            homes.append(self._write_validator(hospital, address))
            homes.append(self._write_peer(hospital))
            homes.append(self._write_office(hospital, Role.STEWARD))
            homes.append(self._write_office(hospital, Role.ADMIN))
        folder = self._layout.directory / "authority"
        folder.mkdir()
        write_credential(
            self._authority, certificate=folder / "authority.crt", key=folder / "authority.key"
        )
        genesis = json.dumps(dump(self._genesis()), indent=2) + "\n"
        for folder in (self._layout.directory, *homes):
            (folder / GENESIS_FILE).write_text(genesis)

    def _write_validator(self, hospital: str, address: ValidatorAddress) -> Path:
        home = self._layout.home(hospital, "validator")
        http_port = address.peer.port + 1
        journal = create_journal(home / STORE.folder / FOLDER)
        identity = self._identity(home, hospital, Role.VALIDATOR, journal)
        config = ValidatorConfig(
            member=Voter(**dict(identity), next_key=NEXT_KEY),
            tls=AUTHORITY,
            chain=CHAIN,
            store=ChainStore(folder=STORE.folder),
            peer=Peer(
                listen=address.peer,
                validators={validator.id: validator.peer for validator in self._validators},
            ),
            http=Http(listen=Endpoint(HOST, http_port)),
        )
        return self._write_config(home, config)

    def _write_peer(self, hospital: str) -> Path:
        home = self._layout.home(hospital, "peer")
        config = PeerConfig(
            trainer=self._identity(home, hospital, Role.TRAINER),
            verifier=self._identity(home, hospital, Role.VERIFIER),
            tls=AUTHORITY,
            chain=CHAIN,
            store=PeerStore(folder=STORE.folder),
            training=Training(
                dataset=f"{hospital}.dataset",
                data=Path("rows.csv"),
                secret=ROWS_SECRET,
                tasks=self._tasks,
                opening=self._opening,
                validators=self._nearest_first(hospital),
            ),
        )
        create_secret(home / ROWS_SECRET)
        return self._write_config(home, config)

    def _write_office(self, hospital: str, role: Role) -> Path:
        home = self._layout.home(hospital, role)
        config = OfficeConfig(
            member=self._identity(home, hospital, role),
            tls=AUTHORITY,
            chain=CHAIN,
            client=Office(validators=self._nearest_first(hospital)),
        )
        return self._write_config(home, config)

    def _nearest_first(self, hospital: str) -> tuple[ValidatorAddress, ...]:
        """A hospital asks its own validator first: the nearest, and the one it trusts most."""
        return tuple(sorted(self._validators, key=lambda v: v.id != f"{hospital}.validator"))

    def _write_auditor(self) -> Path:
        home = self._layout.auditor
        key = Path("keys/auditor.key")
        self._enrol(home / key, AUDITOR, AUDITOR, Role.AUDITOR, None)
        self._write_authority(home)
        config = ClientConfig(
            member=Signer(id=AUDITOR, key=key),
            tls=AUTHORITY,
            chain=CHAIN,
            client=Client(validators=tuple(validator.http for validator in self._validators)),
        )
        return self._write_config(home, config)

    def _write_config(self, home: Path, config: Section) -> Path:
        (home / CONFIG_FILE).write_text(render(config))
        return home

    def _identity(
        self, home: Path, hospital: str, role: Role, journal: bytes | None = None
    ) -> Identity:
        """Make a member that connects: both its keys, its certificate, its enrolment."""
        id = f"{hospital}.{role.value}"
        identity = Identity(
            id=id,
            key=Path("keys") / f"{role.value}.key",
            tls_key=Path("tls") / f"{role.value}.key",
            tls_certificate=Path("tls") / f"{role.value}.crt",
        )
        hosts = LOCAL_HOSTS if role is Role.VALIDATOR else ()
        credential = issue(
            self._authority, member=id, organisation=hospital, hosts=hosts, now=self._now
        )
        self._write_authority(home)
        write_credential(
            credential,
            certificate=home / identity.tls_certificate,
            key=home / identity.tls_key,
        )
        transport = spki_digest(credential.certificate.public_bytes(Encoding.DER))
        self._enrol(home / identity.key, id, hospital, role, transport, journal)
        return identity

    def _write_authority(self, home: Path) -> None:
        path = home / AUTHORITY.authority
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_pem(self._authority))

    def _enrol(
        self,
        path: Path,
        id: str,
        organisation: str,
        role: Role,
        transport: bytes | None,
        journal: bytes | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        key = create_key(path) if journal is None else create_voting_key(path, journal)
        self._members.append(
            Member(
                id=id,
                organisation=organisation,
                role=role,
                public_key=key.public,
                transport=transport,
                standing=Standing.ENROLLED,
                enrolled_height=0,
                changed_height=0,
            )
        )

    def _genesis(self) -> Genesis:
        organisations = (
            Organisation(id, id.replace("-", " ").capitalize(), REGION, Standing.ENROLLED)
            for id in (*self._layout.hospitals, AUDITOR)
        )
        genesis = Genesis(
            title=TITLE,
            protocol=PROTOCOL,
            time_ms=int(self._now.timestamp() * 1000),
            window=min(WINDOW, window_max(len(self._validators))),
            rotation=0,
            equivocation=Sanction.SUSPEND,
            public=self._public,
            organisations=tuple(organisations),
            members=tuple(self._members),
        )
        check_genesis(genesis)
        return genesis


def _pem(credential: Credential) -> bytes:
    return credential.certificate.public_bytes(Encoding.PEM)
