"""`concilium validator`: the life of a validator's home beside running it."""

import os
from datetime import UTC, datetime
from pathlib import Path

from cyclopts import App
from pydantic import ValidationError

from node.commands.files import read_file, write_new
from node.commands.report import Format, show
from node.home import config
from node.home.config import Endpoint, Http
from node.home.document import dump
from vm.refusal import Refused

app = App(name="validator", help="Make a validator's home, rotate its key, recover its journal.")

REQUEST_BYTES_MAX = 16 * 1024  # ours take less than 1 KiB


@app.command
def init(
    home: Path,
    *,
    id: str,
    organisation: str,
    genesis: Path,
    authority: Path,
    like: Path,
    listen: str,
    http: str,
    http_name: tuple[str, ...] = (),
    address: str | None = None,
    output: Format = "text",
) -> None:
    """Write the home of a new validator, and the seat that an admin then proposes for it.

    Parameters
    ----------
    home
        Folder to write; nothing may be there yet.
    id
        Id of the new validator, such as hospital-5.validator.
    organisation
        Id of its organisation, which the consortium has admitted or is about to.
    genesis
        The genesis document of the chain.
    authority
        Folder with authority.crt of the consortium; with authority.key beside it, the certificate
        is issued at once.
    like
        Folder with another validator's concilium.toml: where to reach validators is copied from it.
    listen
        host:port on which to listen for other validators.
    http
        host:port for the HTTP API.
    http_name
        A host:port by which clients reach the HTTP API, without a port of 80 or 443, if it is not
        the one to listen on; repeatable. The certificate names its host.
    address
        host:port at which the other validators reach this one, if it is not the one to listen on.
    """
    from node.home.seat import Plan, write_seat

    peers = config.load(config.ValidatorConfig, like, {}).peer.validators
    plan = Plan(
        id=id,
        organisation=organisation,
        genesis=genesis,
        authority=authority,
        validators=peers,
        listen=_endpoint("--listen", listen),
        address=_endpoint("--address", address or listen),
        http=_http(_endpoint("--http", http), http_name),
    )
    made = write_seat(home, plan, datetime.now(UTC))
    request = None if made.request is None else str(made.request)
    steps = [f"concilium governance propose ADMIN_HOME {made.document}", f"concilium run {home}"]
    if request is not None:
        steps.insert(
            0,
            f"concilium validator certify {request} --authority FOLDER "
            f"--out {home}/tls/validator.crt     # where the authority's key is",
        )
    show(
        output,
        {
            "home": str(home),
            "seat": dump(made.seat),
            "document": str(made.document),
            "request": request,
        },
        f"Wrote {home}. Next:\n" + "\n".join(f"  {step}" for step in steps),
    )


@app.command
def certify(request: Path, *, authority: Path, out: Path, output: Format = "text") -> None:
    """Grant a certificate request with the consortium's authority.

    Parameters
    ----------
    request
        The request that `concilium validator init` wrote.
    authority
        Folder with authority.crt and authority.key.
    out
        Certificate to write; it must not exist.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from node.wire.pki import certify as grant
    from node.wire.pki import key_digest, read_credential, read_request

    asked = read_request(read_file(request, REQUEST_BYTES_MAX))
    credential = read_credential(
        certificate=authority / "authority.crt", key=authority / "authority.key"
    )
    certificate = grant(credential, asked, datetime.now(UTC))
    write_new(out, certificate.public_bytes(Encoding.PEM))
    transport = key_digest(certificate.public_key()).hex()
    subject = certificate.subject.rfc4514_string()
    show(
        output,
        {"certificate": str(out), "subject": subject, "transport": transport},
        f"Wrote {out} for {subject}. Its key's digest, as enrolled on chain: {transport}",
    )


@app.command
def rotate(home: Path, *, address: str | None = None, output: Format = "text") -> None:
    """Make the key that is to follow the validator's, and what an admin then proposes for it.

    The validator may run. It keeps its key until the chain has given the seat to the new one.

    Parameters
    ----------
    home
        The validator's folder with concilium.toml.
    address
        host:port at which the other validators reach this one from then on, if that changes.
    """
    from node.commands.network import name_remedy
    from node.home.seat import make_next_key

    settings = config.load(config.ValidatorConfig, home, os.environ)
    moved = None if address is None else _endpoint("--address", address)
    try:
        document = make_next_key(home, settings, moved)
    except Refused as refused:
        raise name_remedy(refused, home) from refused
    show(
        output,
        {"document": str(document), "key": str(settings.member.next_key)},
        f"The next key of {settings.member.id} is {settings.member.next_key}. Next:\n"
        f"  concilium governance propose ADMIN_HOME {document}",
    )


@app.command
def recover(home: Path, *, restored: bool = False, output: Format = "text") -> None:
    """After the loss of a journal: bar the key for ever and make the home fit to observe.

    Parameters
    ----------
    home
        The validator's folder with concilium.toml.
    restored
        The home was put back from a copy: bar its key although nothing looks wrong.
    """
    from node.validator.recover import recover as recover_home

    settings = config.load(config.ValidatorConfig, home, os.environ)
    done = recover_home(settings, restored=restored)
    barred = [key.hex() for key in done.barred]
    aside = None if done.aside is None else str(done.aside)
    kept = "" if aside is None else f"What was left of the journal is kept in {aside}\n"
    show(
        output,
        {"barred": barred, "aside": aside},
        f"{settings.member.id} never votes again with the key {', '.join(barred)}\n{kept}"
        "Next:\n"
        f"  concilium run {home}                  # it observes\n"
        f"  concilium validator rotate {home}     # makes a new key, to be approved",
    )


def _http(listen: Endpoint, names: tuple[str, ...]) -> Http:
    try:
        return Http(listen=listen, names=names)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise Refused("usage.address", f"--http-name: {reason}, found {names}") from error


def _endpoint(option: str, text: str) -> Endpoint:
    try:
        return config.parse_endpoint(text)
    except ValueError as error:
        raise Refused("usage.address", f"{option}: {error}, found {text!r}") from error
