"""A site's own training loop over the peer's socket, and what nobody gets by connecting to it."""

import asyncio
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fl
from fl import frames
from fl.frames import Join, Kept, Part, Taken
from fl.loop import Round, environment_digest, round_in_place, script_digest
from fl.model import Rows
from fl.spec import logistic_regression
from fl.trace import origin
from fl.verify import Case, judge, update_delta
from fl.weights import unpack_update
from node.peer.loop import CONNECTIONS_MAX, PATH_BYTES_MAX, Loop
from tests.fl.dialogue import TASK
from tests.node.hospital import Town
from tests.node.peer.looks import opened
from vm.learning import Round as ChainRound
from vm.learning import Task, Update
from vm.refusal import Refused
from vm.terms import Evidence

DEADLINE_S = 30.0  # that only a hang reaches


@pytest.fixture
def path() -> Iterator[Path]:
    """A short path, as sockets need one."""
    folder = Path(tempfile.mkdtemp(prefix="loop-"))
    yield folder / "s"
    shutil.rmtree(folder)


def with_script(town: Town, path: Path, script: Callable[[], Any], *, trains: bool = True) -> Any:
    """What `script` gives in a thread of its own, beside hospital 1's peer."""

    async def scenario() -> Any:
        async with asyncio.timeout(DEADLINE_S), Loop(path, [TASK], town.traces(1)) as loop:
            trainer = asyncio.create_task(town.trainer(1, own=loop).work(TASK))
            if not trains:
                trainer.cancel()
            try:
                found = await asyncio.to_thread(script)
                if trains:
                    await trainer
                return found
            finally:
                trainer.cancel()
                await asyncio.gather(trainer, return_exceptions=True)

    return asyncio.run(scenario())


def code_with_script(town: Town, path: Path, script: Callable[[], Any]) -> str:
    """The code with which a script's round ends."""
    with pytest.raises(Refused) as refused:
        with_script(town, path, script)
    return refused.value.code


def update(town: Town) -> Update:
    """Hospital 1's update."""
    return town.chain.get(Update, TASK, 1, "hospital-1")


def delta(town: Town) -> list[int]:
    """Its numbers."""
    found = update(town)
    spec = logistic_regression(2)
    blob = town.blobs[found.blob]
    numbers: list[int] = unpack_update(spec, 24, origin(found), found.segments, blob)[0].tolist()
    return numbers


def has_form(town: Town) -> bool:
    """Whether a verifier finds no fault with hospital 1's update before it looks at losses."""
    found, no_rows = update(town), Rows(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ())
    terms, base = town.chain.get(Task, TASK).terms, np.zeros(3, np.int64)
    blob = town.blobs[found.blob]
    own = update_delta(logistic_regression(2), 24, found, blob)
    assert own is not None
    case = Case.of(logistic_regression(2), 24, terms, base, [own], no_rows)
    return judge(case, found, blob).code == "verdict.no_scoring_rows"


def model_and_optimizer() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    """A plain model in float32, and Adam."""
    model = torch.nn.Linear(2, 1)
    return model, torch.optim.Adam(model.parameters(), lr=0.05)


