"""Configuration: what is written reads back, the environment overrides, and errors name the key."""

from collections.abc import Callable
from pathlib import Path

import pytest

from node.home.config import (
    CONFIG_BYTES_MAX,
    CONFIG_FILE,
    PORT_MAX,
    Chain,
    ChainStore,
    Client,
    ClientConfig,
    Endpoint,
    Http,
    Identity,
    Log,
    Loop,
    Peer,
    PeerConfig,
    PeerStore,
    Section,
    Signer,
    Tls,
    Training,
    ValidatorAddress,
    ValidatorConfig,
    Voter,
    load,
    parse_endpoint,
    render,
)
from node.wire.tls import TlsFiles
from vm.refusal import Refused


def identity(folder: Path, id: str) -> Identity:
    """Return a member with files in `folder`."""
    return Identity(
        id=id,
        key=folder / "keys/a.key",
        tls_key=folder / "tls/a.key",
        tls_certificate=folder / "tls/a.crt",
    )


def validator(folder: Path) -> ValidatorConfig:
    """Return a validator's configuration with files in `folder`."""
    return ValidatorConfig(
        member=Voter(
            **dict(identity(folder, "hospital-1.validator")), next_key=folder / "keys/next.key"
        ),
        tls=Tls(authority=folder / "tls/authority.crt"),
        chain=Chain(genesis=folder / "genesis.json"),
        store=ChainStore(folder=folder / "store", retain_blocks=2048),
        peer=Peer(
            listen=Endpoint("127.0.0.1", 7100),
            validators={
                "hospital-1.validator": Endpoint("127.0.0.1", 7100),
                "hospital-2.validator": Endpoint("::1", 7102),
            },
        ),
        http=Http(listen=Endpoint("localhost", 7101)),
        log=Log(level="debug", format="json"),
    )


def peer(folder: Path) -> PeerConfig:
    """Return a training peer's configuration with files in `folder`."""
    return PeerConfig(
        trainer=identity(folder, "hospital-1.trainer"),
        verifier=identity(folder, "hospital-1.verifier"),
        tls=Tls(authority=folder / "tls/authority.crt"),
        chain=Chain(genesis=folder / "genesis.json"),
        store=PeerStore(folder=folder / "store", traces_mib=64),
        training=Training(
            dataset="hospital-1.dataset",
            data=folder / 'rows "a\\b".csv',
            secret=folder / "keys/rows.secret",
            tasks=("one", "two"),
            opening=False,
            validators=tuple(
                ValidatorAddress(
                    id=f"hospital-{i}.validator",
                    http=f"http://127.0.0.1:{7101 + 2 * i}",
                    peer=Endpoint("127.0.0.1", 7100 + 2 * i),
                )
                for i in (1, 2)
            ),
        ),
        loop=Loop(socket=folder / "loop.sock", tasks=("two",)),
    )


def client(folder: Path) -> ClientConfig:
    """Return a client's configuration with files in `folder`."""
    return ClientConfig(
        tls=Tls(authority=folder / "tls/authority.crt"),
        member=Signer(id="auditor", key=folder / "keys/a.key"),
        chain=Chain(genesis=folder / "genesis.json"),
        client=Client(validators=("http://127.0.0.1:7101", "https://two.example:7103")),
    )


def write(home: Path, config: Section, *changes: tuple[str, str]) -> Path:
    """Write `config` into `home`, with each first text of `changes` replaced by its second."""
    text = render(config)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (home / CONFIG_FILE).write_text(text)
    return home


@pytest.mark.parametrize("make", [validator, peer, client])
def test_what_is_written_reads_back(tmp_path: Path, make: Callable[[Path], Section]) -> None:
    """Relative paths of the file are read as paths in the home; all else is equal."""
    write(tmp_path, make(Path()))

    read = load(type(make(Path())), tmp_path, {})

    assert read == make(tmp_path)


@pytest.mark.parametrize("make", [validator, peer, client])
def test_each_key_is_explained(make: Callable[[Path], Section]) -> None:
    """A line with a key of ours follows a comment that says what it is."""
    config = make(Path())

    lines = render(config).splitlines()

    for _, section in config:
        assert f"# {section.__doc__}" in lines
        for key, field in type(section).model_fields.items():
            assert field.description
            above = f"# {field.description.splitlines()[-1]}"
            at = lines.index(above)
            assert key in lines[at + 1]


def test_a_missing_log_section_means_the_defaults(tmp_path: Path) -> None:
    """Logging has safe defaults; nothing else has any."""
    write(tmp_path, validator(Path()), ('level = "debug"\n', ""), ('format = "json"\n', ""))

    assert load(ValidatorConfig, tmp_path, {}).log == Log(level="info", format="auto")


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    """Text is taken as it is; lists and tables are TOML; paths are still relative to the home."""
    write(tmp_path, validator(Path()))
    environment = {
        "CONCILIUM_HTTP_LISTEN": "10.0.0.1:80",
        "CONCILIUM_CHAIN_GENESIS": "other.json",
        "CONCILIUM_PEER_VALIDATORS": '{ "hospital-3.validator" = "three:7100" }',
        "HOME": "ignored",
    }

    read = load(ValidatorConfig, tmp_path, environment)

    assert read.http.listen == Endpoint("10.0.0.1", 80)
    assert read.chain.genesis == tmp_path / "other.json"
    assert read.peer.validators == {"hospital-3.validator": Endpoint("three", 7100)}


