"""A learning task through real training peers, with crashes and an attack, and its audit."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl.weights import unpack_weights
from node.demo.processes import CONCILIUM
from node.wire.cid import address
from tests.network.running import (
    HOSPITALS,
    Answer,
    Running,
    concilium,
    patiently,
)
from tests.network.synthetic import (
    GRID_BITS,
    MODEL,
    SPEC,
    TASK,
    open_task,
    register_datasets,
    write_rows,
)
from vm.conduct import Audit, AuditOutcome, Visit
from vm.learning import (
    Round,
    Task,
    TaskPhase,
    Update,
    UpdateStatus,
)
from vm.record import Model
from vm.refusal import Refused

pytestmark = pytest.mark.network

ROUNDS = 3
POISONED = 2
ATTACKER = 4  # the last hospital
KILLED_PEER = 2
KILLED_VALIDATOR = 1  # the primary of view 0, and the one that hospital 1 asks first


class Learning:
    """The network with its task done, and what was seen on the way."""

    def __init__(self, net: Running, folder: Path) -> None:
        self.net = net
        self.folder = folder
        net.start_all()
        write_rows(net)
        self.receipts = [*register_datasets(net, folder), open_task(net, folder, ROUNDS)]
        for number in range(1, len(HOSPITALS) + 1):
            self.start_peer(number)
        self._break_things()
        asyncio.run(self._await(Task, TASK, done=lambda task: task.phase is not TaskPhase.OPEN))
        net.headers()  # the one that was down has caught up: whoever is asked shows the same

    def start_peer(self, number: int) -> None:
        """Start a hospital's training peer; the last one is dishonest."""
        home = self.net.home(number, "peer")
        command = [*CONCILIUM, "peer", "run", str(home)]
        if number == ATTACKER:
            command = [*CONCILIUM[:3], "node.demo.attacker", str(home), str(POISONED)]
        self.net.spawn(home, command)

    def record(self, cls: type[Any], *key: str | int) -> Any:
        """A proven record, which must be there."""

        async def ask() -> Any:
            async with self.net.client() as client:
                return await client.record(cls, *key)

        found = asyncio.run(ask())
        assert found is not None, key
        return found

    def _break_things(self) -> None:
        """Kill a peer after its first update; with it away, the primary too."""
        peer = self.net.home(KILLED_PEER, "peer")
        hospital = HOSPITALS[KILLED_PEER - 1]
        asyncio.run(self._await(Update, TASK, 1, hospital, done=lambda _: True))
        assert self.net.signal(peer, signal.SIGKILL) == -signal.SIGKILL
        self.net.kill(KILLED_VALIDATOR)
        self.start_peer(KILLED_PEER)
        asyncio.run(self._await(Round, TASK, 2, done=lambda _: True))
        self.net.start(KILLED_VALIDATOR)

    async def _await(self, cls: type[Any], *key: str | int, done: Any) -> None:
        async with self.net.client() as client:

            async def look() -> None:
                found = await client.record(cls, *key)
                if found is None or not done(found):
                    raise Refused("test.waiting", f"expected another {cls.__name__} {key}")

            await patiently(look)


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learning]:
    """A task of three rounds, gone through; nothing here changes the network."""
    folder = tmp_path_factory.mktemp("learning")
    net = Running(folder / "net", tasks=[TASK])
    try:
        yield Learning(net, folder)
    finally:
        net.close()


def test_the_task_completes_in_spite_of_crashes(learning: Learning) -> None:
    """With a peer and the primary killed on the way, every round makes a version of the model."""
    task = learning.record(Task, TASK)

    assert task.phase is TaskPhase.COMPLETED
    assert (task.closed, task.round, task.failures) == (ROUNDS, ROUNDS, 0)
    for number in range(1, ROUNDS + 1):
        assert learning.record(Round, TASK, number).model_version == number


