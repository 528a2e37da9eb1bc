"""Updates of class replayed, opened and replayed between real peers and validators."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.demo.processes import CONCILIUM
from node.home.config import CONFIG_FILE
from tests.fl.terms import by, sgd
from tests.network.opener import FORGED
from tests.network.running import HOSPITALS, Running, patiently, until
from tests.network.synthetic import TASK, open_task, register_datasets, write_rows
from vm.learning import Decision, Round, Task, TaskPhase, UpdateStatus, Verdict
from vm.refusal import Refused
from vm.terms import MICRO, Evidence, Replay, Rule

pytestmark = pytest.mark.network

SEGMENTS = 4
DRAWN = 2
VERDICT_MS = 60_000
OPENER = (sys.executable, "-m", "tests.network.opener")


class Replayed:
    """A network whose task asks for class replayed; its peers are still to be started."""

    def __init__(self, folder: Path, rounds: int, drawn: int) -> None:
        self.net = Running(folder / "net", tasks=[TASK])
        self.net.start_all()
        write_rows(self.net)
        register_datasets(self.net, folder, "--opening")
        open_task(
            self.net,
            folder,
            rounds,
            evidence=Evidence.REPLAYED,
            replay=Replay(drawn, 0, 0),
            training=sgd(MICRO // 20, 0, 0, steps=20, batch_rows=16, snapshot_steps=5),
            aggregation=by(Rule.WEIGHTED_MEAN, 0, 2),
            verdict_ms=VERDICT_MS,
        )

    def start_peer(self, number: int, how: str | None = None) -> None:
        """Start a hospital's training peer, whose site permits opening."""
        home = self.net.home(number, "peer")
        path = home / CONFIG_FILE
        path.write_text(path.read_text().replace("opening = false", "opening = true"))
        peer = [*CONCILIUM, "peer", "run", str(home)]
        self.net.spawn(home, peer if how is None else [*OPENER, str(home), how])

    def await_record(self, cls: type[Any], *key: str | int, done: Any) -> Any:
        """A proven record, once it is so."""

        async def ask() -> Any:
            async with self.net.client() as client:

                async def look() -> Any:
                    found = await client.record(cls, *key)
                    if found is None or not done(found):
                        raise Refused("test.waiting", f"expected another {cls.__name__} {key}")
                    return found

                return await patiently(look)

        return asyncio.run(ask())

    def outcomes(self, number: int) -> dict[str, tuple[UpdateStatus, str]]:
        """What became of each site in a round, once it is settled."""
        rnd = self.await_record(Round, TASK, number, done=lambda rnd: rnd.outcomes)
        return {one.organisation: (one.status, one.code) for one in rnd.outcomes}

    def verdicts(self, number: int, organisation: str) -> list[Verdict]:
        """All verdicts on an update."""
        return [
            self.await_record(Verdict, TASK, number, organisation, judge, done=lambda _: True)
            for judge in HOSPITALS
            if judge != organisation
        ]

    def await_log(self, number: int, role: str, words: str) -> None:
        """Wait until a node has logged this."""
        until(lambda: words in self.net.log(number, role), f"{words} of {role} {number}")

    def await_empty(self) -> None:
        """Wait until no validator and no verifier keeps an opening."""
        homes = [self.net.home(number, role) for number in self.net.numbers for role in ROLES]

        def kept() -> bool:
            return any(path.is_dir() for home in homes for path in home.glob(OPENINGS))

        until(lambda: not kept(), "openings deleted")


ROLES = ("validator", "peer")
OPENINGS = "**/openings/*/b*"
ACCEPTED = dict.fromkeys(HOSPITALS, (UpdateStatus.ACCEPTED, "update.accepted"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Makes a network of so many rounds."""
    made: list[Replayed] = []

    def begin(rounds: int, drawn: int = DRAWN) -> Replayed:
        made.append(Replayed(tmp_path, rounds, drawn))
        return made[0]

    yield begin
    for one in made:
        one.net.close()


@pytest.mark.timeout(240)
def test_a_task_whose_updates_are_all_replayed(start: Any) -> None:
    """Two rounds: each verifier asks, replays what it drew and passes; nothing opened stays."""
    replayed = start(rounds=2)
    for number in replayed.net.numbers:
        replayed.start_peer(number)

    task = replayed.await_record(Task, TASK, done=lambda task: task.phase is not TaskPhase.OPEN)

    assert (task.phase, task.closed, task.failures) == (TaskPhase.COMPLETED, 2, 0)
    for number in (1, 2):
        assert replayed.outcomes(number) == ACCEPTED
        for hospital in HOSPITALS:
            found = replayed.verdicts(number, hospital)
            assert {verdict.decision for verdict in found} == {Decision.PASS}
    for number in replayed.net.numbers:
        log = replayed.net.log(number, "peer")
        assert log.count("update.replayed") == 2 * 3
        assert "Traceback" not in log
    replayed.await_empty()


@pytest.mark.timeout(240)
def test_who_forges_is_rejected_and_who_does_not_open_is_undecided(start: Any) -> None:
    """One trainer makes up the end of a segment, another opens nothing; the round goes on."""
    replayed = start(rounds=1, drawn=SEGMENTS)
    for number, how in ((1, None), (2, None), (3, "closed"), (4, "forging")):
        replayed.start_peer(number, how)

    outcomes = replayed.outcomes(1)

    first, second, closed, forging = HOSPITALS
    assert outcomes[first] == outcomes[second] == ACCEPTED[first]
    assert outcomes[closed] == (UpdateStatus.UNDECIDED, "update.undecided")
    assert outcomes[forging] == (UpdateStatus.REJECTED, "replay.result")
    for verdict in replayed.verdicts(1, forging):
        assert (verdict.decision, verdict.segment) == (Decision.FAIL, FORGED)
    for verdict in replayed.verdicts(1, closed):
        assert (verdict.decision, verdict.code) == (Decision.ABSTAIN, "replay.not_opened")
    replayed.await_empty()


@pytest.mark.timeout(240)
def test_a_segment_that_one_verifier_fails_is_rerun_by_the_others(start: Any) -> None:
    """Two verifiers have seen nothing; the third names the segment, and so do they in the end."""
    replayed = start(rounds=1, drawn=SEGMENTS)
    for number, how in ((1, "blind"), (2, "blind"), (3, None), (4, "forging")):
        replayed.start_peer(number, how)

    outcomes = replayed.outcomes(1)

    forging = HOSPITALS[3]
    assert outcomes[forging] == (UpdateStatus.REJECTED, "replay.result")
    found = replayed.verdicts(1, forging)
    assert {(verdict.decision, verdict.segment) for verdict in found} == {(Decision.FAIL, FORGED)}
    assert [verdict.rerun for verdict in found] == [True, True, False]


@pytest.mark.timeout(240)
def test_openings_survive_a_killed_trainer_and_a_killed_validator(start: Any) -> None:
    """One dies as it brings a segment, the other's own validator once it has brought something."""
    replayed = start(rounds=1)
    net = replayed.net
    for number, how in ((1, None), (2, None), (3, "dying"), (4, None)):
        replayed.start_peer(number, how)

    replayed.await_log(4, "peer", "piece.opened")
    net.kill(4)
    until(lambda: not net.alive(3, "peer"), "the trainer killed")
    replayed.start_peer(3)
    net.start(4)

    assert replayed.outcomes(1) == ACCEPTED
    assert net.signal(net.home(4, "peer"), signal.SIGTERM) == 0
    replayed.await_empty()
