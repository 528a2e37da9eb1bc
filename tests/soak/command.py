"""The command `scripts/soak`: options in, exit code out."""

import argparse
import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.soak.soak import NotStarted, Report, soak
from vm.quorum import VALIDATORS_MIN

SIZE_MAX = 16  # processes that one machine carries


def main(arguments: Sequence[str], text: str) -> int:
    """Run one soak; `text` is the help. The exit code is 0, 1, 2 or 3, as that says."""
    options = read(arguments, text)
    repeat = (
        f"scripts/soak --seconds {options.seconds:g} --seed {options.seed} "
        f"--validators {options.validators}"
    )
    folder = Path(tempfile.mkdtemp(prefix="concilium-soak-"))
    console = Console(stderr=True, soft_wrap=True)
    try:
        report = run(options, folder, console)
    except NotStarted as error:
        console.print(f"scripts/soak: {error}\nfolder: {folder}", markup=False)
        return 3
    except BaseException:
        console.print(f"folder: {folder}\nrepeat: {repeat}", markup=False)
        raise
    show(report, options.format, folder, repeat)
    if report.broken:
        return 1
    shutil.rmtree(folder)
    return 0


def read(arguments: Sequence[str], text: str) -> argparse.Namespace:
    """The options; exits with 2 for others."""
    parser = argparse.ArgumentParser(
        "scripts/soak", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = range(VALIDATORS_MIN, SIZE_MAX + 1)
    parser.add_argument("--seconds", type=float, default=60, help="of blows under load")
    parser.add_argument("--seed", type=int, default=1, help="which blows")
    parser.add_argument("--validators", type=int, default=4, choices=sizes, metavar="N")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, folder: Path, console: Console) -> Report:
    """Run it, with a bar on a terminal and each blow in words unless JSON was asked for."""
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("soak", total=options.seconds)

        def tell(done: str, seconds: float) -> None:
            progress.advance(bar, seconds)
            if options.format == "text":
                console.print(done, markup=False)

        return asyncio.run(soak(options.seed, options.seconds, options.validators, folder, tell))


def show(report: Report, style: str, folder: Path, repeat: str) -> None:
    """Print what was done and found."""
    kept = {"folder": str(folder), "repeat": repeat} if report.broken else {}
    lines = [json.dumps(asdict(report) | kept)] if style == "json" else told(report, kept)
    for line in lines:
        Console(soft_wrap=True).print(line, markup=False, highlight=False)


def told(report: Report, kept: dict[str, str]) -> Iterator[str]:
    """A report in words."""
    struck = (f"{count} {kind}" for kind, count in sorted(report.struck.items()))
    refused = (f"{count} {code}" for code, count in sorted(report.refused.items()))
    yield f"struck: {', '.join(struck)}"
    yield f"refused: {', '.join(refused) or 'none'}"
    yield f"acknowledged: {report.acknowledged} transactions up to height {report.height}"
    yield from (f"broken: {broken}" for broken in report.broken)
    yield from (f"{what}: {value}" for what, value in kept.items())
