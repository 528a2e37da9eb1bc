"""Homes of newcomers, and keys that follow: complete, bound to a journal, and what to propose."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from node.home.admission import Newcomer, write_admin
from node.home.config import Endpoint, Http, OfficeConfig, ValidatorConfig, load
from node.home.document import load as load_document
from node.home.keyfile import read_key, read_voting_key
from node.home.seat import Plan, make_next_key, write_seat
from node.home.testnet import Layout, write_testnet
from node.validator.journal import FOLDER, Journal
from node.validator.keyring import bar
from node.validator.recover import recover
from node.wire.pki import certify, read_credential, read_request, spki_digest
from node.wire.tls import server_context
from vm.proposal import AdmitOrganisation, RotateKey, SeatValidator
from vm.refusal import Refused

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EVERYWHERE = "0.0.0.0"  # noqa: S104 - an address to listen on, and nobody's to connect to


@pytest.fixture
def net(tmp_path: Path) -> Layout:
    """The network that a newcomer joins."""
    return write_testnet(tmp_path / "net", now=NOW)


def plan(net: Layout, authority: Path) -> Plan:
    """A fifth validator."""
    like = load(ValidatorConfig, net.home("hospital-1", "validator"), {})
    return Plan(
        id="hospital-5.validator",
        organisation="hospital-5",
        genesis=net.genesis,
        authority=authority,
        validators=like.peer.validators,
        listen=Endpoint("10.0.0.5", 7200),
        address=Endpoint("five.example", 7200),
        http=Http(
            listen=Endpoint(EVERYWHERE, 7201),
            names=("api.five.example", "[fd00::5]:7201"),
        ),
    )


def test_a_new_home_is_complete(net: Layout, tmp_path: Path) -> None:
    """Key, journal and TLS belong together, and the document proposes exactly these."""
    made = write_seat(tmp_path / "five", plan(net, net.directory / "authority"), NOW)

    config = load(ValidatorConfig, tmp_path / "five", {})
    server_context(config.tls.files(config.member))
    found = read_voting_key(config.member.key)
    with Journal(config.store.folder / FOLDER) as journal:
        assert found.journal == journal.identity
    assert made.request is None
    assert load_document(SeatValidator, _untagged(made.document)) == made.seat
    assert made.seat.public_key == found.key.public
    assert made.seat.address == "five.example:7200"
    assert config.http.names == ("api.five.example", "[fd00::5]:7201")
    assert config.peer.validators.keys() >= {"hospital-1.validator", "hospital-5.validator"}


@pytest.mark.parametrize(
    ("listen", "names", "hosts"),
    [
        (EVERYWHERE, (), []),
        ("10.0.0.5", (), ["10.0.0.5"]),
        (EVERYWHERE, ("api.five.example:7201",), ["api.five.example"]),
        ("::", ("api.example", "[fd00::5]:1"), ["api.example", "fd00::5"]),
    ],
)
def test_the_certificate_names_where_the_validator_is_reached(
    net: Layout, tmp_path: Path, listen: str, names: tuple[str, ...], hosts: list[str]
) -> None:
    """By other validators and by clients; an address that stands for all is no name."""
    http = Http(listen=Endpoint(listen, 7201), names=names)
    drawn = replace(plan(net, net.directory / "authority"), http=http)

    write_seat(tmp_path / "five", drawn, NOW)

    config = load(ValidatorConfig, tmp_path / "five", {})
    found = x509.load_pem_x509_certificate(config.member.tls_certificate.read_bytes())
    named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in named] == ["hospital-5.validator", "five.example", *hosts]


def test_without_the_authoritys_key_the_certificate_is_requested(
    net: Layout, tmp_path: Path
) -> None:
    """The digest to enrol is known before; once granted, the home is complete."""
    folder = tmp_path / "public"
    folder.mkdir()
    authority = net.directory / "authority"
    (folder / "authority.crt").write_bytes((authority / "authority.crt").read_bytes())

    made = write_seat(tmp_path / "five", plan(net, folder), NOW)
    assert made.request is not None
    credential = read_credential(
        certificate=authority / "authority.crt", key=authority / "authority.key"
    )
    granted = certify(credential, read_request(made.request.read_bytes()), NOW)

    from cryptography.hazmat.primitives.serialization import Encoding

    config = load(ValidatorConfig, tmp_path / "five", {})
    config.member.tls_certificate.write_bytes(granted.public_bytes(Encoding.PEM))
    server_context(config.tls.files(config.member))
    assert spki_digest(granted.public_bytes(Encoding.DER)) == made.seat.transport


@pytest.mark.parametrize("what", ["there", "authority", "genesis"])
def test_half_a_home_is_never_left(net: Layout, tmp_path: Path, what: str) -> None:
    """Nothing is overwritten, and nothing appears that cannot be used."""
    home, authority, code = tmp_path / "five", net.directory / "authority", "home.exists"
    match what:
        case "there":
            home.mkdir()
        case "authority":
            authority, code = tmp_path / "none", "tls.authority"
        case "genesis":
            net.genesis.write_text("x")
            code = "document.json"

    with pytest.raises(Refused) as refused:
        write_seat(home, plan(net, authority), NOW)

    assert refused.value.code == code
    assert not list(home.iterdir()) if home.exists() else True
    assert not list(tmp_path.glob(".validator-*"))


def test_the_next_key_is_made_once_and_votes_with_the_same_journal(net: Layout) -> None:
    """Asked again, the same is proposed: the first may have been approved meanwhile."""
    home = net.home("hospital-1", "validator")
    config = load(ValidatorConfig, home, {})

    first = make_next_key(home, config, None)
    second = make_next_key(home, config, None)

    key = read_voting_key(config.member.next_key)
    rotation = load_document(RotateKey, _untagged(first))
    assert first == second
    assert key.journal == read_voting_key(config.member.key).journal
    assert rotation == RotateKey("hospital-1.validator", key.key.public, None, None)


def test_a_barred_next_key_is_put_aside(net: Layout) -> None:
    """After a lost journal neither key of the home counts, and another one is made."""
    home = net.home("hospital-1", "validator")
    config = load(ValidatorConfig, home, {})
    first = make_next_key(home, config, None)
    (config.store.folder / FOLDER / "journal").unlink()

    recover(config)
    second = make_next_key(home, config, Endpoint("moved.example", 7100))

    assert second != first
    assert load_document(RotateKey, _untagged(second)).address == "moved.example:7100"
    assert len(list((home / "keys").glob("next.key.barred-*"))) == 1
    bar(config.store.folder, read_voting_key(config.member.next_key).key.public)
    assert make_next_key(home, config, None) not in (first, second)


def test_an_admins_home_holds_the_key_to_admit(net: Layout, tmp_path: Path) -> None:
    """It signs at once; a second home is never written over the first."""
    office = load(OfficeConfig, net.home("hospital-1", "admin"), {}).client
    newcomer = Newcomer("hospital-5", "Hospital 5", "NL", "hospital-5.admin")

    document = write_admin(tmp_path / "admin", newcomer, net.genesis, office)

    config = load(OfficeConfig, tmp_path / "admin", {})
    admission = load_document(AdmitOrganisation, _untagged(document))
    assert admission.admin_key == read_key(config.member.key).public
    assert config.client == office
    with pytest.raises(Refused) as refused:
        write_admin(tmp_path / "admin", newcomer, net.genesis, office)
    assert refused.value.code == "home.exists"


def _untagged(document: Path) -> str:
    """A document as a record alone: inside a proposal its type tells which one."""
    value = json.loads(document.read_text())
    del value["type"]
    return json.dumps(value)
