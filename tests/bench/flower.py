"""Flower's simulation of the bench's federation, run by the interpreter of its own environment.

    python -m tests.bench.flower SITES.npz PLAN.json FILE

It needs flwr[simulation], torch and numpy, and nothing of ours but `tests.bench.loop`. SITES has
`inputs_N` and `labels_N` of each site; PLAN the loop's plan, the model's widths and the rounds.
FILE gets, as JSON, seconds until the first round had ended, and seconds of each later one.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.nn import functional

from tests.bench.loop import Plan, train


def build(widths: list[int]) -> nn.Sequential:
    """Dense layers with ReLU between, in float64, as `fl.spec.mlp`; one logit."""
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1)).to(torch.float64)


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean log-loss of two classes."""
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))


def client(sites: Path, plan: Plan, widths: list[int]) -> ClientApp:
    """A site's app: which one it is, its node's configuration says."""
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def fit(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        number = context.node_config["partition-id"]
        with np.load(sites) as arrays:
            inputs = torch.from_numpy(arrays[f"inputs_{number}"])
            labels = torch.from_numpy(arrays[f"labels_{number}"])
        model = build(widths)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        train(model, inputs, labels, plan, loss)
        content = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    return app


def main() -> None:
    """Arguments: what to train on, how, and the file to write."""
    sites, path, found = map(Path, sys.argv[1:4])
    told: dict[str, Any] = json.loads(path.read_text())
    plan, widths = Plan(**told["plan"]), told["widths"]
    begin, ends = time.perf_counter(), []
    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def serve(grid: Grid, context: Context) -> None:
        def note(_: int, arrays: ArrayRecord) -> None:  # before the first round, and after each
            ends.append(time.perf_counter())

        weights = ArrayRecord(build(widths).state_dict())
        FedAvg(fraction_evaluate=0.0, min_train_nodes=told["sites"]).start(
            grid, weights, num_rounds=told["rounds"], evaluate_fn=note
        )

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client(sites, plan, widths), told["sites"], backend_config=resources)
    rounds = [after - before for before, after in pairwise(ends[1:])]
    found.write_text(json.dumps({"start_s": ends[1] - begin, "rounds_s": rounds}))


if __name__ == "__main__":
    main()
