"""A written network: every home is complete and fits the genesis, and nothing is overwritten."""

import errno
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from consensus.window import window_max
from node.home.config import (
    PORT_MAX,
    ClientConfig,
    Identity,
    OfficeConfig,
    PeerConfig,
    Signer,
    ValidatorConfig,
    load,
)
from node.home.document import load as load_document
from node.home.keyfile import read_key, read_voting_key
from node.home.testnet import WINDOW, Layout, write_testnet
from node.validator.journal import FOLDER, Journal
from node.wire.pki import Credential, spki_digest, write_credential
from node.wire.tls import client_context, server_context
from vm.genesis import Genesis, check_genesis
from vm.quorum import VALIDATORS_MAX, VALIDATORS_MIN
from vm.record import Member, Role
from vm.refusal import Refused

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A network of four hospitals that take part in one task."""
    return write_testnet(tmp_path_factory.mktemp("a") / "net", now=NOW, tasks=("task-1",))


@pytest.fixture(scope="module")
def members(net: Layout) -> dict[str, Member]:
    """Who is enrolled by the genesis, by id."""
    genesis = load_document(Genesis, net.genesis.read_text())
    return {member.id: member for member in genesis.members}


def signers(net: Layout) -> Iterator[Signer | Identity]:
    """Every member that a home configures."""
    yield load(ClientConfig, net.auditor, {}).member
    for hospital in net.hospitals:
        yield load(ValidatorConfig, net.home(hospital, "validator"), {}).member
        peer = load(PeerConfig, net.home(hospital, "peer"), {})
        yield from (peer.trainer, peer.verifier)
        for role in ("steward", "admin"):
            yield load(OfficeConfig, net.home(hospital, role), {}).member


def test_the_genesis_is_sound(net: Layout) -> None:
    """Four hospitals hold one seat each; the auditor belongs to none of them."""
    genesis = load_document(Genesis, net.genesis.read_text())

    validators = check_genesis(genesis).validators

    assert [seat.organisation for seat in validators.validators] == list(net.hospitals)
    assert len(genesis.members) == 4 * 5 + 1
    (auditor,) = (member for member in genesis.members if member.role is Role.AUDITOR)
    assert auditor.organisation not in net.hospitals


def test_each_home_holds_the_key_that_is_enrolled(net: Layout, members: dict[str, Member]) -> None:
    """Whoever is enrolled has one home, and signs there with the enrolled key."""
    public = {signer.id: read_key(signer.key).public for signer in signers(net)}

    assert public == {id: member.public_key for id, member in members.items()}


def test_each_validator_has_the_journal_that_its_key_was_made_for(net: Layout) -> None:
    """It is born with the key, as no node ever makes one for itself."""
    for hospital in net.hospitals:
        config = load(ValidatorConfig, net.home(hospital, "validator"), {})
        with Journal(config.store.folder / FOLDER) as journal:
            assert journal.identity == read_voting_key(config.member.key).journal
            assert journal.entries == []


def test_whoever_connects_holds_the_tls_key_that_is_enrolled(
    net: Layout, members: dict[str, Member]
) -> None:
    """The auditor only speaks HTTP; everybody else is enrolled with a TLS key."""
    found = {
        signer.id: spki_digest(
            x509.load_pem_x509_certificate(signer.tls_certificate.read_bytes()).public_bytes(
                Encoding.DER
            )
        )
        for signer in signers(net)
        if isinstance(signer, Identity)
    }

    assert found == {id: m.transport for id, m in members.items() if m.transport is not None}
    assert {member.role for id, member in members.items() if id not in found} == {Role.AUDITOR}
    assert len(set(found.values())) == len(found)


def test_only_validators_pass_for_this_machine(net: Layout) -> None:
    """A certificate of a peer or an office is good for no server that is reached here."""
    passing = {
        signer.id
        for signer in signers(net)
        if isinstance(signer, Identity)
        and "localhost" in names(signer.tls_certificate).get_values_for_type(x509.DNSName)
    }

    assert passing == {f"{hospital}.validator" for hospital in net.hospitals}


def names(certificate: Path) -> x509.SubjectAlternativeName:
    """The alternative names of a certificate."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_the_tls_files_of_each_home_load(net: Layout) -> None:
    """Keys, certificates and authority of a home belong together."""
    for hospital in net.hospitals:
        validator = load(ValidatorConfig, net.home(hospital, "validator"), {})
        server_context(validator.tls.files(validator.member))
        peer = load(PeerConfig, net.home(hospital, "peer"), {})
        client_context(peer.tls.files(peer.trainer))
        client_context(peer.tls.files(peer.verifier))