def plain_loop(path: Path) -> list[int]:
    """A researcher's loop with its five changed lines; the weights that it ends with."""
    model, optimizer = model_and_optimizer()
    rnd = fl.join(TASK, str(path))
    rnd.load(model)
    inputs, labels = rnd.rows()
    x, y = torch.from_numpy(inputs).float(), torch.from_numpy(labels).float()
    for step in range(1, rnd.steps + 1):
        optimizer.zero_grad()
        logits = model(x)[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rnd.snapshot(step, model, optimizer)
    flat = torch.nn.utils.parameters_to_vector(model.parameters())
    return [int(value) for value in flat.detach().double() * 2**24]


# Training


def test_a_plain_torch_loop_trains_a_round(tmp_path: Path, path: Path) -> None:
    """Its model's very numbers are the update, of class committed, and verifiers pass it."""
    town = opened(tmp_path)

    weights = with_script(town, path, lambda: plain_loop(path))

    assert delta(town) == weights  # the base is zero
    assert has_form(town)
    assert (update(town).evidence, update(town).segments) == (Evidence.COMMITTED, 4)


def test_script_and_environment_are_recorded(tmp_path: Path, path: Path) -> None:
    """In the trace that an auditor asks for, and under the root that the chain has of it."""
    town = opened(tmp_path)

    with_script(town, path, lambda: plain_loop(path))

    trace = town.traces(1).find(TASK, 1)
    assert trace is not None
    assert trace.head.script == script_digest()
    assert trace.head.environment == environment_digest()
    assert len(trace.segments()) == 4
    assert len({segment.batches for segment in trace.segments()}) == 4
    newest = trace.newest()
    assert newest is not None
    assert (len(newest.weights), len(newest.state)) == (3, 6)


class Hospital:
    """What a Flower client looks like; flwr is not installed here."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, Any]:
        """Something that moves every weight."""
        self.config = config
        return [values + 0.25 for values in parameters], 17, {"loss": 0.5}


def test_a_flower_client_runs_unchanged(tmp_path: Path, path: Path) -> None:
    """Its update is of class scored: one segment says where it ends, and nothing how."""
    town = opened(tmp_path, evidence=Evidence.SCORED)
    client = Hospital()

    metrics = with_script(town, path, lambda: fl.fit(client, TASK, str(path), {"lr": 0.1}))

    assert metrics == {"loss": 0.5}
    assert client.config == {"server_round": 1, "lr": 0.1}
    assert delta(town) == [2**22] * 3
    assert has_form(town)
    assert (update(town).evidence, update(town).segments) == (Evidence.SCORED, 1)


def test_a_script_that_died_joins_again_and_starts_its_round_anew(
    tmp_path: Path, path: Path
) -> None:
    """What it handed over before is thrown away."""
    town = opened(tmp_path)

    def twice() -> list[int]:
        model, optimizer = model_and_optimizer()
        rnd = fl.join(TASK, str(path))
        rnd.load(model)
        with torch.no_grad():
            model.weight.add_(1.0)
        rnd.snapshot(5, model, optimizer)
        rnd.close()
        return plain_loop(path)

    weights = with_script(town, path, twice)

    assert delta(town) == weights
    trace = town.traces(1).find(TASK, 1)
    assert trace is not None
    assert len(trace.segments()) == 4


def test_model_and_optimizer_go_on_from_rounded_numbers() -> None:
    """What is handed over is what the next segment starts from; second moments keep their sense."""
    model, optimizer = model_and_optimizer()
    model.double()(torch.ones(4, 2, dtype=torch.float64)).sum().backward()
    optimizer.step()
    exact = optimizer.state[model.weight]["exp_avg_sq"].clone()

    weights, state = round_in_place(model, optimizer, 20)

    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert (flat * 2**20).tolist() == weights.tolist()
    rounded = optimizer.state[model.weight]["exp_avg_sq"]
    assert torch.allclose(rounded, exact, rtol=1e-4)
    assert (rounded.sqrt() * 2**20).round().tolist()[0][0] in state.tolist()
    assert round_in_place(model, optimizer, 20)[0].tolist() == weights.tolist()


# What is refused


def test_a_script_gets_no_round_of_a_task_that_the_site_did_not_give_it(
    tmp_path: Path, path: Path
) -> None:
    """The peer's configuration says which tasks scripts train."""
    town = opened(tmp_path)

    assert code_with_script(town, path, lambda: fl.join("another", str(path))) == "loop.task"


def test_a_scored_update_is_no_answer_to_a_task_that_asks_for_more(
    tmp_path: Path, path: Path
) -> None:
    """It is refused before anything is trained."""
    town = opened(tmp_path)

    assert code_with_script(town, path, lambda: fl.fit(Hospital(), TASK, str(path))) == (
        "loop.scored"
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"evidence": Evidence.REPLAYED}, r"peer\.loop_evidence"),
        ({"own_loops": False}, r"peer\.loop_terms"),
    ],
)
def test_a_task_that_wants_its_own_recipe_is_not_for_scripts(
    tmp_path: Path, path: Path, changes: dict[str, Any], code: str
) -> None:
    """Nobody could replay one from outside; terms may rule its traces out altogether."""
    town = opened(tmp_path, **changes)

    async def scenario() -> None:
        async with Loop(path, [TASK], town.traces(1)) as loop:
            await town.trainer(1, own=loop, opening=True).work(TASK)

    with pytest.raises(Refused, match=code):
        asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


