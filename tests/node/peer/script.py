"""A site's own training loop beside its peer, and what comes of it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fl
from fl.spec import logistic_regression
from fl.trace import origin
from fl.weights import unpack_update
from node.peer.loop import Loop
from tests.fl.dialogue import TASK
from tests.node.hospital import Town
from vm.learning import Update
from vm.refusal import Refused

DEADLINE_S = 30.0  # that only a hang reaches


async def never(task: str) -> Refused:
    """A task that goes on and on."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def loop_of(town: Town, path: Path) -> Loop:
    """Hospital 1's end of the socket."""
    return Loop(path, [TASK], town.traces(1), never)


def with_script(town: Town, path: Path, script: Callable[[], Any], *, trains: bool = True) -> Any:
    """What `script` gives in a thread of its own, beside hospital 1's peer."""

    async def scenario() -> Any:
        async with asyncio.timeout(DEADLINE_S), loop_of(town, path) as loop:
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
