"""How commands answer: text for people, JSON for programs, and an exit code for both."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from node.api.times import tell_time
from node.audit.check import Audit
from node.home.document import dump
from node.validator.halted import Halted, Outdated
from vm.refusal import Refused

Format: TypeAlias = Annotated[
    Literal["text", "json"], Parameter("--format", help="How to print results and errors.")
]
LogFormat: TypeAlias = Annotated[
    Literal["text", "json"] | None,
    Parameter("--format", help="How to print logs and errors; as [log] format says if not given."),
]

Many: TypeAlias = Annotated[tuple[str, ...], Parameter(show_default=False)]

OK = 0
FAILED = 1  # our own bug, or consensus stopped this node
USAGE = 2  # the command line itself
REFUSED = 3  # input, configuration or the chain's rules
UNREACHABLE = 4  # nobody could answer: try again later
UNVERIFIED = 5  # an answer that its proof does not bear out
OUTDATED = 6  # the chain follows a newer protocol than this software knows
INTERRUPTED = 130  # Ctrl-C, as shells have it

EXIT_CODES = """Exit codes:
  0    done
  1    a bug of ours, or consensus stopped this node
  2    wrong command line
  3    refused: input, configuration or the chain's rules
  4    nobody could answer: try again later
  5    not verified: a proof does not hold, or the chain has forked
  6    the chain goes on under a newer protocol: install newer software
  130  interrupted"""

# C0 but tab and line feed, DEL, C1, what ends lines elsewhere, and what turns the writing.
UNPRINTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

UNREACHABLE_CODES = frozenset(
    {"api.busy", "blob.unavailable", "blob.unreachable", "client.unreachable", "node.not_ready"}
)
# A proof that does not even decode proves nothing either.
UNVERIFIED_ROOMS = frozenset(
    {
        "audit",
        "case",
        "certificate",
        "encoding",
        "frontier",
        "lineage",
        "pin",
        "shape",
        "state_path",
        "succession",
    }
)
# What was asked for is not there, or an attestation of a training is refused: no proof is false.
NO_PROOF = frozenset(
    {
        "audit.duplicate",
        "audit.evidence",
        "audit.expired",
        "audit.missing",
        "audit.own",
        "audit.round",
        "audit.segments",
        "lineage.missing",
        "pin.invalid",
    }
)


def show(output: Format, data: Any, text: RenderableType) -> None:
    """Print a result: `data` as JSON, or `text` for people."""
    if output == "json":
        print(json.dumps(data, indent=2))
        return
    # In a pipe or a file there is no edge to fit a table to.
    width = None if sys.stdout.isatty() else 200
    Console(soft_wrap=True, markup=False, highlight=False, width=width).print(_Plain(text))


class _Plain:
    """What is printed, plain in every cell of a table as well: nodes choose what stands there."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        inner = plain(self._inner) if isinstance(self._inner, str) else self._inner
        for segment in console.render(inner, options):
            yield Segment(plain(segment.text), segment.style, segment.control)


def plain(text: str) -> str:
    """A text without what moves the cursor or turns the writing: a file or a node may quote it."""
    return UNPRINTED.sub("\N{REPLACEMENT CHARACTER}", text)


def show_audit(output: Format, audit: Audit) -> None:
    """Print what was verified, step by step."""
    lines = "\n".join(f"  verified: {step}" for step in audit.steps)
    text = f"{audit.subject} at height {audit.height}, {tell_time(audit.time_ms)}\n{lines}"
    show(output, dump(audit), text)


def number(value: float | None) -> str:
    """A figure for people, three places long."""
    return "-" if value is None else f"{value:.3f}"


def show_refusal(refused: Refused, as_json: bool) -> int:
    """Print a refusal to stderr and return the exit code for it."""
    _show_error(refused.code, refused.message, as_json)
    return exit_code(refused.code)


def exit_code(code: str) -> int:
    """What a command that was refused with `code` exits with."""
    room = code.partition(".")[0]
    if room == "usage":
        return USAGE
    if code in UNREACHABLE_CODES:
        return UNREACHABLE
    if room in UNVERIFIED_ROOMS and code not in NO_PROOF:
        return UNVERIFIED
    return REFUSED


def show_halt(halted: Halted, as_json: bool) -> int:
    """Say that consensus stopped this node, and what to do."""
    _show_error(
        "halted",
        f"{halted}. Keep this home as it is: it holds the evidence. Compare with the other "
        "validators (concilium status) before anything is started again.",
        as_json,
    )
    return FAILED


def show_outdated(outdated: Outdated, as_json: bool) -> int:
    """Say that the chain has gone on to another protocol, and what to install."""
    _show_error(
        "protocol.unknown",
        f"{outdated}. Install a release of concilium that knows it and start again: nothing was "
        "lost, and the node goes on where it stopped.",
        as_json,
    )
    return OUTDATED


def _show_error(code: str, message: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"code": code, "message": message}}), file=sys.stderr)
        return
    # Messages quote input, such as [section] key: nothing in them is markup.
    text = Text.assemble((code, "bold red"), ": ", plain(message))
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)
