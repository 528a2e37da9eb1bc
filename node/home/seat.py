"""A new validator's home, and the keys that follow its first: each with what to propose for it."""

import json
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from node.home.config import (
    CONFIG_FILE,
    Chain,
    ChainStore,
    Endpoint,
    Http,
    Peer,
    Tls,
    ValidatorConfig,
    Voter,
    render,
)
from node.home.document import dump
from node.home.genesis import read_genesis
from node.home.keyfile import create_voting_key, read_voting_key
from node.validator import journal
from node.validator.journal import create_journal, read_journal
from node.validator.keyring import read_barred
from node.wire.disk import sync_folder
from node.wire.pki import (
    certify,
    create_request,
    key_digest,
    read_credential,
    write_tls_key,
)
from vm.proposal import RotateKey, SeatValidator
from vm.refusal import Refused

GENESIS = Path("genesis.json")
AUTHORITY = Path("tls/authority.crt")
REQUEST = Path("tls/validator.csr")
SEAT = Path("seat.json")
ROTATION = "rotate-{}.json"
DIGITS = 8  # of a public key, in a file's name


@dataclass(frozen=True, slots=True)
class Plan:
    """What a new validator is to be.

    `authority` is a folder with the consortium's certificate `authority.crt`; where its key
    `authority.key` lies beside it, the validator's certificate is issued at once.
    """

    id: str
    organisation: str
    genesis: Path
    authority: Path
    validators: dict[str, Endpoint]
    listen: Endpoint
    address: Endpoint
    http: Http


@dataclass(frozen=True, slots=True)
class Made:
    """The new home's document to propose, and the certificate request, if one has to be granted."""

    seat: SeatValidator
    document: Path
    request: Path | None


def write_seat(home: Path, plan: Plan, now: datetime) -> Made:
    """Write a validator's home with keys, journal and configuration, and the seat to propose.

    Nothing appears at `home` unless all of it does. Raises `Refused` with code `home.exists`,
    `home.write`, `genesis.*` or `tls.*`.
    """
    home = home.absolute()
    if home.exists():
        raise Refused("home.exists", f"{home}: expected nothing there, found something")
    read_genesis(plan.genesis)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".validator-") as folder:
            draft = Path(folder) / home.name
            draft.mkdir()
            seat, granted = _write(draft, plan, now)
            draft.rename(home)
    except OSError as error:
        raise Refused("home.write", f"{home}: expected to write a home, found: {error}") from error
    return Made(seat, home / SEAT, None if granted else home / REQUEST)


def _write(home: Path, plan: Plan, now: datetime) -> tuple[SeatValidator, bool]:
    member = Voter(
        id=plan.id,
        key=Path("keys/validator.key"),
        next_key=Path("keys/next.key"),
        tls_key=Path("tls/validator.key"),
        tls_certificate=Path("tls/validator.crt"),
    )
    config = ValidatorConfig(
        member=member,
        tls=Tls(authority=AUTHORITY),
        chain=Chain(genesis=GENESIS),
        store=ChainStore(folder=Path("store")),
        peer=Peer(listen=plan.listen, validators=plan.validators | {plan.id: plan.address}),
        http=plan.http,
    )
    for name in ("keys", "tls"):
        (home / name).mkdir()
    identity = create_journal(home / config.store.folder / journal.FOLDER)
    key = create_voting_key(home / member.key, identity)
    transport, granted = _write_tls(home, plan, member, now)
    seat = SeatValidator(plan.id, plan.organisation, key.public, transport, str(plan.address))
    (home / GENESIS).write_bytes(plan.genesis.read_bytes())
    (home / CONFIG_FILE).write_text(render(config))
    _write_document(home / SEAT, seat)
    return seat, granted


def _write_tls(home: Path, plan: Plan, member: Voter, now: datetime) -> tuple[bytes, bool]:
    """Key, request and, where the authority's key is at hand, certificate; the key's digest."""
    hosts = (plan.address.host, *plan.http.hosts)
    made = create_request(member=plan.id, organisation=plan.organisation, hosts=hosts)
    write_tls_key(made.key, home / member.tls_key)
    (home / REQUEST).write_bytes(made.request.public_bytes(Encoding.PEM))
    certificate, key = plan.authority / "authority.crt", plan.authority / "authority.key"
    if not certificate.is_file():
        raise Refused("tls.authority", f"{certificate}: expected a PEM file, found none")
    (home / AUTHORITY).write_bytes(certificate.read_bytes())
    granted = key.exists()
    if granted:
        authority = read_credential(certificate=certificate, key=key)
        issued = certify(authority, made.request, now)
        (home / member.tls_certificate).write_bytes(issued.public_bytes(Encoding.PEM))
    return key_digest(made.key.public_key()), granted


def make_next_key(home: Path, config: ValidatorConfig, address: Endpoint | None) -> Path:
    """Make the key that is to follow the one in use; returns the document to propose.

    One that was made before and waits for approval is kept. Raises `Refused("journal.lost" |
    "journal.damaged")`: a key votes only with the journal that it was made for.
    """
    folder, path = config.store.folder, config.member.next_key
    identity, _, _ = read_journal(folder / journal.FOLDER)
    if path.exists():
        found = read_voting_key(path)
        if found.journal != identity or found.key.public in read_barred(folder):
            path.rename(path.with_name(f"{path.name}.barred-{found.key.public.hex()[:DIGITS]}"))
    key = read_voting_key(path).key if path.exists() else create_voting_key(path, identity)
    sync_folder(path.parent)
    rotation = RotateKey(
        config.member.id, key.public, None, None if address is None else str(address)
    )
    document = home / ROTATION.format(key.public.hex()[:DIGITS])
    _write_document(document, rotation)
    return document


def _write_document(path: Path, change: SeatValidator | RotateKey) -> None:
    path.write_text(json.dumps(dump(change), indent=2) + "\n")
