"""`concilium testnet` and `concilium run`."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path

from node.commands.report import Format, LogFormat, Many, show
from node.home import config
from node.home.logs import Format as Style
from node.home.logs import configure_logs
from vm.refusal import Refused

STYLES: dict[str, Style] = {"text": "pretty", "json": "json"}


def testnet(
    directory: Path,
    *,
    organisations: int = 4,
    base_port: int = 7100,
    task: Many = (),
    public: bool = False,
    output: Format = "text",
) -> None:
    """Write a network on this machine: genesis, and a home for every member.

    Parameters
    ----------
    directory
        Where to write it; nothing may be there yet.
    organisations
        Number of hospitals, each with a validator, a training peer, a steward and an admin.
    base_port
        First of two TCP ports for each validator.
    task
        Id of a task that every training peer will take part in; may be given more than once.
    public
        Let whoever reaches a validator read what is not restricted; else readers are members.
    """
    from node.home.testnet import write_testnet

    layout = write_testnet(
        directory,
        now=datetime.now(UTC),
        organisations=organisations,
        base_port=base_port,
        tasks=task,
        public=public,
    )
    homes = [str(layout.home(hospital, "validator")) for hospital in layout.hospitals]
    data = {"directory": str(layout.directory), "genesis": str(layout.genesis), "validators": homes}
    starts = "\n".join(f"  concilium run {home}" for home in homes)
    show(output, data, f"Wrote {layout.directory}. Start the validators:\n{starts}")


def run(home: Path, *, output: LogFormat = None) -> None:
    """Run the validator whose home this is, until SIGTERM or Ctrl-C.

    Parameters
    ----------
    home
        The validator's folder with concilium.toml.
    """
    from node.validator.assembly import run_validator
    from node.validator.descriptors import require_descriptors

    settings = config.load(config.ValidatorConfig, home, os.environ)
    start_logs(settings.log, output, settings.member.id)
    require_descriptors()
    try:
        asyncio.run(until_signal(run_validator(settings)))
    except Refused as refused:
        raise name_remedy(refused, home) from refused


def name_remedy(refused: Refused, home: Path) -> Refused:
    """The refusal of a validator whose journal is no use, with the command that comes next."""
    if refused.code not in ("journal.lost", "journal.damaged"):
        return refused
    return Refused(
        refused.code,
        f"{refused.message}. Its key must not vote again. Put the journal back if it was moved, "
        f"never an older copy; else run: concilium validator recover {home}",
    )


def start_logs(log: config.Log, output: LogFormat, member: str) -> None:
    """Log as the home's configuration says, or as the command line does."""
    style = log.format if output is None else STYLES[output]
    configure_logs(log.level, style, member=member)


async def until_signal(work: Coroutine[None, None, None]) -> None:
    """Run until done, SIGTERM or SIGINT; a signal lets everything close in order."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
