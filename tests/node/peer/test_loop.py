"""A site's own training loop over the peer's socket, from its join to its update."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fl
from fl import frames
from fl.loop import Round, environment_digest, round_in_place, script_digest
from fl.model import Rows
from fl.spec import logistic_regression
from fl.trace import origin, root
from fl.verify import Case, judge, update_delta
from fl.weights import pack_weights
from node.peer import watch
from node.peer.loop import Loop
from node.wire.cid import summarise
from tests.fl.dialogue import TASK
from tests.harness import Item
from tests.node import hospital
from tests.node.hospital import Town, _Pen, _Shelf
from tests.node.peer.looks import opened
from tests.node.peer.script import (
    DEADLINE_S,
    code_with_script,
    delta,
    loop_of,
    model_and_optimizer,
    plain_loop,
    run_without_script,
    update,
    with_script,
)
from vm.learning import OwnLoop, Task
from vm.learning import Round as ChainRound
from vm.refusal import Refused
from vm.terms import Evidence


def has_form(town: Town) -> bool:
    """Whether a verifier finds no fault with hospital 1's update before it looks at losses."""
    found, no_rows = update(town), Rows(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ())
    terms, base = town.chain.get(Task, TASK).terms, np.zeros(3, np.int64)
    blob = town.blobs[found.blob]
    own = update_delta(logistic_regression(2), 24, found, blob)
    assert own is not None
    case = Case.of(logistic_regression(2), 24, terms, base, [own], no_rows)
    return judge(case, found, blob).code == "verdict.no_scoring_rows"


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


@pytest.mark.parametrize("evidence", [Evidence.COMMITTED, Evidence.SCORED])
def test_what_a_script_has_handed_over_needs_no_script_again(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, evidence: Evidence
) -> None:
    """Validators were away for a moment; all that is sent is on the disk of the hospital."""
    town = opened(tmp_path, evidence=evidence)
    script = {
        Evidence.COMMITTED: lambda: plain_loop(path),
        Evidence.SCORED: lambda: fl.fit(Hospital(), TASK, str(path)),
    }[evidence]

    async def away(shelf: object, content: bytes) -> str:
        raise Refused("blob.too_few_copies", "expected 2 validators to take it, found 1")

    with monkeypatch.context() as patch:
        patch.setattr(_Shelf, "bring", away)
        assert code_with_script(town, path, script) == "blob.too_few_copies"

    run_without_script(town, path)

    assert update(town).evidence is evidence
    assert update(town).loop == OwnLoop(script_digest(), environment_digest())
    assert has_form(town)


