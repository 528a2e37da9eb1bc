"""How commands answer: text for people, JSON for programs, and an exit code for both."""

import json
import sys
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter
from rich.console import Console, RenderableType

from vm.refusal import Refused

Format: TypeAlias = Annotated[
    Literal["text", "json"], Parameter("--format", help="How to print the result.")
]

OK = 0
FAILED = 1  # our own bug, or consensus stopped this node
USAGE = 2
REFUSED = 3  # input, configuration or the chain's rules
UNREACHABLE = 4  # nobody answered: try again later
UNVERIFIED = 5  # an answer that its proof does not bear out
INTERRUPTED = 130  # Ctrl-C, as shells have it

UNREACHABLE_CODES = frozenset({"client.unreachable", "blob.unreachable", "blob.unavailable"})
UNVERIFIED_ROOMS = frozenset({"audit", "certificate", "state_path"})


def show(output: Format, data: Any, text: RenderableType) -> None:
    """Print a result: `data` as JSON, or `text` for people."""
    if output == "json":
        print(json.dumps(data, indent=2))
    else:
        Console(soft_wrap=True).print(text)


def show_refusal(refused: Refused, as_json: bool) -> int:
    """Print a refusal to stderr and return the exit code for it."""
    if as_json:
        document = {"code": refused.code, "message": refused.message}
        print(json.dumps({"error": document}), file=sys.stderr)
    else:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"[bold red]{refused.code}[/]: ", refused.message, sep="", markup=True
        )
    if refused.code in UNREACHABLE_CODES:
        return UNREACHABLE
    if refused.code.partition(".")[0] in UNVERIFIED_ROOMS:
        return UNVERIFIED
    return REFUSED


def show_halt(halted: Exception) -> int:
    """Say that consensus stopped this node, and what to do."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"[bold red]halted[/]: {halted}\nKeep this home as it is: it holds the evidence. Compare "
        "with the other validators (concilium status) before anything is started again."
    )
    return FAILED
