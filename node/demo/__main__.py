"""`scripts/demo`: the main job from genesis to audit, and what came of it."""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fl.trial import ROUNDS
from node.client.client import Client
from node.commands.report import INTERRUPTED, USAGE, show_refusal
from node.demo import job, splits, summary
from node.demo.processes import Processes, free_ports
from node.home.genesis import read_genesis
from node.home.testnet import Layout
from vm.learning import Round, Task
from vm.record import Model
from vm.refusal import Refused
from vm.terms import ROUNDS_MAX

app = App(
    name="scripts/demo",
    help_format="plaintext",
    version_flags=(),
    default_parameter=Parameter(negative=()),
)
Tell = Callable[[str], None]


@app.default
def demo(
    *,
    json_file: Annotated[Path | None, Parameter("--json")] = None,
    keep: Path | None = None,
    serve: bool = False,
    rounds: Annotated[int, Parameter(validator=Number(gte=1, lte=ROUNDS_MAX))] = ROUNDS,
) -> None:
    """Run four validators, four hospitals and an auditor on real trial data, to the end.

    Parameters
    ----------
    json_file
        Write the result to this file.
    keep
        Write the nodes' homes to this new folder and keep them.
    serve
        Leave the network up until Ctrl-C.
    rounds
        How many rounds to train, 10 or more for a model worth looking at.
    """
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise Refused(  # now rather than after two minutes
            "file.unwritable", f"{json_file}: expected a folder to write this file to, found none"
        )
    with tempfile.TemporaryDirectory(prefix="concilium-") as temporary:
        directory = keep if keep is not None else Path(temporary) / "network"
        result = asyncio.run(_run(directory, rounds, serve))
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    summary.check(result, min(rounds, job.POISONED_ROUND), job.POISONER)


async def _run(directory: Path, rounds: int, serve: bool) -> dict[str, Any]:
    started = time.monotonic()
    with _progress(rounds + 1 + splits.FURTHER_SPLITS) as (tell, advance):
        tell("writing genesis, keys, certificates and homes; reading the trial's four clinics")
        ports = free_ports(8)
        layout = await asyncio.to_thread(job.write_network, directory, ports)
        processes = Processes(tell)
        try:
            result = await _work(layout, processes, rounds, started, tell, advance)
            summary.show(result)
            if serve:
                await _serve(layout, tell)
        finally:
            await processes.stop()
    return result


async def _work(
    layout: Layout,
    processes: Processes,
    rounds: int,
    started: float,
    tell: Tell,
    advance: Callable[[], None],
) -> dict[str, Any]:
    urls = job.http_urls(layout)
    job.start_validators(layout, processes)
    await job.await_ready(urls)
    tell("four validators are connected over mutual TLS and agree on blocks")
    poisoned_round = min(rounds, job.POISONED_ROUND)
    job.start_peers(layout, processes, poisoned_round)
    await job.register_datasets(layout, tell)
    async with Client(read_genesis(layout.genesis), urls, job.auditor(layout)) as client:
        await job.open_task(layout, client, rounds)
        opened = await client.record(Task, job.TASK)
        assert opened is not None, "its receipt was proven"
        tell(f"task {job.TASK} is open: {rounds} rounds, poisoned in round {poisoned_round}")

        def on_round(found: Round) -> None:
            tell(summary.round_line(found, opened.terms.evidence))
            if found.model_version is not None:
                advance()

        task, ended = await job.follow_rounds(client, on_round, processes.failed)
        base = await client.record(Model, job.MODEL, 0)
        final = await client.record(Model, job.MODEL, task.closed)
        assert base is not None, "the task extends it"
        assert final is not None, "the last round made it"
        transactions = await job.count_transactions(client)
    audit = await job.audit(layout)
    tell(f"the auditor checked {len(audit['steps'])} steps with the genesis file alone")
    validators = await job.compare_validators(layout, urls)
    chain = splits.Chain(
        task=task,
        base=base,
        weights=(layout.directory / job.WEIGHTS_FILE).read_bytes(),
        rounds=ended,
        final=final.weights,
        poisoned={poisoned_round: layout.hospitals[job.ATTACKER]},
    )
    tell(f"running {splits.FURTHER_SPLITS} further splits for mean and standard error")
    figures = await asyncio.to_thread(splits.figures, layout, chain, advance)
    return summary.document(
        wall_s=time.monotonic() - started,
        validators=validators,
        rounds=ended,
        figures=figures,
        audit=audit,
        verified=audit["subject"] == f"model {job.MODEL} version {task.closed}",
        transactions=transactions,
    )


async def _serve(layout: Layout, tell: Tell) -> None:
    """Leave the network to a person."""
    tell("the network is up; Ctrl-C ends it. Homes are in " + str(layout.directory))
    for url in job.http_urls(layout):
        tell(f"  {url}/v1/status")
    tell(f"  .venv/bin/concilium status --home {layout.auditor}")
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    await done.wait()


@contextmanager
def _progress(steps: int) -> Iterator[tuple[Tell, Callable[[], None]]]:
    """A bar with lines above it on a terminal; plain lines otherwise."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        started = time.monotonic()

        def tell(line: str) -> None:
            print(f"[{time.monotonic() - started:5.1f} s] {line}", flush=True)

        yield tell, lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("rounds and splits", total=steps)
        yield progress.console.print, lambda: progress.advance(bar)


def main() -> int:
    """Run the demo and return its exit code."""
    try:
        app(exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return USAGE
    except Refused as refused:
        return show_refusal(refused, as_json=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