def test_only_the_poisoned_update_is_rejected(learning: Learning) -> None:
    """The round's record says which and why; the killed peer's updates all count."""
    outcomes = {
        (number, outcome.organisation): outcome
        for number in range(1, ROUNDS + 1)
        for outcome in learning.record(Round, TASK, number).outcomes
    }

    rejected = outcomes.pop((POISONED, HOSPITALS[ATTACKER - 1]))

    assert (rejected.status, rejected.code) == (UpdateStatus.REJECTED, "update.norm_bound")
    assert rejected.reason
    assert {outcome.status for outcome in outcomes.values()} == {UpdateStatus.ACCEPTED}


def test_all_validators_come_to_one_state(learning: Learning) -> None:
    """Also the one that was down for a while."""
    assert len({header.state for header in learning.net.headers()}) == 1


def test_no_process_fell_over(learning: Learning) -> None:
    """Nothing in the logs is a bug, and no key or row was logged."""
    for number in range(1, len(HOSPITALS) + 1):
        for role in ("validator", "peer"):
            log = learning.net.log(number, role)
            assert "Traceback" not in log, (number, role)
        for key in learning.net.home(number, "peer").glob("keys/*"):
            assert key.read_text().splitlines()[1] not in learning.net.log(number, "peer")


# The auditor


def audit(learning: Learning, *arguments: str | Path) -> Answer:
    """`concilium audit verify` with the auditor's home."""
    return concilium("audit", "verify", "--home", learning.net.layout.auditor, *arguments)


@pytest.fixture(scope="module")
def proof(learning: Learning) -> Path:
    """The newest version's proof as a file, fetched and verified."""
    path = learning.folder / "proof.json"
    data = audit(learning, "--model", MODEL, "--save", path, "--format", "json").data
    assert data["subject"] == f"model {MODEL} version {ROUNDS}"
    return path


def test_the_auditor_verifies_the_model_over_http(learning: Learning) -> None:
    """With the genesis document alone, in text too; an older version as well."""
    newest = audit(learning, "--model", MODEL)
    older = audit(learning, "--model", MODEL, "--version", "1", "--format", "json").data

    assert newest.code == 0
    assert f"model {MODEL} version {ROUNDS}" in newest.out
    assert newest.out.count("  verified: ") == 14
    assert older["subject"] == f"model {MODEL} version 1"


def test_a_proof_verifies_offline(learning: Learning, proof: Path) -> None:
    """The file and the genesis document are enough, with nobody to ask."""
    answer = concilium("audit", "verify", proof, "--genesis", learning.net.layout.genesis)

    assert answer.code == 0, answer
    assert f"model {MODEL} version {ROUNDS}" in answer.out


def test_another_network_s_genesis_verifies_nothing(learning: Learning, proof: Path) -> None:
    """Exit code 5, over HTTP and offline: these validators never signed that chain."""
    other = learning.folder / "other"
    assert concilium("testnet", other).code == 0
    genesis = other / "genesis.json"
    urls = [item for url in learning.net.urls for item in ("--url", url)]

    online = concilium(
        *("audit", "verify", "--model", MODEL, "--format", "json", *urls),
        *("--genesis", str(genesis), "--member", "auditor"),
        *("--key", str(learning.net.layout.auditor / "keys" / "auditor.key")),
    )
    offline = concilium("audit", "verify", proof, "--genesis", genesis)

    assert online.code == offline.code == 5
    assert online.error[0] == "audit.chain"
    assert offline.err.startswith("audit.chain: expected chain ")


