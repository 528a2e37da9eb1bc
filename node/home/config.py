"""Configuration: a commented TOML file in a home, with overrides from the environment.

A home is a folder that holds `concilium.toml`; paths in the file are relative to the home. Every
key can be set by `CONCILIUM_<SECTION>_<KEY>`, lists and tables written as in TOML. A key that
nobody knows is an error, wherever it stands. There are four kinds of home: a validator's, a
training peer's, an office's (steward or admin), and a client's (auditor).
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from node.wire.tls import TlsFiles
from vm.quorum import VALIDATORS_MAX
from vm.refusal import Refused
from vm.shape import NAME_BYTES_MAX
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

CONFIG_FILE = "concilium.toml"
CONFIG_BYTES_MAX = 64 * 1024  # a table of 64 validators takes about 6 KiB
ENVIRONMENT_PREFIX = "CONCILIUM_"
ENDPOINTS_MIN = 2  # one validator may be down or dishonest: ask another
TASKS_MAX = 256  # that one training peer takes part in at a time
PORT_MAX = 65_535
HTTP_NAMES_MAX = 16  # by which one node is reached: inside and outside, with and without a proxy
FOUND_CHARS_MAX = 80  # of a wrong value, shown in the refusal

T = TypeVar("T", bound="Section")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen or to connect: a host name or address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_endpoint(text: object) -> Endpoint:
    """Read `host:port`, an IPv6 address in brackets; raises ValueError."""
    if isinstance(text, Endpoint):
        return text
    match = _ENDPOINT.fullmatch(str(text))
    if match is None or not 1 <= int(match["port"]) <= PORT_MAX:
        raise ValueError(f"expected host:port with a port of 1 to {PORT_MAX}")
    return Endpoint(match["v6"] or match["host"], int(match["port"]))


_ENDPOINT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})"
)


def _in_home(path: Path, info: ValidationInfo) -> Path:
    return (info.context or Path()) / path


def _retention(blocks: int) -> int:
    if blocks and blocks < TX_LIFETIME_BLOCKS_MAX:
        raise ValueError(f"expected 0 for all, or at least {TX_LIFETIME_BLOCKS_MAX}")
    return blocks


HomePath = Annotated[Path, AfterValidator(_in_home)]
At = Annotated[Endpoint, BeforeValidator(parse_endpoint)]
Id = Annotated[
    str,
    StringConstraints(max_length=NAME_BYTES_MAX, pattern=r"^[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?$"),
]
Listed = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?(?:=[0-9a-f]{64})?$"),
]
Authority = Annotated[
    str,
    StringConstraints(
        max_length=256, pattern=r"^(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?$"
    ),
]
Url = Annotated[str, StringConstraints(max_length=512, pattern=r"^https?://[^\s/?#]+$")]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, and a value that was read never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Signer(Section):
    """A member that signs transactions."""

    id: Id = Field(description="id of the member, as enrolled on chain")
    key: HomePath = Field(description="its Ed25519 signing key; only its owner may read the file")


class Identity(Section):
    """A member that signs transactions and connects by mutual TLS."""

    id: Id = Field(description="id of the member, as enrolled on chain")
    key: HomePath = Field(description="its Ed25519 signing key; only its owner may read the file")
    tls_key: HomePath = Field(description="its TLS key, whose digest is enrolled on chain")
    tls_certificate: HomePath = Field(description="its certificate; its dates only warn")


class Voter(Identity):
    """A validator's member: its seat's key votes, and can be replaced while the node runs."""

    next_key: HomePath = Field(
        default=Path("keys/next.key"),
        validate_default=True,
        description="the key that `concilium validator rotate` makes; once the chain has given\n"
        "it the seat it takes the place of `key`",
    )


class Tls(Section):
    """Whose certificates may connect at all."""

    authority: HomePath = Field(description="certificate of the consortium's authority")

    def files(self, member: Identity) -> TlsFiles:
        """Return what `member` connects with."""
        return TlsFiles(member.tls_key, member.tls_certificate, self.authority)


class Chain(Section):
    """The one thing that must be right: it fixes the chain's id."""

    genesis: HomePath = Field(description="genesis document; all members hold equal ones")


class Store(Section):
    """Where the node keeps what it must not lose."""

    folder: HomePath = Field(description="folder of the store; one process at a time")


class ChainStore(Store):
    """Where the node keeps what it must not lose, and for how long."""

    retain_blocks: Annotated[int, AfterValidator(_retention)] = Field(
        default=0,
        description="blocks, receipts and old state to keep: 0 for all, else that many blocks,\n"
        f"at least {TX_LIFETIME_BLOCKS_MAX}; headers are kept for ever",
    )


class PeerStore(Store):
    """Where the peer keeps what it must not lose: approvals, traces of training, reports."""

    traces_mib: int = Field(
        default=8192,
        ge=1,
        description="room for snapshots of training, from which it goes on after a crash and\n"
        "answers auditors; where it is short, fewer are kept and the others made again",
    )


