"""A validator's home in a script: `home`, `lose it was emptied`, `start`, `recover`."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from node.home.config import ValidatorConfig, load
from node.home.testnet import write_testnet
from node.validator.journal import FOLDER
from node.validator.recover import recover
from tests.node.losses import LOSSES, certify, start


class Home:
    """A home whose validator has certified a few heights, started and recovered as by hand."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._folder = TemporaryDirectory()
        self._count = 0
        self._config: ValidatorConfig | None = None
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "home": self._make,
            "lose-journal": self._lose,
            "start": self._start,
            "recover": self._recover,
        }

    def close(self) -> None:
        """Remove every home."""
        self._folder.cleanup()

    @property
    def _home(self) -> ValidatorConfig:
        assert self._config is not None, "expected home first"
        return self._config

    def _make(self, _words: list[str]) -> None:
        """`home`: a new one."""
        self._count += 1
        place = Path(self._folder.name) / f"net-{self._count}"
        net = write_testnet(place, now=datetime(2026, 3, 1, tzinfo=UTC))
        self._config = load(ValidatorConfig, net.home("hospital-1", "validator"), {})
        certify(self._config, 1, 2, 3)

    def _lose(self, words: list[str]) -> None:
        """`lose-journal it is an older copy`: one of the ways in `tests.node.losses`."""
        lose, _ = LOSSES[" ".join(words)]
        lose(self._home.store.folder / FOLDER)

    def _start(self, _words: list[str]) -> None:
        """`start`: as far as the question whether the key may vote."""
        self._tell(f"the validator {'votes' if start(self._home) else 'observes'}")

    def _recover(self, _words: list[str]) -> None:
        """`recover`: what `concilium validator recover` does."""
        done = recover(self._home)
        kept = "nothing" if done.aside is None else "the old journal"
        self._tell(f"barred: {len(done.barred)} key, set aside: {kept}")
