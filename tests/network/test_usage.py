"""Uses of a model on a real network: recorded by the command line, shown, verified offline."""

import asyncio
import base64
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.client.listing import records
from node.demo.processes import CONCILIUM
from node.usage.journal import Journal
from tests.fl.dialogue import MODEL, model
from tests.network.running import DEADLINE_S, ENVIRONMENT, Answer, Running, concilium, until
from vm.opened import OneUse, read_proof
from vm.shape import pack, unpack
from vm.usage import ModelUsage, OrganisationUsage, Use, UseBatchRecord

pytestmark = pytest.mark.network

USER = 2  # the hospital that uses the model
OWNER = "hospital-2"
USES = 500
JSON = ("--format", "json")


class Ward:
    """A network with a model, and a hospital that has used it and recorded that."""

    def __init__(self, folder: Path) -> None:
        self.net = Running(folder / "net")
        self.home = self.net.home(USER, "steward")

    def work(self) -> None:
        """Start all; register the model; keep uses; send them, with a kill on the way."""
        self.net.start_all()
        asyncio.run(self._register())
        rows = "".join(f"{MODEL},0,care,{count + 1},list {count}\n" for count in range(USES))
        self.kept = _add(self.home, f"model,version,purpose,count,note\n{rows}").data
        with Journal(self.home / "usage") as uses:
            uses.record(MODEL, 0, "research", count=7)
            uses.record(MODEL, 0, "development", action="export")
        self._send_and_kill()
        self.sent = concilium("usage", "send", self.home, *JSON)

    async def _register(self) -> None:
        sender, kind, body = model()
        async with self.net.pen(1, "steward") as pen:
            assert sender == pen.member
            await pen.submit(kind, body)

    def _send_and_kill(self) -> None:
        """Kill the sender once it has signed something, wherever it is by then."""
        command = [*CONCILIUM, "usage", "send", str(self.home)]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as sender:
            until(self._signed, "a batch that is signed")
            sender.send_signal(signal.SIGKILL)

    def _signed(self) -> bool:
        with Journal(self.home / "usage") as uses:
            return any(batch.signed for batch in uses.batches())


def _add(home: Path, rows: str) -> Answer:
    """Keep the uses of a CSV."""
    done = subprocess.run(
        [*CONCILIUM, "usage", "add", str(home), "--read", "csv", *JSON],
        env=ENVIRONMENT,
        input=rows,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """The ward after its work; tests only look, or add what is refused."""
    made = Ward(tmp_path_factory.mktemp("usage"))
    try:
        made.work()
        yield made
    finally:
        made.net.close()


def opened(ward: Ward, out: Path, *flags: str) -> Path:
    """A file that shows uses of the first batch."""
    answer = concilium("usage", "open", ward.home, "--batch", "1", "--out", out, *flags)
    assert answer.code == 0, answer
    return out


def verify(ward: Ward, path: Path) -> Answer:
    """Verify a file with the genesis alone."""
    return concilium("audit", "verify", path, "--genesis", ward.net.layout.genesis, *JSON)


def test_each_use_is_recorded_once_in_spite_of_a_kill(ward: Ward) -> None:
    """Totals on the chain are those of the list and of the software, batch by batch."""

    async def read() -> tuple[ModelUsage | None, list[UseBatchRecord]]:
        async with ward.net.client() as client:
            usage = await client.record(ModelUsage, MODEL)
            return usage, await records(client, UseBatchRecord, MODEL, OWNER)

    usage, batches = asyncio.run(read())

    assert ward.kept == {"kept": USES}
    assert ward.sent.code == 0, ward.sent
    inferences = USES * (USES + 1) // 2 + 7
    assert usage is not None
    assert usage.organisations == (OrganisationUsage(OWNER, 3, inferences, 1),)
    assert [batch.number for batch in batches] == [1, 2, 3]
    assert sorted(batch.entries for batch in batches) == [1, 1, USES]
    listed = concilium("usage", "list", ward.home, *JSON).data
    assert sorted(batch["number"] for batch in listed["batches"]) == [1, 2, 3]
    assert (listed["waiting"], listed["late"]) == ([], [])


def test_one_use_or_all_of_a_batch_are_verified_offline(ward: Ward, tmp_path: Path) -> None:
    """The auditor's file shows what it should and no note."""
    one = opened(ward, tmp_path / "one.json", "--use", "41")
    every = opened(ward, tmp_path / "all.json")

    shown, all_of_it = verify(ward, one).data, verify(ward, every).data

    assert [use["count"] for use in shown["content"]["uses"]] == [42]
    assert shown["content"]["batch"]["organisation"] == OWNER
    assert f"1 use of {USES} with its path to the batch's root" in shown["steps"]
    assert len(all_of_it["content"]["uses"]) == USES
    for path in (one, every):
        assert "list 41" not in base64.b64decode(json.loads(path.read_text())["proof"]).decode(
            errors="replace"
        )
    (noted,) = shown["content"]["uses"]
    (own,) = (
        use
        for use in concilium("usage", "list", ward.home, "--batch", "1", *JSON).data
        if use["use"] == 41
    )
    assert (own["note"], own["note_text"]) == (noted["note"], "list 41")


def test_a_changed_file_is_refused_with_the_step_that_failed(ward: Ward, tmp_path: Path) -> None:
    """One patient more than there was, and the leaf has no path any more."""
    path = opened(ward, tmp_path / "one.json", "--use", "41")
    document = json.loads(path.read_text())
    document["proof"] = base64.b64encode(_count(base64.b64decode(document["proof"]))).decode()
    path.write_text(json.dumps(document))

    answer = verify(ward, path)

    assert (answer.code, answer.error[0]) == (5, "audit.use.path")


def _count(data: bytes) -> bytes:
    """The proof of one use with a higher count in its leaf."""
    proof = read_proof(data)
    assert isinstance(proof.opened, OneUse)
    use = unpack(Use, proof.opened.leaf)
    leaf = pack(replace(use, count=use.count + 1))
    return pack(replace(proof, opened=replace(proof.opened, leaf=leaf)))


def test_a_member_of_another_role_is_refused(ward: Ward) -> None:
    """An admin's uses stay in its own books: the chain names the roles that may record."""
    admin = ward.net.home(USER, "admin")
    assert _add(admin, f"model,version,purpose\n{MODEL},0,care\n").code == 0

    answer = concilium("usage", "send", admin, *JSON)

    assert (answer.code, answer.error[0]) == (3, "access.role")


def test_a_version_that_is_not_there_waits(ward: Ward) -> None:
    """What speaks of it is shown and refused, and nothing of it is on the chain."""
    steward = ward.net.home(3, "steward")
    assert _add(steward, f"model,version,purpose\n{MODEL},9,care\n").code == 0

    answer = concilium("usage", "send", steward, *JSON)

    assert (answer.code, answer.error[0]) == (3, "model.missing")
    assert concilium("usage", "list", steward, *JSON).data["waiting"][0]["waiting"] == 1
