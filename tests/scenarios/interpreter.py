"""Runs the steps of a script: each command goes to the part of the world that knows it."""

from tests.scenarios.disk import Disk
from tests.scenarios.home import Home
from tests.scenarios.hostile import Hostile
from tests.scenarios.joining import Joining
from tests.scenarios.ledger import Ledger
from tests.scenarios.named import check_named
from tests.scenarios.pool import Pool
from tests.scenarios.script import Step
from tests.scenarios.stage import Stage
from vm.refusal import Refused


class Interpreter:
    """One script's world."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        tell = self._lines.append
        self._stage = Stage(tell)
        ledger = Ledger(tell)
        self._places = (Joining(tell, ledger), ledger, Disk(tell), Home(tell))
        self.commands = self._stage.commands | {"holds": holds}
        for part in (*self._places, Pool(tell), Hostile(tell, self._stage)):
            self.commands |= part.commands

    def run(self, step: Step) -> list[str]:
        """What the step prints."""
        self._lines.clear()
        for line in step.commands:
            command, *words = line.split()
            quietly = command == "quietly"
            if quietly:
                command, *words = words
            said = len(self._lines)
            try:
                self.commands[command](words)
            except Refused as refused:
                self._lines.append(f"refused: {refused.code}")
            if quietly:
                del self._lines[said:]
        self._stage.check()
        return list(self._lines)

    def close(self) -> None:
        """Give back what the world holds of this machine."""
        for place in self._places:
            place.close()


def holds(words: list[str]) -> None:
    """`holds tests/file.py::test_name`: a test that says the rest."""
    (test,) = words
    check_named(test)