def test_a_tampered_proof_is_not_verified(learning: Learning, proof: Path) -> None:
    """Exit code 5 wherever a bit was turned, also where the file no longer decodes."""
    document = json.loads(proof.read_text())
    tampered = learning.folder / "tampered.json"
    text = document["proof"]
    for place in (8, len(text) // 2, len(text) - 8):
        letter = "A" if text[place] != "A" else "B"
        document["proof"] = text[:place] + letter + text[place + 1 :]
        tampered.write_text(json.dumps(document))

        answer = concilium("audit", "verify", tampered, "--genesis", learning.net.layout.genesis)

        assert answer.code == 5, (place, answer)
        assert "Traceback" not in answer.err


def test_a_model_that_is_not_there_is_no_false_proof(learning: Learning) -> None:
    """Asking for a wrong name is refused, not called unverified."""
    unknown = audit(learning, "--model", "no-such-model", "--format", "json")
    beyond = audit(learning, "--model", MODEL, "--version", "99", "--format", "json")

    assert (unknown.code, unknown.error[0]) == (3, "lineage.missing")
    assert (beyond.code, beyond.error[0]) == (3, "lineage.missing")


# The hospital


def test_a_steward_fetches_the_model(learning: Learning) -> None:
    """What is written has the address on the chain; a file that exists stays as it is."""
    home, out = learning.net.home(3, "steward"), learning.folder / "model.safetensors"
    record = learning.record(Model, MODEL, ROUNDS)

    data = concilium("model", "get", home, MODEL, "--out", out, "--format", "json").data
    again = concilium("model", "get", home, MODEL, "--out", out)

    assert address(out.read_bytes()) == record.weights == data["weights"]
    assert len(unpack_weights(SPEC, GRID_BITS, out.read_bytes())) == 4
    assert again.code == 3
    assert again.err.startswith("file.exists: ")


def test_a_model_version_that_is_not_there(learning: Learning) -> None:
    """The answer names what was asked for."""
    home, out = learning.net.home(3, "steward"), learning.folder / "none"

    answer = concilium(
        "model", "get", home, MODEL, "--version", "99", "--out", out, "--format", "json"
    )

    assert answer.code == 3
    assert answer.error[0] == "model.missing"
    assert "99" in answer.error[1]
    assert not out.exists()


def test_peer_check_says_whether_the_rows_fit(learning: Learning) -> None:
    """The task is the one that the peer's home names."""
    home = learning.net.home(1, "peer")

    text = concilium("peer", "check", home)
    data = concilium("peer", "check", home, "--format", "json").data

    assert text.code == 0
    assert f"the data fits task {TASK}" in " ".join(text.out.split())
    assert (data["task"], data["rows"], data["problems"]) == (TASK, 60, [])


def test_peer_check_says_what_does_not_fit(learning: Learning) -> None:
    """Code, column, count and first rows, but no cell: the report may be sent around."""
    home, data = learning.net.home(1, "peer"), learning.folder / "bad.csv"
    rows = (home / "rows.csv").read_text().splitlines()
    rows[2] = "secret-cell," + rows[2].partition(",")[2]
    data.write_text("\n".join(rows))

    answer = concilium("peer", "check", home, "--format", "json", CONCILIUM_TRAINING_DATA=str(data))

    assert answer.code == 3
    assert answer.error[0] == "peer.data"
    (problem,) = json.loads(answer.out)["problems"]
    assert problem == {"code": "value.number", "column": "Age", "count": 1, "rows": [2]}
    assert "secret-cell" not in answer.out + answer.err


def test_a_dry_run_trains_one_round_and_sends_nothing(learning: Learning) -> None:
    """Also after the task is over: the chain is only read."""
    home, before = learning.net.home(1, "peer"), learning.record(Task, TASK)

    data = concilium("peer", "run", home, "--dry-run", "--format", "json").data
    text = concilium("peer", "run", home, "--dry-run", "--task", TASK)

    assert (data["task"], data["sent"], data["registered"]) == (TASK, False, True)
    assert len(data["losses"]) == 10
    assert data["own"]["auc"] is not None
    assert text.code == 0
    assert "trained here and sent nowhere" in text.out
    assert learning.record(Task, TASK) == before


def test_a_hospital_has_its_report(learning: Learning) -> None:
    """Every round with its outcome and the figures of three models; verdicts are in the log."""
    home = learning.net.home(1, "peer")

    found = concilium("peer", "report", home, "--format", "json").data["rounds"]

    assert [entry["round"] for entry in found] == list(range(1, ROUNDS + 1))
    for entry in found:
        assert entry["status"] == "accepted"
        assert all(entry["figures"][name] for name in ("base", "own", "shared"))
    log = learning.net.log(1, "peer")
    assert log.count("update.verdict") == ROUNDS * (len(HOSPITALS) - 1)
    assert log.count("round.ended") == ROUNDS


def test_a_task_is_approved_in_words(learning: Learning) -> None:
    """A program says --yes; without a terminal nobody is asked, and nothing is approved."""
    home = learning.net.home(1, "peer")

    silent = concilium("peer", "approve", home, TASK, "--format", "json")
    text = concilium("peer", "approve", home, TASK, "--yes")
    data = concilium("peer", "approve", home, TASK, "--yes", "--format", "json").data
    unknown = concilium("peer", "approve", home, "no-task", "--yes", "--format", "json")

    assert silent.error[0] == "usage.yes"
    assert f"{TASK}: A small task. Opened by hospital-1.steward of hospital-1." in text.out
    assert f"Approved task {TASK} under terms of digest {data['digest']}" in text.out
    assert data["terms"]["rounds"] == ROUNDS
    assert unknown.error[0] == "peer.task"


def test_peer_check_of_an_unknown_task(learning: Learning) -> None:
    """A typing error in the task's name is said to be one."""
    answer = concilium("peer", "check", learning.net.home(1, "peer"), "--task", "no-task")

    assert answer.code == 3
    assert answer.err.startswith("peer.task: expected task no-task on the chain")


def test_sigterm_ends_training_peers_cleanly(learning: Learning) -> None:
    """Exit code 0, the dishonest one's too; it comes last, as it ends them."""
    homes = [learning.net.home(number, "peer") for number in range(1, len(HOSPITALS) + 1)]

    codes = [learning.net.signal(home, signal.SIGTERM) for home in homes]

    assert codes == [0, 0, 0, 0]
    for number in range(1, len(HOSPITALS) + 1):
        assert "Traceback" not in learning.net.log(number, "peer")


# The auditor at the hospital


def test_an_auditor_replays_a_trace_at_the_hospital(learning: Learning) -> None:
    """The rows stay there; the attestation stands on the chain, once for each organisation.

    The hospital's peer was killed in this very round and goes on beside the audit.
    """
    hospital = HOSPITALS[KILLED_PEER - 1]
    homes = learning.net.layout.auditor, learning.net.home(KILLED_PEER, "peer")
    command = ("audit", "learning", *homes, "--task", TASK, "--round", "1", "--format", "json")

    tried = concilium(*command, "--segments", "2", "--dry-run").data
    found = concilium(*command).data
    again = concilium(*command)

    assert (tried["outcome"], tried["segments"], tried["attested"]) == ("passed", 2, False)
    assert (found["outcome"], found["code"], found["attested"]) == ("passed", "audit.passed", True)
    record = learning.record(Audit, TASK, 1, hospital, "auditor")
    assert (record.outcome, record.segments) == (AuditOutcome.PASSED, found["segments"])
    assert learning.record(Update, TASK, 1, hospital).audits_passed == 1
    assert learning.record(Visit, TASK, 1, hospital, "auditor").trainer == f"{hospital}.trainer"
    assert again.error[0] == "audit.duplicate"


def test_a_trace_that_is_not_to_be_had_is_attested_as_such(learning: Learning) -> None:
    """The attacker's trace is not what it committed to: unavailable accuses nobody, and is seen."""
    hospital = HOSPITALS[ATTACKER - 1]
    homes = learning.net.layout.auditor, learning.net.home(ATTACKER, "peer")

    found = concilium(
        *("audit", "learning", *homes, "--task", TASK, "--round", str(POISONED)),
        *("--format", "json"),
    ).data

    assert (found["outcome"], found["code"]) == ("unavailable", "audit.no_trace")
    assert learning.record(Update, TASK, POISONED, hospital).audits_unavailable == 1