def test_a_snapshot_left_out_is_missed(tmp_path: Path, path: Path) -> None:
    """At the next one; segments are the task's."""
    town = opened(tmp_path)

    def forgetful() -> None:
        model, optimizer = model_and_optimizer()
        with fl.join(TASK, str(path)) as rnd:
            rnd.load(model)
            assert not rnd.snapshot(4, model, optimizer)
            rnd.snapshot(10, model, optimizer)

    assert code_with_script(town, path, forgetful) == "loop.step"


def test_a_segment_that_moves_nothing_is_refused(tmp_path: Path, path: Path) -> None:
    """Verifiers would fail it; the script hears it at once."""
    town = opened(tmp_path)

    def idle() -> None:
        model, optimizer = model_and_optimizer()
        with fl.join(TASK, str(path)) as rnd:
            rnd.load(model)
            rnd.snapshot(5, model, optimizer)

    assert code_with_script(town, path, idle) == "loop.zero"


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (torch.nn.Linear(3, 1), "loop.shapes"),
        (torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1)), "loop.shapes"),
        (
            torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1, affine=False)),
            "loop.buffers",
        ),
    ],
    ids=["shape", "more", "buffers"],
)
def test_a_model_that_is_not_the_task_s_is_refused(
    tmp_path: Path, path: Path, model: torch.nn.Module, code: str
) -> None:
    """Other shapes, or numbers that are learned and are no parameters."""
    town = opened(tmp_path)

    def load() -> None:
        with fl.join(TASK, str(path)) as rnd:
            rnd.load(model)

    assert code_with_script(town, path, load) == code


def test_numbers_off_the_grid_are_refused_where_they_arise(tmp_path: Path, path: Path) -> None:
    """A loop that diverged hears it from its own snapshot, and its model stays as it is."""
    model, optimizer = model_and_optimizer()
    with torch.no_grad():
        model.weight.fill_(float("nan"))
        model.bias.fill_(0.3)

    with pytest.raises(Refused, match=r"update\.range"):
        round_in_place(model, optimizer, 24)

    assert model.bias.item() == pytest.approx(0.3)


