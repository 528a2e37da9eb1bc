"""The hospital's own report: what became of each round, on its own test rows, kept here alone."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog.testing

from fl.metric import Figures
from fl.spec import logistic_regression
from fl.weights import pack_weights
from node.peer import report as module
from node.peer.report import Entry, Report
from node.wire.cid import summarise
from tests.fl.dialogue import TASK, aggregate
from tests.node.hospital import PATIENT, Town
from tests.node.peer.looks import run, submitted
from vm.learning import Round, RoundPhase

FIGURES = Figures(30, 0.7, 0.5, 0.3, -0.1, 0.9)
ENTRY = Entry(
    TASK,
    1,
    "closed",
    1,
    "accepted",
    "update.accepted",
    "all pass",
    5,
    {"base": FIGURES, "own": None},
)
SHARED = pack_weights(logistic_regression(2), 24, np.array([1 << 23, 0, 1 << 20], np.int64))


def closed(folder: Path) -> Town:
    """A town whose first round has closed."""
    town = submitted(folder)
    judge_all(town)
    address = put(town, SHARED)
    weights: dict[str, Any] = {"result": address, "result_bytes": len(SHARED)}
    town.chain.applied([aggregate(town.chain, number, **weights) for number in (1, 2, 3)])
    assert town.chain.get(Round, TASK, 1).phase is RoundPhase.CLOSED
    return town


def judge_all(town: Town) -> None:
    """All verifiers judge all updates."""
    while town.chain.get(Round, TASK, 1).phase in (
        RoundPhase.VERDICT,
        RoundPhase.REVEAL,
        RoundPhase.RERUN,
    ):
        for number in (1, 2, 3, 4):
            run(town.verifier(number).work(TASK))


def put(town: Town, content: bytes) -> str:
    """Have validators hold a blob."""
    address, _ = summarise([content])
    town.blobs[address] = content
    return address


def test_each_round_is_reported_with_the_figures_of_three_models(tmp_path: Path) -> None:
    """Base, own and shared, on the hospital's test rows; nothing of it is sent."""
    town = closed(tmp_path)
    town.submitted.clear()

    run(town.reporter(2).work(TASK))

    (entry,) = town.report(2).entries()
    assert (entry.round, entry.phase, entry.version, entry.status) == (1, "closed", 1, "accepted")
    base, own, shared = (entry.figures[name] for name in ("base", "own", "shared"))
    assert base is not None
    assert own is not None
    assert shared is not None
    assert base.rows == own.rows == shared.rows == 35  # 30 % of the rows of each label
    assert base.auc == 0.5  # all weights are zero
    assert base.slope is None
    assert own.auc not in (None, 0.5)
    assert own.log_loss < base.log_loss
    assert shared.slope is not None
    assert town.submitted == []


def test_verdicts_and_the_outcome_are_told_once(tmp_path: Path) -> None:
    """Each with its code and reason, as soon as they are there; a restart tells nothing again."""
    town = closed(tmp_path)
    reporter = town.reporter(2)

    with structlog.testing.capture_logs() as logs:
        run(reporter.work(TASK))
        run(reporter.work(TASK))
        run(town.reporter(2).work(TASK))

    told = [line for line in logs if line["event"] == "update.verdict"]
    assert [line["verifier"] for line in told] == [
        f"hospital-{number}.verifier" for number in (1, 3, 4)
    ]
    assert all(line["decision"] == "pass" and line["reason"] for line in told)
    (ended,) = [line for line in logs if line["event"] == "round.ended"]
    assert (ended["update"], ended["version"]) == ("accepted", 1)
    assert PATIENT not in str(logs)


def test_a_site_without_a_trace_has_no_figures_of_its_own(tmp_path: Path) -> None:
    """It was away in that round, or the trace is past its retention."""
    town = closed(tmp_path)
    town.traces(2).drop(TASK, 1)

    run(town.reporter(2).work(TASK))

    (entry,) = town.report(2).entries()
    assert entry.figures["own"] is None
    assert entry.figures["shared"] is not None


def test_weights_that_nobody_gives_leave_the_figures_out(tmp_path: Path) -> None:
    """What became of the update is told all the same."""
    town = closed(tmp_path)
    town.blobs.clear()

    with structlog.testing.capture_logs() as logs:
        run(town.reporter(2).work(TASK))

    (entry,) = town.report(2).entries()
    assert set(entry.figures.values()) == {None}
    assert entry.status == "accepted"
    assert ("report.partial", "blob.unavailable") in [(x["event"], x.get("code")) for x in logs]


def test_a_task_that_is_not_approved_is_not_reported_on(tmp_path: Path) -> None:
    """Not one of its rows is read for it."""
    town = closed(tmp_path)
    reporter = town.reporter(2)
    reporter._approvals = town.approvals(2, listed={})
    town.loads = 0

    run(reporter.work(TASK))

    assert (list(town.report(2).entries()), town.loads) == ([], 0)


# The file


def test_what_is_appended_reads_back(tmp_path: Path) -> None:
    """In order, and only its owner may read it."""
    report = Report(tmp_path)
    second = replace(ENTRY, round=2)
    for entry in (ENTRY, second):
        report.append(entry)

    assert list(report.entries()) == [ENTRY, second]
    assert (report.newest(TASK), report.newest("another")) == (2, None)
    assert stat.S_IMODE((tmp_path / "report.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("torn", [b'{"task":', b"null", b"[]", b"{}", b'{"figures":{"a":{}}}'])
def test_a_torn_line_is_left_out(tmp_path: Path, torn: bytes) -> None:
    """The others stand."""
    report = Report(tmp_path)
    report.append(ENTRY)
    with (tmp_path / "report.jsonl").open("ab") as file:
        file.write(torn + b"\n")
    report.append(replace(ENTRY, round=2))

    assert [entry.round for entry in report.entries()] == [1, 2]


def test_the_report_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of a bounded size, the older one of which makes way."""
    monkeypatch.setattr(module, "FILE_BYTES_MAX", 1_000)
    report = Report(tmp_path)

    for number in range(1, 41):
        report.append(replace(ENTRY, round=number))

    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert all(size <= 1_000 for size in sizes)
    rounds = [entry.round for entry in report.entries()]
    assert rounds == list(range(rounds[0], 41))
    assert 2 < len(rounds) < 40


def test_the_longest_entry_is_a_line(tmp_path: Path) -> None:
    """Names, codes and reasons at their bounds, in letters that JSON spells out."""
    report = Report(tmp_path)
    models: dict[str, Figures | None] = {
        name: Figures(2**53, *([0.123456789012345678] * 5)) for name in module.MODELS
    }
    entry = Entry("t" * 64, 1_000, "closed", 2**53, "a" * 32, "c" * 48, "ü" * 100, 2**53, models)

    report.append(entry)

    assert list(report.entries()) == [entry]
    assert json.loads((tmp_path / "report.jsonl").read_text())["task"] == "t" * 64