class Peer(Section):
    """Validator to validator."""

    listen: At = Field(description="host:port for validators and training peers, by mutual TLS")
    validators: dict[Id, At] = Field(
        max_length=VALIDATORS_MAX, description="where each validator of the chain is reached"
    )


class Http(Section):
    """The API that clients and auditors read."""

    listen: At = Field(description="host:port of the HTTP API")
    tls: bool = Field(
        default=False,
        description="speak TLS with the member's key; a client of the consortium may show its own\n"
        "certificate there, and needs no other proof of who it is",
    )
    names: tuple[Authority, ...] = Field(
        default=(),
        max_length=HTTP_NAMES_MAX,
        description="host:port as in the URLs by which clients reach this node, without a port of\n"
        "80 or 443; a request signed for another node is refused here. Empty: that of `listen`",
    )
    reads_per_s: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="requests a second of one reader, on average; those of ten seconds at once. A\n"
        "training peer sends a few",
    )
    access_digest_s: int = Field(
        default=3600,
        ge=1,
        le=86_400,
        description="seconds between two digests of the access log on the chain, if it has grown",
    )

    @property
    def known_as(self) -> tuple[str, ...]:
        """The authorities for which a request may be signed."""
        return self.names or (str(self.listen),)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of these, which a certificate has to name; not one that stands for all."""
        hosts = (urlsplit(f"//{name}").hostname or "" for name in self.known_as)
        return tuple(host for host in hosts if host not in ("0.0.0.0", "::"))  # noqa: S104 - left out


class ValidatorAddress(Section):
    """Both doors of one validator."""

    id: Id = Field(description="id of the validator")
    http: Url = Field(description="its HTTP API")
    peer: At = Field(description="its host:port for mutual TLS, where blobs are exchanged")


class Training(Section):
    """What a hospital's training peer does, and what its site permits."""

    dataset: Id = Field(description="id of the dataset's record on chain")
    data: HomePath = Field(description="the rows, as CSV; they never leave this machine")
    secret: HomePath = Field(
        description="salts the rows' leaves and parts the rows; lose it and the registered root\n"
        "can never be shown again"
    )
    approve: Literal["list", "ask"] = Field(
        default="list",
        description="list: the tasks below are approved by standing there, and the terms of one\n"
        "that has no digest are those of the first look. ask: no task is trained before somebody\n"
        "here has run `concilium peer approve`; tasks that name this site are looked for",
    )
    tasks: tuple[Listed, ...] = Field(
        max_length=TASKS_MAX,
        description="tasks that this site takes part in: ids, or id=digest of the terms that\n"
        "`concilium peer approve` shows",
    )
    opening: bool = Field(
        description="may snapshots of training be opened to verifiers? They can reveal rows;\n"
        "the dataset's record must permit it as well"
    )
    validators: tuple[ValidatorAddress, ...] = Field(
        min_length=ENDPOINTS_MIN,
        max_length=VALIDATORS_MAX,
        description="validators to talk to, two or more: if one is silent, the next is asked",
    )

    @property
    def listed(self) -> dict[str, bytes | None]:
        """The tasks by id, with the digest of the approved terms where one is given."""
        entries = (entry.partition("=") for entry in self.tasks)
        return {id: bytes.fromhex(terms) or None for id, _, terms in entries}


class Loop(Section):
    """A training loop of this site's own, in a process beside the peer (docs/hospital.md)."""

    socket: HomePath = Field(
        default=Path("loop.sock"),
        validate_default=True,
        description="where its script joins a round; only the peer's own user may",
    )
    tasks: tuple[Id, ...] = Field(
        default=(),
        max_length=TASKS_MAX,
        description="tasks of [training] tasks that a script of this site trains",
    )


class Client(Section):
    """Whom a client asks."""

    validators: tuple[Url, ...] = Field(
        min_length=ENDPOINTS_MIN,
        max_length=VALIDATORS_MAX,
        description="HTTP APIs of validators, two or more: if one is silent, the next is asked",
    )


class Log(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )
    format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="json, pretty, or auto: pretty on a terminal, else json"
    )


class ValidatorConfig(Section):
    """A validator of a Concilium network. Start it with: concilium run."""

    member: Voter
    tls: Tls
    chain: Chain
    store: ChainStore
    peer: Peer
    http: Http
    log: Log = Field(default_factory=Log)


class PeerConfig(Section):
    """A training peer beside a hospital's data. Start it with: concilium peer run."""

    trainer: Identity
    verifier: Identity
    tls: Tls
    chain: Chain
    store: PeerStore
    training: Training
    loop: Loop = Field(default_factory=Loop)
    log: Log = Field(default_factory=Log)


class Office(Section):
    """Whom a steward or an admin asks."""

    validators: tuple[ValidatorAddress, ...] = Field(
        min_length=ENDPOINTS_MIN,
        max_length=VALIDATORS_MAX,
        description="validators to talk to, two or more: if one is silent, the next is asked",
    )