def test_what_a_script_has_handed_over_stays_through_a_crash(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its proof arrives after all, and is of the trace that the hospital keeps."""
    town, pending = opened(tmp_path), list[Item]()
    submit = _Pen.submit

    async def lost(pen: _Pen, kind: str, body: object) -> object:
        pending.append((pen.member, kind, body))
        raise Refused("client.unreachable", "expected an answer, found none")

    async def later(pen: _Pen, kind: str, body: object) -> object:
        town.chain.applied(pending)
        return await submit(pen, kind, body)

    monkeypatch.setattr(_Pen, "submit", lost)
    assert code_with_script(town, path, lambda: plain_loop(path)) == "client.unreachable"
    monkeypatch.setattr(_Pen, "submit", later)
    run_without_script(town, path)

    trace = town.traces(1).find(TASK, 1)
    assert trace is not None
    assert root(origin(update(town)), trace.segments()) == update(town).trace


def test_a_script_that_leaves_before_it_hears_that_it_is_done_is_done(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last snapshot is on disk: nobody waits for another script."""
    town, frame = opened(tmp_path, evidence=Evidence.SCORED), frames.frame

    def lost(message: frames.Message) -> bytes:
        if message == frames.Taken(done=True):
            raise ConnectionResetError
        return frame(message)

    def script() -> None:
        with pytest.raises(Refused, match=r"loop\.closed"):
            fl.fit(Hospital(), TASK, str(path))

    monkeypatch.setattr(frames, "frame", lost)
    with_script(town, path, script)

    assert delta(town) == [2**22] * 3


def test_what_a_script_has_begun_is_no_update_after_a_restart(tmp_path: Path, path: Path) -> None:
    """Half a round is sent for nobody: the next script starts it anew."""
    town = opened(tmp_path)

    def half() -> None:
        model, optimizer = model_and_optimizer()
        with fl.join(TASK, str(path)) as rnd:
            rnd.load(model)
            with torch.no_grad():
                model.weight.add_(1.0)
            rnd.snapshot(5, model, optimizer)
            raise Refused("test.died", "expected a whole round, found half of one")

    assert code_with_script(town, path, half) == "test.died"
    begun = town.traces(1).find(TASK, 1)
    assert begun is not None
    assert len(begun.segments()) == 1

    weights = with_script(town, path, lambda: plain_loop(path))

    assert delta(town) == weights
    assert update(town).segments == 4


def test_what_a_script_has_handed_over_in_another_round_is_no_update_of_this_one(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a store of another chain, on which everything has the same name."""
    town = opened(tmp_path)

    async def away(shelf: object, content: bytes) -> str:
        raise Refused("blob.too_few_copies", "expected 2 validators to take it, found 1")

    with monkeypatch.context() as patch:
        patch.setattr(_Shelf, "bring", away)
        code_with_script(town, path, lambda: plain_loop(path))
    store = town.traces(1)
    trace = store.find(TASK, 1)
    assert trace is not None
    snapshots = [trace.nearest(count) for count in (1, 2, 3, 4)]
    other = store.begin(replace(trace.head, beacon=bytes(32)))
    for count, snapshot in enumerate(snapshots, start=1):
        assert snapshot is not None
        other.keep(count, snapshot)

    weights = with_script(town, path, lambda: plain_loop(path))

    assert delta(town) == weights


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
        async with loop_of(town, path) as loop:
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


def test_an_update_out_of_range_is_refused_and_not_kept(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each segment is in range, and all together are not: the next script's round is whole."""
    base = pack_weights(logistic_regression(2), 24, np.full(3, -(2**30), np.int64))
    monkeypatch.setattr(hospital, "BASE", base)
    monkeypatch.setattr(hospital, "BASE_ADDRESS", summarise([base])[0])
    town, none = opened(tmp_path), np.zeros(0, np.int64)

    def far() -> None:
        with fl.join(TASK, str(path)) as rnd:
            for weight in (0, 1, 2, 2**31 - 1):
                rnd._hand_over(np.full(3, weight, np.int64), none)

    assert code_with_script(town, path, far) == "update.range"

    with_script(town, path, lambda: plain_loop(path))
    assert update(town).segments == 4


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
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
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


def test_a_script_is_offered_no_round_that_ends_as_it_comes(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would train in vain, and hear it at its first snapshot."""
    town, await_round = opened(tmp_path), Loop._await_round

    async def scenario() -> str:
        async with asyncio.timeout(DEADLINE_S), loop_of(town, path) as loop:
            trainer = asyncio.create_task(town.trainer(1, own=loop).work(TASK))

            async def ended(loop: Loop, task: str, reader: asyncio.StreamReader) -> Any:
                found = await await_round(loop, task, reader)
                trainer.cancel()
                await asyncio.gather(trainer, return_exceptions=True)
                return found

            monkeypatch.setattr(Loop, "_await_round", ended)
            with pytest.raises(Refused) as refused:
                await asyncio.to_thread(fl.join, TASK, str(path))
            return refused.value.code

    assert asyncio.run(scenario()) == "loop.over"


def test_a_script_does_not_wait_for_a_task_that_is_over(tmp_path: Path, path: Path) -> None:
    """No round will come; it is told so as soon as its peer knows, and ends by itself."""
    town, over = opened(tmp_path), asyncio.Event()

    async def end(task: str) -> Refused:
        await over.wait()
        return Refused("loop.ended", f"expected task {task} open, found it completed")

    def script() -> str:
        with pytest.raises(Refused) as refused:
            fl.join(TASK, str(path))
        return refused.value.code

    async def scenario() -> str:
        async with asyncio.timeout(DEADLINE_S), Loop(path, [TASK], town.traces(1), end) as loop:
            joined = asyncio.create_task(asyncio.to_thread(script))
            while not loop._connections:  # noqa: ASYNC110 - a script that connects tells nobody
                await asyncio.sleep(0)
            over.set()
            return await joined

    assert asyncio.run(scenario()) == "loop.ended"


def test_what_a_script_may_use_is_in_the_package() -> None:
    """Two names, and no others by accident."""
    assert (fl.join.__module__, fl.fit.__module__) == ("fl.loop", "fl.loop")
    assert Round.__module__ == "fl.loop"
    with pytest.raises(AttributeError, match="no attribute 'joint'"):
        fl.joint  # noqa: B018
