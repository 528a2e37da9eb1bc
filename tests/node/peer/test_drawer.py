"""What was sealed is found again as it was, in its round and in no other."""

import stat
from dataclasses import replace
from pathlib import Path

from fl.body import Judged, RevealVerdicts
from node.peer.drawer import Drawer
from vm.learning import Decision

JUDGED = Judged(
    "hospital-2", bytes(32), Decision.PASS, "verdict.pass", "", None, 6_900, None, None, bytes(32)
)
BODY = RevealVerdicts("preterm", 3, bytes(range(32)), (JUDGED,))


def test_what_was_put_is_got_after_a_restart(tmp_path: Path) -> None:
    """Nobody else on the machine may read the secret before it is revealed."""
    Drawer(tmp_path).put(BODY)

    assert Drawer(tmp_path).get("preterm", 3) == BODY
    (path,) = (tmp_path / "sealed").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_round_has_nothing_and_takes_the_place(tmp_path: Path) -> None:
    """One file for each task, however many rounds it has."""
    drawer = Drawer(tmp_path)
    assert drawer.get("preterm", 3) is None
    drawer.put(BODY)
    assert drawer.get("preterm", 4) is None
    assert drawer.get("other", 3) is None

    drawer.put(replace(BODY, round=4))

    assert drawer.get("preterm", 3) is None
    assert drawer.get("preterm", 4) == replace(BODY, round=4)
    assert len(list((tmp_path / "sealed").iterdir())) == 1


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    """Half of what was sealed is not what was sealed, and later rounds go on without it."""
    drawer = Drawer(tmp_path)
    drawer.put(BODY)
    path = tmp_path / "sealed" / "preterm"
    path.write_bytes(path.read_bytes()[:-1])

    assert drawer.get("preterm", 3) is None
    drawer.put(BODY)
    assert drawer.get("preterm", 3) == BODY