def test_each_home_holds_the_same_genesis(net: Layout) -> None:
    """A home that is moved to another machine takes with it what it must trust."""
    text = net.genesis.read_bytes()

    homes = [path.parent for path in net.directory.rglob("concilium.toml")]

    assert len(homes) == 4 * 4 + 1
    assert {(home / "genesis.json").read_bytes() for home in homes} == {text}


def test_every_private_key_is_for_its_owner_alone(net: Layout) -> None:
    """Signing and TLS keys, the authority's too, have mode 600."""
    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in net.directory.rglob("*")
        if path.suffix == ".key"
    }

    assert modes == {0o600}


def test_ports_are_distinct_and_known_to_all(net: Layout) -> None:
    """Each validator listens where every other member expects it."""
    configs = [load(ValidatorConfig, net.home(h, "validator"), {}) for h in net.hospitals]
    listens = {config.member.id: config.peer.listen for config in configs}
    http = [f"http://{config.http.listen}" for config in configs]

    assert all(config.peer.validators == listens for config in configs)
    assert list(load(ClientConfig, net.auditor, {}).client.validators) == http
    for hospital in net.hospitals:
        addresses = load(PeerConfig, net.home(hospital, "peer"), {}).training.validators
        assert {address.id: address.peer for address in addresses} == listens
        assert sorted(address.http for address in addresses) == sorted(http)
        assert addresses[0].id == f"{hospital}.validator"
    assert len({*listens.values(), *(config.http.listen for config in configs)}) == 8


def test_a_training_peer_takes_part_in_the_named_tasks_only(net: Layout) -> None:
    """The site's own configuration names its tasks, and keeps snapshots closed unless told."""
    training = load(PeerConfig, net.home("hospital-1", "peer"), {}).training

    assert training.tasks == ("task-1",)
    assert not training.opening


def test_a_network_is_never_overwritten(tmp_path: Path) -> None:
    """Whatever is there stays, an empty folder too."""
    (tmp_path / "net").mkdir()

    with pytest.raises(Refused) as refused:
        write_testnet(tmp_path / "net", now=NOW)

    assert refused.value.code == "testnet.exists"
    assert list((tmp_path / "net").iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a network would be mistaken for a whole one: it appears at once or not at all."""
    made: list[Path] = []

    def write_until_full(credential: Credential, *, certificate: Path, key: Path) -> None:
        if len(made) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(key)
        write_credential(credential, certificate=certificate, key=key)

    monkeypatch.setattr("node.home.testnet.write_credential", write_until_full)

    with pytest.raises(Refused, match="No space left") as refused:
        write_testnet(tmp_path / "net", now=NOW)

    assert refused.value.code == "testnet.write"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("organisations", [VALIDATORS_MIN - 1, VALIDATORS_MAX + 1])
def test_too_few_and_too_many_organisations_are_refused(tmp_path: Path, organisations: int) -> None:
    """Fewer than four validators tolerate no fault."""
    with pytest.raises(Refused) as refused:
        write_testnet(tmp_path / "net", now=NOW, organisations=organisations)

    assert refused.value.code == "testnet.organisations"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("base_port", [0, PORT_MAX - 6])
def test_ports_that_do_not_exist_are_refused(tmp_path: Path, base_port: int) -> None:
    """Four hospitals need eight ports."""
    with pytest.raises(Refused) as refused:
        write_testnet(tmp_path / "net", now=NOW, base_port=base_port)

    assert refused.value.code == "testnet.ports"


def test_the_largest_network_can_be_written(tmp_path: Path) -> None:
    """Its configuration stays within the bounds of what is read."""
    net = write_testnet(
        tmp_path / "net", now=NOW, organisations=VALIDATORS_MAX, base_port=PORT_MAX - 127
    )

    config = load(ValidatorConfig, net.home(net.hospitals[-1], "validator"), {})

    assert len(config.peer.validators) == VALIDATORS_MAX
    assert config.http.listen.port == PORT_MAX
    load(PeerConfig, net.home(net.hospitals[-1], "peer"), {})


def test_the_window_of_the_largest_network_fits_its_messages(tmp_path: Path) -> None:
    """So many validators have long certificates: fewer sequence numbers are in flight."""
    large = write_testnet(tmp_path / "net", now=NOW, organisations=VALIDATORS_MAX)

    genesis = load_document(Genesis, large.genesis.read_bytes())

    assert genesis.window == window_max(VALIDATORS_MAX) < WINDOW