class OfficeConfig(Section):
    """A steward (datasets, models, tasks) or an admin (members) of an organisation."""

    member: Identity
    tls: Tls
    chain: Chain
    client: Office


class ClientConfig(Section):
    """A member that reads over HTTP only: an auditor."""

    member: Signer
    tls: Tls
    chain: Chain
    client: Client


def load(kind: type[T], home: Path, environment: Mapping[str, str]) -> T:
    """Read the configuration in `home`, overridden by `environment`.

    Raises `Refused` with code `config.missing`, `config.unreadable`, `config.toml`,
    `config.unknown` (a key), `config.required` (a key) or `config.value`; the message names the
    file or the variable, and the key.
    """
    path = home / CONFIG_FILE
    data = _read_toml(path)
    variables = _override(data, kind, environment)
    try:
        return kind.model_validate(data, context=home)
    except ValidationError as error:
        raise _refusal(error, path, variables) from None


def render(config: Section) -> str:
    """Write `config` as commented TOML, which `load` reads back as its equal."""
    lines = [f"# {config.__doc__}", "# Paths are relative to this folder."]
    for name, section in config:
        lines += ["", f"# {section.__doc__}", f"[{name}]", *_render_section(name, section)]
    return "\n".join(lines) + "\n"


def _render_section(name: str, section: Section) -> list[str]:
    """Render keys and their comments; a table, which TOML wants last, is the last field."""
    lines = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        comment = [f"# {line}" for line in (field.description or "").splitlines()]
        match value:
            case dict():
                rows = [f"{_quote(k)} = {_quote(str(v))}" for k, v in value.items()]
                lines += ["", *comment, f"[{name}.{key}]", *rows]
            case (Section(), *_):
                lines += ["", *comment]
                for item in value:
                    rows = [f"{k} = {_quote(str(v))}" for k, v in item]
                    lines += [f"[[{name}.{key}]]", *rows]
            case tuple():
                inside = ", ".join(_quote(item) for item in value)
                lines += [*comment, f"{key} = [{inside}]"]
            case bool():
                lines += [*comment, f"{key} = {'true' if value else 'false'}"]
            case int():
                lines += [*comment, f"{key} = {value}"]
            case _:
                lines += [*comment, f"{key} = {_quote(str(value))}"]
    return lines


def _quote(text: str) -> str:
    """Write a basic string of TOML 1.0."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    assert escaped.isprintable(), "configuration holds names, paths and addresses"
    return f'"{escaped}"'


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise Refused("config.missing", f"{path}: expected a file, found none") from None
    except OSError as error:
        raise Refused(
            "config.unreadable", f"{path}: expected a readable file, found: {error.strerror}"
        ) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise Refused(
            "config.unreadable", f"{path}: expected at most {CONFIG_BYTES_MAX} bytes, found more"
        )
    try:
        return tomllib.loads(data.decode())
    except ValueError as error:  # not TOML, or not UTF-8
        raise Refused("config.toml", f"{path}: expected TOML, found: {error}") from None


def _override(
    data: dict[str, Any], kind: type[Section], environment: Mapping[str, str]
) -> dict[tuple[str, str], str]:
    """Put the environment's values into `data`; return which variable set which key."""
    keys = {
        f"{ENVIRONMENT_PREFIX}{section}_{key}".upper(): (section, key, inner.annotation)
        for section, outer in kind.model_fields.items()
        for key, inner in cast(type[Section], outer.annotation).model_fields.items()
    }
    variables = {}
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        if variable not in keys:
            raise Refused("config.unknown", f"expected one of {', '.join(keys)}, found {variable}")
        section, key, annotation = keys[variable]
        value: Any = environment[variable]
        if get_origin(annotation) in (dict, tuple):
            try:
                value = tomllib.loads(f"value = {value}")["value"]
            except ValueError as error:
                raise Refused("config.toml", f"{variable}: expected TOML: {error}") from None
        table = data.setdefault(section, {})
        if isinstance(table, dict):  # else the file is wrong, and validation says so
            table[key] = value
        variables[section, key] = variable
    return variables


def _refusal(
    error: ValidationError, path: Path, variables: Mapping[tuple[str, str], str]
) -> Refused:
    """Say what the first problem is, where it stands, and what was expected and found."""
    problems = error.errors(include_url=False)
    # A misspelt key is both unknown and missing: show the person what they wrote.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    section, key = (*(str(part) for part in problem["loc"]), "", "")[:2]
    where = variables.get((section, key), str(path)) + f": [{section}]"
    if len(problem["loc"]) > 1:
        where += " " + ".".join(str(part) for part in problem["loc"][1:])
    match problem["type"]:
        case "extra_forbidden":
            return Refused("config.unknown", f"{where}: expected a known key, found this one")
        case "missing":
            return Refused("config.required", f"{where}: expected a value, found none")
    text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return Refused(
        "config.value", f"{where}: {text}, found {str(problem['input'])[:FOUND_CHARS_MAX]!r}"
    )
