"""A large model brought to all validators over mutual TLS, beside the same connection by itself."""

import asyncio
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from node.home import config
from node.validator.custody import MODEL_BYTES_MAX
from node.wire.gate import Gate
from node.wire.tls import client_context
from node.wire.transfer import open_session, upload
from tests.bench.ledger import machine, raw
from tests.bench.ledger.fleet import Fleet
from vm.record import Member, Role

MB = 1_000_000
STEWARD = 1  # who brings it


@dataclass(frozen=True, slots=True)
class Blobs:
    """A model of `model_mb`, in `files` as a chain lets one be no larger, in each validator.

    `mb_s` counts what all validators have taken together, as `raw_mb_s` what one receiver has that
    does nothing with it; processor time is told by megabyte taken.
    """

    model_mb: float
    files: int
    seconds: float
    mb_s: float
    raw_mb_s: float
    ratio: float
    cipher: str
    validator_ms: float
    client_ms: float


def measure(fleet: Fleet, folder: Path, model_bytes: int) -> Blobs:
    """Bring a model of random bytes to all validators of a running network at once."""
    files = -(-model_bytes // MODEL_BYTES_MAX)
    size = model_bytes // files
    paths = [folder / f"model-{number}" for number in range(files)]
    for path in paths:
        path.write_bytes(secrets.token_bytes(size))
    taken_mb = files * size * len(fleet.urls) / MB
    before = _cpu_s(fleet)
    seconds = asyncio.run(_bring(fleet, paths))
    after = _cpu_s(fleet)
    office = config.load(config.OfficeConfig, fleet.home(STEWARD, "steward"), {})
    raw_s, cipher = raw.seconds(office.member, office.tls, fleet.home(1), files * size)
    mb_s, raw_mb_s = taken_mb / seconds, files * size / MB / raw_s
    return Blobs(
        model_mb=round(files * size / MB, 1),
        files=files,
        seconds=round(seconds, 2),
        mb_s=round(mb_s, 1),
        raw_mb_s=round(raw_mb_s, 1),
        ratio=round(mb_s / raw_mb_s, 3),
        cipher=cipher,
        validator_ms=round(1e3 * (after[0] - before[0]) / taken_mb, 2),
        client_ms=round(1e3 * (after[1] - before[1]) / taken_mb, 2),
    )


async def _bring(fleet: Fleet, paths: list[Path]) -> float:
    """Seconds until every validator has all files, each of which goes to all of them at once."""
    office = config.load(config.OfficeConfig, fleet.home(STEWARD, "steward"), {})
    known: dict[bytes | None, Member] = {
        member.transport: member
        for member in fleet.genesis.members
        if member.role is Role.VALIDATOR
    }
    gate = Gate(known.get, lambda: datetime.now(UTC))
    urls = [f"https://{validator.peer}" for validator in office.client.validators]
    async with open_session(client_context(office.tls.files(office.member)), gate.admit) as session:
        begun_s = time.perf_counter()
        for path in paths:
            await asyncio.gather(*(upload(session, url, path) for url in urls))
        return time.perf_counter() - begun_s


def _cpu_s(fleet: Fleet) -> tuple[float, float]:
    return sum(map(machine.cpu_s, fleet.pids)), machine.cpu_s(os.getpid())