def test_the_environment_may_hold_a_whole_section(tmp_path: Path) -> None:
    """A container can be configured without the key in the file."""
    write(tmp_path, client(Path()), ("[chain]", ""), ('genesis = "genesis.json"', ""))

    read = load(ClientConfig, tmp_path, {"CONCILIUM_CHAIN_GENESIS": "/g.json"})

    assert read.chain.genesis == Path("/g.json")


@pytest.mark.parametrize(
    ("old", "new", "code", "names"),
    [
        ("listen =", "listn =", "config.unknown", "[peer] listn"),
        ("blocks = 2048", "blocks = 1023", "config.value", "0 for all, or at least 1024"),
        ("blocks = 2048", "blocks = -1", "config.value", "0 for all, or at least 1024"),
        ("blocks = 2048", 'blocks = "all"', "config.value", "[store] retain_blocks"),
        ("[log]", "[log]\ncolour = true", "config.unknown", "[log] colour"),
        ("[log]", "[lock]\nx = 1\n[log]", "config.unknown", "[lock]"),
        ('"127.0.0.1:7100"', '"127.0.0.1"', "config.value", "[peer] listen: expected host:port"),
        ('"127.0.0.1:7100"', '"127.0.0.1:0"', "config.value", "[peer] listen"),
        ('"127.0.0.1:7100"', "7100", "config.value", "found '7100'"),
        ('"hospital-1.validator"', '"Hospital 1"', "config.value", "[member] id"),
        ('level = "debug"', 'level = "loud"', "config.value", "[log] level"),
        ("[http]", "[http", "config.toml", "TOML"),
        ("[tls]", "[tsl]", "config.unknown", "[tsl]"),
        ('authority = "tls/authority.crt"', "", "config.required", "[tls] authority"),
    ],
)
def test_an_error_names_the_file_and_the_key(
    tmp_path: Path, old: str, new: str, code: str, names: str
) -> None:
    """The message says where the problem stands and what was expected."""
    write(tmp_path, validator(Path()), (old, new))

    with pytest.raises(Refused) as refused:
        load(ValidatorConfig, tmp_path, {})

    assert refused.value.code == code
    assert str(tmp_path / CONFIG_FILE) in refused.value.message
    assert names in refused.value.message


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("CONCILIUM_HTTP_LISTN", "0.0.0.0:80", "config.unknown"),
        ("CONCILIUM_HTTP_LISTEN", "nowhere", "config.value"),
        ("CONCILIUM_PEER_VALIDATORS", "{", "config.toml"),
        ("CONCILIUM_PEER_VALIDATORS", '["a"]', "config.value"),
    ],
)
def test_an_error_names_the_variable(tmp_path: Path, variable: str, value: str, code: str) -> None:
    """Who set a wrong value in the environment does not search the file for it."""
    write(tmp_path, validator(Path()))

    with pytest.raises(Refused, match=variable) as refused:
        load(ValidatorConfig, tmp_path, {variable: value})

    assert refused.value.code == code


def test_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    """The environment does not paper over a file that is wrong."""
    write(tmp_path, client(Path()), ("[chain]\n", ""), ('genesis = "genesis.json"\n', ""))
    text = (tmp_path / CONFIG_FILE).read_text()
    (tmp_path / CONFIG_FILE).write_text("chain = 3\n" + text)

    with pytest.raises(Refused, match=r"\[chain\]: expected a valid") as refused:
        load(ClientConfig, tmp_path, {"CONCILIUM_CHAIN_GENESIS": "genesis.json"})

    assert refused.value.code == "config.value"


def test_one_validator_is_not_enough(tmp_path: Path) -> None:
    """A peer or a client that knows only one validator believes whatever that one says."""
    write(tmp_path, client(Path()), (', "https://two.example:7103"', ""))

    with pytest.raises(Refused, match="at least 2") as refused:
        load(ClientConfig, tmp_path, {})

    assert refused.value.code == "config.value"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The message names the file that was looked for."""
    with pytest.raises(Refused, match=CONFIG_FILE) as refused:
        load(ClientConfig, tmp_path, {})

    assert refused.value.code == "config.missing"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A folder in the file's place, a file that is too long, and bytes that are no text."""
    (tmp_path / "folder" / CONFIG_FILE).mkdir(parents=True)
    (tmp_path / CONFIG_FILE).write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))

    codes = []
    for home in (tmp_path / "folder", tmp_path):
        with pytest.raises(Refused) as refused:
            load(ClientConfig, home, {})
        codes.append(refused.value.code)
    (tmp_path / CONFIG_FILE).write_bytes(b"\xff")
    with pytest.raises(Refused) as refused:
        load(ClientConfig, tmp_path, {})

    assert codes == ["config.unreadable", "config.unreadable"]
    assert refused.value.code == "config.toml"


@pytest.mark.parametrize("text", ["a:1", f"127.0.0.1:{PORT_MAX}", "[::1]:80", "a-b.example:7"])
def test_an_endpoint_is_written_as_it_is_read(text: str) -> None:
    """Writing is the inverse of reading."""
    assert str(parse_endpoint(text)) == text


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", f"a:{PORT_MAX + 1}", "::1:80", "a b:1", 7])
def test_a_malformed_endpoint_is_refused(text: object) -> None:
    """An IPv6 address needs brackets; a port lies between 1 and 65535."""
    with pytest.raises(ValueError, match="host:port"):
        parse_endpoint(text)


def test_a_member_connects_with_its_own_files(tmp_path: Path) -> None:
    """Trainer and verifier of one peer show different certificates of one authority."""
    config = peer(tmp_path)

    assert config.tls.files(config.trainer) == TlsFiles(
        tmp_path / "tls/a.key", tmp_path / "tls/a.crt", tmp_path / "tls/authority.crt"
    )
