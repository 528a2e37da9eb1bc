"""The home of a new organisation's admin, and the admission to propose for it."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from node.home.config import CONFIG_FILE, Chain, Identity, Office, OfficeConfig, Tls, render
from node.home.document import dump
from node.home.genesis import read_genesis
from node.home.keyfile import create_key
from vm.proposal import AdmitOrganisation
from vm.refusal import Refused

DOCUMENT = Path("admit.json")
GENESIS = Path("genesis.json")


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An organisation that wants to be admitted, and the member that will speak for it."""

    id: str
    title: str
    region: str
    admin: str


def write_admin(home: Path, newcomer: Newcomer, genesis: Path, office: Office) -> Path:
    """Write an admin's home with a key; returns the document to propose.

    An admin only signs: its TLS files are named in the configuration, and are not needed. Nothing
    appears at `home` unless all of it does. Raises `Refused` with code `home.exists`, `home.write`
    or `genesis.*`.
    """
    home = home.absolute()
    if home.exists():
        raise Refused("home.exists", f"{home}: expected nothing there, found something")
    read_genesis(genesis)
    member = Identity(
        id=newcomer.admin,
        key=Path("keys/admin.key"),
        tls_key=Path("tls/admin.key"),
        tls_certificate=Path("tls/admin.crt"),
    )
    config = OfficeConfig(
        member=member,
        tls=Tls(authority=Path("tls/authority.crt")),
        chain=Chain(genesis=GENESIS),
        client=office,
    )
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".admin-") as folder:
            draft = Path(folder) / home.name
            (draft / "keys").mkdir(parents=True)
            key = create_key(draft / member.key)
            admission = AdmitOrganisation(
                newcomer.id, newcomer.title, newcomer.region, newcomer.admin, key.public
            )
            (draft / GENESIS).write_bytes(genesis.read_bytes())
            (draft / CONFIG_FILE).write_text(render(config))
            (draft / DOCUMENT).write_text(json.dumps(dump(admission), indent=2) + "\n")
            draft.rename(home)
    except OSError as error:
        raise Refused("home.write", f"{home}: expected to write a home, found: {error}") from error
    return home / DOCUMENT
