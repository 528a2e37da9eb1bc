"""The package metadata says what the code needs, and no more."""

import configparser
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.audit.file import Version, write_file
from node.audit.prove import newest, prove_lineage
from node.home.config import ClientConfig, ValidatorConfig, load
from node.home.document import dump
from node.home.testnet import write_testnet
from tests.node.case.made import VERSION, make, run_case
from tests.node.network import MODEL, learn, open_network

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9._-]+")


def normalized(requirement: str) -> str:
    """Return the distribution name of a requirement line in the form of PEP 503."""
    match = REQUIREMENT_NAME.match(requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    """setup.cfg, parsed."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """The version of each distribution in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.partition("#")[0].split("==") for line in lines if "==" in line)
    return {normalized(name): version.strip() for name, version in pairs}


def requirements(setup_cfg: configparser.ConfigParser) -> dict[str, set[str]]:
    """Return the direct requirements of the base install ("") and of each extra."""
    found = {"": setup_cfg["options"]["install_requires"]}
    found.update(setup_cfg["options.extras_require"])
    return {
        extra: {normalized(line) for line in text.split() if not line.startswith("concilium[")}
        for extra, text in found.items()
    }


def test_each_direct_requirement_is_pinned(
    setup_cfg: configparser.ConfigParser, pins: dict[str, str]
) -> None:
    """Whatever setup.cfg asks for has one exact version in constraints.txt."""
    asked = set().union(*requirements(setup_cfg).values())

    missing = asked - pins.keys()

    assert not missing


def test_what_writes_case_files_is_exact_in_every_installation(
    setup_cfg: configparser.ConfigParser, pins: dict[str, str]
) -> None:
    """Another version may write other bytes, and refuse every case file of ours."""
    asked = setup_cfg["options"]["install_requires"].split()

    for name in ("jinja2", "prov", "rfc8785"):
        assert f"{name}=={pins[name]}" in asked


def test_the_base_install_is_light(setup_cfg: configparser.ConfigParser) -> None:
    """Auditing needs neither torch nor LevelDB nor numpy; validating needs no torch."""
    asked = requirements(setup_cfg)

    assert not asked[""] & {"torch", "plyvel", "numpy", "pandas", "safetensors"}
    assert "torch" not in asked["node"]


def test_torch_is_pinned_without_a_build_label(pins: dict[str, str]) -> None:
    """A version without a local label lets each machine take its own build of the same torch."""
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("package", ["consensus", "fl", "node", "vm"])
def test_each_package_is_installed(package: str, setup_cfg: configparser.ConfigParser) -> None:
    """The four packages are found by setup.cfg and can be imported without torch or plyvel."""
    assert f"{package}*" in setup_cfg["options.packages.find"]["include"].split()
    folders = {module.parent for module in (ROOT / package).rglob("*.py")}
    assert folders
    assert all((folder / "__init__.py").is_file() for folder in folders)

    blocked = "import sys; sys.modules.update(torch=None, plyvel=None); import " + package
    result = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, check=False)

    assert result.returncode == 0


def test_the_containers_are_configured_by_known_keys(tmp_path: Path) -> None:
    """What compose.yaml sets in the environment overrides a testnet's validator as it is meant."""
    text = (ROOT / "compose.yaml").read_text()
    folded = re.sub(r">-\n((?:    .*\n)+)", lambda lines: " ".join(lines[1].split()) + "\n", text)
    environment = dict(re.findall(r"^  (CONCILIUM_[A-Z_]+): (.*)$", folded, re.MULTILINE))
    names = re.findall(r"^      (CONCILIUM_HTTP_NAMES): '(.*)'$", text, re.MULTILINE)
    environment |= dict(names[1:2])  # those of the second hospital
    net = write_testnet(tmp_path / "net", now=datetime(2026, 3, 1, tzinfo=UTC))
    outside = load(ClientConfig, net.auditor, {}).client.validators

    config = load(ValidatorConfig, net.home("hospital-2", "validator"), environment)

    assert len(environment) + len(net.hospitals) - 1 == text.count("CONCILIUM_")
    assert f"http://{config.http.names[0]}" == outside[1]
    assert len({value for _, value in names}) == len(net.hospitals)
    assert config.peer.listen.port == 7100
    assert config.http.listen.port == 7101
    assert {str(at) for at in config.peer.validators.values()} == {
        f"{hospital}:7100" for hospital in net.hospitals
    }


AUDITOR = """
import sys
sys.modules.update(dict.fromkeys(("torch", "plyvel", "numpy", "safetensors", "pandas")))
from node.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_as_auditor(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One command where only the base install is there."""
    return subprocess.run(
        [sys.executable, "-c", AUDITOR, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_base_install_verifies_a_model_offline(tmp_path: Path) -> None:
    """`concilium audit verify FILE` imports neither torch nor LevelDB nor numpy."""
    genesis, proof = tmp_path / "genesis.json", tmp_path / "proof.json"
    with open_network(tmp_path) as network:
        learn(network, 1)
        genesis.write_text(json.dumps(dump(network.genesis)))
        certified = newest(network.chain)
        made = prove_lineage(network.chain, certified, MODEL, 1)
        proof.write_text(write_file(made, lineage=Version(MODEL, 1)))

    done = run_as_auditor("audit", "verify", proof, "--genesis", genesis, "--format", "json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subject"] == f"model {MODEL} version 1"


def test_the_base_install_verifies_a_case_file_offline(tmp_path: Path) -> None:
    """A case file takes what renders it too, and still neither torch nor LevelDB nor numpy."""
    genesis, case = tmp_path / "genesis.json", tmp_path / "case.zip"
    with open_network(tmp_path) as network:
        run_case(network)
        genesis.write_text(json.dumps(dump(network.genesis)))
        case.write_bytes(make(network))

    done = run_as_auditor("audit", "verify", case, "--genesis", genesis, "--format", "json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subject"] == f"case file of model {MODEL} version {VERSION}"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("audit", "verify", "--help"), 0),
        (("audit", "watch", "--help"), 0),
        (("audit", "sync", "--genesis", "genesis.json", "--url", "http://127.0.0.1:9"), 3),
        (("audit", "pin", "--genesis", "genesis.json", "--store", "none"), 3),
        (("audit", "record", "member", "x", "--genesis", "genesis.json", "--url", "http://a"), 3),
        (("status", "--genesis", "genesis.json", "--url", "http://127.0.0.1:9"), 3),
        (("usage", "send", "home"), 3),
        (("submit", "home", "member.standing", "body.json"), 3),
        (("testnet", "net", "--organisations", "3"), 3),
    ],
)
def test_the_base_install_has_what_needs_no_extra(arguments: tuple[str, ...], code: int) -> None:
    """What only reads and signs comes as far as its own refusals."""
    done = run_as_auditor(*arguments)

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("role", "command"), [("validator", "run"), ("peer", "peer run")])
def test_a_command_without_its_extra_says_what_to_install(
    role: str, command: str, tmp_path: Path
) -> None:
    """A person is told instead of reading a traceback."""
    net = write_testnet(tmp_path / "net", now=datetime(2026, 3, 1, tzinfo=UTC))

    done = run_as_auditor(*command.split(), net.home("hospital-1", role))

    assert done.returncode == 3
    assert done.stderr.startswith("install.extra: expected the package ")
    assert "concilium[node]" in done.stderr
    assert "concilium[train]" in done.stderr