def test_a_round_that_is_over_is_over_for_its_script(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The straggler hears it instead of waiting; the peer says that it was late."""
    from node.peer import trainer as module

    monkeypatch.setattr(module, "LOOK_S", 0.001)
    town = opened(tmp_path)
    for number in (2, 3, 4):
        asyncio.run(town.trainer(number).work(TASK))
    deadline_ms = town.chain.get(ChainRound, TASK, 1).deadline_ms
    heard: list[str] = []

    def slow() -> None:
        with fl.join(TASK, str(path)) as rnd:
            town.chain.block(time_ms=deadline_ms)
            found = rnd._receive()  # as a script that works does after its next snapshot
        assert isinstance(found, frames.Turned)
        heard.append(found.code)

    assert code_with_script(town, path, slow) == "peer.late"
    assert heard == ["loop.over"]


# The socket


def test_nobody_else_may_connect(path: Path, tmp_path: Path) -> None:
    """The file's mode is its owner's alone; what a killed peer left is replaced, nothing else."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    def mode() -> int:
        return stat.S_IMODE(path.stat().st_mode)

    async def scenario() -> int:
        async with Loop(path, [TASK], Town(tmp_path).traces(1)):
            return mode()

    assert asyncio.run(scenario()) == 0o600
    assert not path.exists()
    path.write_text("somebody's")
    with pytest.raises(Refused, match=r"loop\.socket"):
        asyncio.run(scenario())
    assert path.read_text() == "somebody's"


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    """With the key that names a shorter one."""
    path = tmp_path / ("x" * PATH_BYTES_MAX)

    async def scenario() -> None:
        async with Loop(path, [TASK], Town(tmp_path).traces(1)):
            pass

    with pytest.raises(Refused, match=r"loop\.socket: .*\[loop\] socket"):
        asyncio.run(scenario())


def test_without_a_peer_a_script_hears_where_it_looked(path: Path) -> None:
    """Nobody listens there."""
    with pytest.raises(Refused, match=r"loop\.unreachable: .*running training peer"):
        fl.join(TASK, str(path))


JOIN = Join(TASK, bytes(32), bytes(32), scored=False)


def shut_out(path: Path, *sent: bytes) -> str:
    """The code that a stranger's bytes are answered with, or "closed"."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(DEADLINE_S)
        stranger.connect(str(path))
        for data in sent:
            stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        received = bytearray()
        while found := stranger.recv(65_536):
            received += found
    messages = []
    while received:
        size = frames.length(bytes(received[:4]))
        messages.append(frames.message(bytes(received[4 : 4 + size])))
        del received[: 4 + size]
    last = messages[-1] if messages else None
    return last.code if isinstance(last, frames.Turned) else "closed"


def spoken(path: Path, *sent: bytes) -> str:
    """The code that a script is answered with which joins a round and then sends this."""
    with fl.join(TASK, str(path)) as rnd:
        for data in sent:
            rnd._send(data)
        found = rnd._receive()
        assert isinstance(found, frames.Turned)
        return found.code


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], "loop.frame"),
        ([b"\xff\xff\xff\xff"], "loop.frame"),
        ([b"\x00\x00\x00\x00"], "loop.frame"),
        ([b"\x00\x00\x00\x02\x80\x04"], "encoding.malformed"),  # as pickles begin
        ([frames.frame(Taken(done=True))], "loop.message"),
        ([frames.frame(JOIN)[:-1]], "closed"),
    ],
    ids=["http", "long", "empty", "pickle", "first", "torn"],
)
def test_a_stranger_s_bytes_are_refused(
    tmp_path: Path, path: Path, sent: list[bytes], code: str
) -> None:
    """The round goes on to wait, and an honest script trains it afterwards."""
    town = opened(tmp_path)

    def both() -> tuple[str, list[int]]:
        return shut_out(path, *sent), plain_loop(path)

    found, weights = with_script(town, path, both)

    assert found == code
    assert delta(town) == weights


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([frames.frame(Kept(1, 0))], "loop.message"),
        ([frames.frame(Kept(0, 13))], "loop.state"),
        ([frames.frame(Kept(0, 0)), frames.frame(Part(bytes(13)))], "loop.part"),
        ([frames.frame(Kept(0, 0)), frames.frame(Kept(0, 0))], "loop.part"),
    ],
    ids=["order", "state", "part", "no part"],
)
def test_a_script_s_garbage_is_refused(
    tmp_path: Path, path: Path, sent: list[bytes], code: str
) -> None:
    """It had joined a round, which waits for another script afterwards."""
    town = opened(tmp_path)

    def both() -> tuple[str, list[int]]:
        return spoken(path, *sent), plain_loop(path)

    found, weights = with_script(town, path, both)

    assert found == code
    assert delta(town) == weights


def test_connections_are_bounded(tmp_path: Path, path: Path) -> None:
    """One more than there may be is told so; the others wait on."""
    town = opened(tmp_path)

    def crowd() -> str:
        scripts = []
        for _ in range(CONNECTIONS_MAX):
            script = socket.socket(socket.AF_UNIX)
            script.connect(str(path))
            scripts.append(script)
        try:
            with pytest.raises(Refused) as refused:
                fl.join(TASK, str(path))
            return refused.value.code
        finally:
            for script in scripts:
                script.close()

    assert with_script(town, path, crowd, trains=False) == "loop.busy"


def test_what_a_script_may_use_is_in_the_package() -> None:
    """Two names, and no others by accident."""
    assert (fl.join.__module__, fl.fit.__module__) == ("fl.loop", "fl.loop")
    assert Round.__module__ == "fl.loop"
    with pytest.raises(AttributeError, match="no attribute 'joint'"):
        fl.joint  # noqa: B018
