"""What a steward's office does: datasets, models, tasks, and any transaction from a file."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from node.client.client import Client
from node.client.credentials import credentials_of
from node.client.submitter import Submitter
from node.commands.files import check_absent, read_file, write_new
from node.commands.report import Format, show
from node.home import config
from node.home.document import dump, from_json, load
from node.home.genesis import read_genesis
from node.home.keyfile import read_key, read_secret
from vm.record import Model, ModelHead
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX
from vm.terms import Preprocessing, Terms

SCORES_MAX = 1_000  # a hundred rounds with ten others; what so many tell of rows: docs/attacks.md
WEIGHTS_BYTES_MAX = 256 * 1024 * 1024  # int32 weights of the largest model are half of it

ScoresMax = Annotated[int, Parameter(validator=Number(gte=0, lte=HEIGHT_MAX))]
Decided = Literal["kept", "withdrawn"]

dataset = App(name="dataset", help="Register a dataset's record; the rows stay where they are.")
task = App(name="task", help="Open a training task, or close it early.")
model = App(name="model", help="Fetch a model's weights; decide on one that an audit has marked.")


@dataset.command
def register(
    home: Path,
    *,
    id: str,
    data: Path,
    secret: Path,
    preprocessing: Path,
    title: str,
    condition: tuple[str, ...],
    region: str,
    opening: bool = False,
    scores_max: ScoresMax = SCORES_MAX,
    output: Format = "text",
) -> None:
    """Register root, schema, banded counts and use conditions of local rows.

    Parameters
    ----------
    home
        The steward's folder with concilium.toml.
    id
        Id of the new record.
    data
        The rows as CSV. They are read here and not sent.
    secret
        The file with the secret that salts the rows' leaves; the training peer needs it too.
    preprocessing
        JSON file with the columns, as in a task's terms.
    title
        What the dataset is, in words.
    condition
        A GA4GH DUO code, such as DUO:0000006; may be given more than once.
    region
        ISO 3166 code of where the data lies, such as DE or US-MN.
    opening
        Permit that snapshots of training are opened to verifiers.
    scores_max
        How many scores on the rows set aside for scoring may ever be published; a round publishes
        one for each update of others, or two if its task values contributions.
    """
    from fl.dataset import describe
    from node.peer.site import load_data

    columns = load(Preprocessing, read_file(preprocessing))
    local = load_data(data, columns, read_secret(secret))
    body = describe(
        id=id,
        title=title,
        table=local.table,
        secret=local.secret,
        preprocessing=columns,
        conditions=condition,
        region=region,
        opening=opening,
        scores_max=scores_max,
    )
    asyncio.run(_submit(home, "dataset.register", body, output))


@task.command(name="open")
def open_(
    home: Path,
    terms: Path,
    *,
    id: str,
    weights: Path | None = None,
    spec: Path | None = None,
    grid_bits: int = 24,
    output: Format = "text",
) -> None:
    """Open a task; with --weights and --spec, register its model first.

    Parameters
    ----------
    home
        The steward's folder with concilium.toml.
    terms
        JSON file with all that the task fixes.
    id
        Id of the new task.
    weights
        Safetensors file with the model's initial weights in grid units.
    spec
        JSON file with the model's layers.
    grid_bits
        The grid of weights and updates is 2^-grid_bits, 20 to 24.
    """
    if (weights is None) != (spec is None):
        raise Refused(
            "usage.model",
            "expected both --weights and --spec to register a model, or neither; found one",
        )
    asyncio.run(_open_task(home, terms, id, weights, spec, grid_bits, output))


@task.command
def close(home: Path, id: str, *, reason: str, output: Format = "text") -> None:
    """End a task before its rounds are done; the present round's updates are not used.

    Parameters
    ----------
    home
        The folder with concilium.toml of a steward of the organisation that opened the task.
    id
        Id of the task.
    reason
        Why, in a sentence of at most 200 bytes; everybody can read it.
    """
    from fl.body import CloseTask

    body = from_json(CloseTask, {"task": id, "reason": reason})
    asyncio.run(_submit(home, "task.close", body, output))


@model.command
def decide(home: Path, id: str, decision: Decided, *, reason: str, output: Format = "text") -> None:
    """Decide on a model that a failed audit has marked; until then no task trains it.

    Parameters
    ----------
    home
        The folder with concilium.toml of a steward of the model's organisation.
    id
        Id of the model.
    decision
        kept: go on with it; withdrawn: give it up for good.
    reason
        Why, in a sentence of at most 200 bytes; everybody can read it.
    """
    from fl.body import DecideModel

    body = from_json(DecideModel, {"model": id, "decision": decision, "reason": reason})
    asyncio.run(_submit(home, "model.decide", body, output))


@model.command
def get(
    home: Path, id: str, *, version: int | None = None, out: Path, output: Format = "text"
) -> None:
    """Fetch a model's weights and check them against its record on the chain.

    Parameters
    ----------
    home
        A steward's folder with concilium.toml.
    id
        Id of the model.
    version
        Which version; the newest if not given.
    out
        File to write; it must not exist.
    """
    asyncio.run(_get_model(home, id, version, out, output))


def submit(home: Path, kind: str, body: Path, *, output: Format = "text") -> None:
    """Sign and submit one transaction, and wait for its certified receipt.

    Parameters
    ----------
    home
        A steward's or admin's folder with concilium.toml.
    kind
        Kind of transaction, such as member.standing.
    body
        JSON file with the fields of its body.
    """
    from node.program import program

    kinds = program().kinds
    if kind not in kinds:
        raise Refused("transaction.kind", f"expected one of {', '.join(kinds)}, found {kind}")
    content: object = from_json(kinds[kind].body, _parse(body))
    asyncio.run(_submit(home, kind, content, output))


async def _submit(home: Path, kind: str, body: object, output: Format) -> None:
    async with pen(home) as submitter:
        receipt = await submitter.submit(kind, body)
    show(
        output,
        dump(receipt),
        f"{kind} is certified at height {receipt.height}: {receipt.transaction.hex()}",
    )


async def _open_task(
    home: Path,
    terms: Path,
    id: str,
    weights: Path | None,
    spec: Path | None,
    grid_bits: int,
    output: Format,
) -> None:
    from fl.body import OpenTask, RegisterModel
    from node.wire.exchange import Exchange
    from vm.record import ModelSpec

    fixed = load(Terms, read_file(terms))
    settings = config.load(config.OfficeConfig, home, os.environ)
    async with pen(home) as submitter:
        if weights is not None and spec is not None:
            content = read_file(weights, WEIGHTS_BYTES_MAX)
            folder = home / "blobs"
            async with Exchange(
                submitter.client,
                settings.member,
                settings.tls,
                settings.client.validators,
                folder,
            ) as exchange:
                address = await exchange.bring(content)
            body = RegisterModel(
                fixed.model, load(ModelSpec, read_file(spec)), grid_bits, address, len(content)
            )
            await submitter.submit("model.register", body)
        receipt = await submitter.submit("task.open", OpenTask(id, fixed))
    show(output, dump(receipt), f"Task {id} is open since height {receipt.height}")


async def _get_model(home: Path, id: str, version: int | None, out: Path, output: Format) -> None:
    from node.wire.exchange import Exchange

    check_absent(out)
    settings = config.load(config.OfficeConfig, home, os.environ)
    async with pen(home) as submitter:
        client = submitter.client
        if version is None:
            head = await client.record(ModelHead, id)
            if head is None:
                raise Refused("model.missing", f"expected model {id}, found none")
            version = head.version
        record = await client.record(Model, id, version)
        if record is None:
            raise Refused("model.missing", f"expected version {version} of {id}, found none")
        async with Exchange(
            client,
            settings.member,
            settings.tls,
            settings.client.validators,
            home / "blobs",
        ) as exchange:
            content = await exchange.fetch(record.weights, record.weights_bytes)
    write_new(out, content)
    data = {
        "id": id,
        "version": version,
        "weights": record.weights,
        "bytes": len(content),
        "file": str(out),
    }
    show(output, data, f"Wrote version {version} of {id}, {len(content)} bytes, to {out}")


@asynccontextmanager
async def pen(home: Path) -> AsyncIterator[Submitter]:
    """The pen of the member whose home this is: a steward's or an admin's."""
    settings = config.load(config.OfficeConfig, home, os.environ)
    urls = [validator.http for validator in settings.client.validators]
    reader = credentials_of(settings.member, settings.tls)
    async with Client(read_genesis(settings.chain.genesis), urls, reader) as client:
        yield Submitter(client, settings.member.id, read_key(settings.member.key))


def _parse(path: Path) -> Any:
    try:
        return json.loads(read_file(path))
    except ValueError as error:
        raise Refused("document.json", f"{path}: expected JSON, found: {error}") from error
