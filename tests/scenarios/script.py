"""Scripts: commands in a small language, and the transcript that they must give.

    # Comment lines say what the reader should look for.
    lose commit to v01
    propose one
    ----
    v00 -> all: pre-prepare 0/1 one

A step is some command lines and, below `----`, the lines that they print. An empty line ends it. A
step that prints nothing has no `----`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

RULE = "----"


@dataclass(frozen=True, slots=True)
class Step:
    """Commands and comments as written, and what they print."""

    lines: tuple[str, ...]
    printed: tuple[str, ...]

    @property
    def commands(self) -> tuple[str, ...]:
        """The lines that do something."""
        return tuple(line for line in self.lines if not line.startswith("#"))


def read(path: Path) -> tuple[Step, ...]:
    """The steps of a script."""
    return tuple(_steps(path.read_text().splitlines()))


def text(steps: tuple[Step, ...]) -> str:
    """The script with these steps."""
    return "\n".join(_text(step) for step in steps)


def printing(step: Step, lines: list[str]) -> Step:
    """The step with another transcript."""
    return replace(step, printed=tuple(lines))


def _steps(lines: list[str]) -> Iterator[Step]:
    start = 0
    for end in range(len(lines) + 1):
        if end < len(lines) and lines[end]:
            continue
        part = lines[start:end]
        rule = part.index(RULE) if RULE in part else len(part)
        if part:
            yield Step(tuple(part[:rule]), tuple(part[rule + 1 :]))
        start = end + 1


def _text(step: Step) -> str:
    printed = (RULE, *step.printed) if step.printed else ()
    return "".join(f"{line}\n" for line in (*step.lines, *printed))
