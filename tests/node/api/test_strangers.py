"""The interface under the hands of programs that know its description alone."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.node.api.asking import run
from tests.node.network import Network
from tests.node.serving import Node

ROOT = Path(__file__).resolve().parents[3]
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
SECONDS_MAX = 600
ENDLESS = "/v1/events"  # never ends, which schemathesis would wait for; tests of events cover it


async def finish(*command: str | Path, **environment: str) -> tuple[int, str]:
    """The exit code of a program of others, and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS_MAX):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode("utf-8", "replace")


async def schemathesis(url: str, phases: str, examples: int, seed: int) -> None:
    """All of its checks over every path, with so many made-up requests for each."""
    code, output = await finish(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--checks", "all", "--phases", phases),
        *(
            "--exclude-checks",
            "ignored_auth",
        ),  # this desk lets all in; tests of readers ask who may
        *("--max-examples", str(examples), "--seed", str(seed)),
        *("--exclude-path", ENDLESS, "--continue-on-failure", "--generation-database", "none"),
        *("--suppress-health-check", "all", "--warnings", "off", "--no-color"),
        PYTHONPATH=str(ROOT),
        SCHEMATHESIS_HOOKS="tests.node.api.stranger",
    )
    assert code == 0, output


@pytest.mark.timeout(SECONDS_MAX)
def test_no_bound_or_method_of_the_description_is_broken(learned: Network) -> None:
    """Each parameter at and beyond its bounds, every method: schemathesis finds nothing wrong."""

    async def check(url: str, _: Node) -> None:
        await schemathesis(url, "coverage", examples=1, seed=1)

    run(learned, check)


@pytest.mark.deep
@pytest.mark.timeout(SECONDS_MAX)
@pytest.mark.parametrize("seed", [2, 3])
def test_made_up_requests_break_nothing_either(learned: Network, seed: int) -> None:
    """The same at random, thirty times for each path, and in sequences of requests."""

    async def check(url: str, _: Node) -> None:
        await schemathesis(url, "coverage,fuzzing,stateful", examples=30, seed=seed)

    run(learned, check)


def test_a_browser_shows_the_page_without_complaint(learned: Network, tmp_path: Path) -> None:
    """Chromium draws it, its style let through by the policy, and its console stays empty."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium-headless-shell")
    picture = tmp_path / "docs.png"

    async def check(url: str, _: Node) -> None:
        code, output = await finish(
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--dump-dom", "--window-size=1200,1600", f"--user-data-dir={tmp_path / 'profile'}"),
            f"{url}/docs",
        )
        assert code == 0, output
        assert 'id="get_v1_blocks_height"' in output
        assert "CONSOLE" not in output
        code, output = await finish(
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--screenshot={picture}", "--window-size=1200,1600"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"{url}/docs"),
        )
        assert code == 0, output
        assert picture.stat().st_size > 10_000

    run(learned, check)
