"""One round trained here and shown to nobody: a dry run before a site takes part in a task."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from fl.dataset import leaves
from fl.fixed import Ints
from fl.metric import Figures
from fl.model import prepare
from fl.sampling import split
from fl.train import Job, OnStep, train
from fl.weights import unpack_weights
from node.client.client import Client
from node.client.credentials import credentials_of
from node.home.config import PeerConfig
from node.home.genesis import read_genesis
from node.peer.figures import evaluate
from node.peer.site import LocalData
from node.wire.exchange import Exchange
from vm.digest import DIGEST_BYTES
from vm.learning import Task
from vm.record import Dataset, Model, ModelHead, ModelSpec
from vm.refusal import Refused
from vm.terms import Terms

BEACON = bytes(DIGEST_BYTES)  # of no round: rows come in another order than they ever will


@dataclass(frozen=True, slots=True)
class Script:
    """What is rehearsed: terms, a model, and weights to start from, [parameters]."""

    terms: Terms
    spec: ModelSpec
    grid_bits: int
    base: Ints
    dataset: Dataset | None  # as it is registered, if it is


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A round's training as it would be; `losses` are of its steps in nat, on training rows.

    `base` and `own` are figures on the site's test rows, before training and after; None where
    there are no test rows. `norm` is the update's, in units of the weights.
    """

    train_rows: int
    scoring_rows: int
    test_rows: int
    losses: tuple[float, ...]
    norm: float
    base: Figures | None
    own: Figures | None


def rehearse(script: Script, data: LocalData, on_step: OnStep | None = None) -> Rehearsal:
    """Train one round on the site's rows and send nothing.

    Raises `Refused("peer.dataset_root")` for rows that are not the registered ones, and what
    training is refused for.
    """
    if script.dataset is not None:
        data.require_root(script.dataset)
    spec, bits, terms = script.spec, script.grid_bits, script.terms
    rows = prepare(spec, terms.preprocessing, data.table, leaves(data.table, data.secret))
    parts = split(data.secret, data.table.labels)
    job = Job(spec, bits, terms.training, BEACON, "rehearsal")
    result = train(job, script.base, rows.take(parts.train), on_step)
    base = own = None
    if parts.test:
        test = rows.take(parts.test)
        base = evaluate(spec, bits, script.base, test)
        own = evaluate(spec, bits, script.base + result.delta, test)
    return Rehearsal(
        train_rows=len(parts.train),
        scoring_rows=len(parts.scoring),
        test_rows=len(parts.test),
        losses=result.losses,
        norm=result.norm / 2**bits,
        base=base,
        own=own,
    )


async def script_of(config: PeerConfig, id: str) -> Script:
    """The script of a task on the chain, from the newest version of its model.

    Only asks and fetches; raises `Refused("peer.task" | "blob.*")`.
    """
    genesis, validators = read_genesis(config.chain.genesis), config.training.validators
    reader = credentials_of(config.trainer, config.tls)
    async with Client(genesis, [item.http for item in validators], reader) as client:
        task = await client.record(Task, id)
        head = None if task is None else await client.record(ModelHead, task.terms.model)
        if task is None or head is None:
            raise Refused("peer.task", f"expected task {id} on the chain, found none")
        model = await client.record(Model, head.id, head.version)
        assert model is not None, "a model's head names a version"
        dataset = await client.record(Dataset, config.training.dataset)
        # A peer that runs has the store's own folder of blobs.
        with tempfile.TemporaryDirectory(prefix="concilium-") as folder:
            exchange = Exchange(client, config.trainer, config.tls, validators, Path(folder))
            async with exchange:
                content = await exchange.fetch(model.weights, model.weights_bytes)
    base = unpack_weights(model.spec, model.grid_bits, content)
    return Script(task.terms, model.spec, model.grid_bits, base, dataset)
