"""`concilium audit learning`: an auditor of another organisation, at the hospital."""

import asyncio
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from secrets import SystemRandom
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from node.api.times import tell_time
from node.client.client import Client
from node.client.credentials import credentials_of
from node.client.submitter import Submitter
from node.commands.report import Format, show
from node.home import config
from node.home.document import dump
from node.home.genesis import read_genesis
from node.home.keyfile import read_key, read_secret
from vm.block import Receipt
from vm.conduct import AuditOutcome, Visit
from vm.record import Member
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX

if TYPE_CHECKING:
    from fl.body import AttestAudit
    from node.peer.auditing import Audited, Finding

MIB = 2**20
EXPIRED = "audit.expired"  # as `fl.audit` asks for it, which this command must not need to load
Segments = Annotated[int, Parameter(validator=Number(gte=1))]


def learning(
    home: Path,
    site: Path,
    *,
    task: str,
    round: int,  # noqa: A002 - the option's name
    segments: Segments | None = None,
    unavailable: str | None = None,
    dry_run: bool = False,
    output: Format = "text",
) -> None:
    """Replay a hospital's training of one round where its rows are, and attest what was found.

    Run it at the hospital, as it reads the rows; they do not leave. The hospital's trainer signs
    first that the auditor was let in. The attestation says passed, failed, or unavailable, and
    trusts the hospital's machine. A failed one marks the model.

    Parameters
    ----------
    home
        The auditor's folder with concilium.toml.
    site
        The hospital's training peer's folder with concilium.toml.
    task
        Id of the task.
    round
        Number of the round, which has ended.
    segments
        How many segments to replay, drawn here by chance; the whole trace if not given.
    unavailable
        Attest without a look that the trace is not to be had, with this reason, such as a consent
        that was withdrawn.
    dry_run
        Print what was found, and attest nothing.
    """
    asyncio.run(_audit(home, site, task, round, segments, unavailable, dry_run, output))


async def _audit(
    home: Path,
    site: Path,
    task: str,
    number: int,
    segments: int | None,
    unavailable: str | None,
    dry_run: bool,
    output: Format,
) -> None:
    from fl.body import AttestAudit
    from node.peer.auditing import find_audited

    auditor = config.load(config.ClientConfig, home, os.environ)
    hospital = config.load(config.PeerConfig, site, os.environ)
    key = read_key(auditor.member.key)
    genesis = read_genesis(auditor.chain.genesis)
    reader = credentials_of(auditor.member, auditor.tls)
    async with Client(genesis, auditor.client.validators, reader) as client:
        organisation = await _organisation(client, hospital.trainer.id)
        audited = await find_audited(client, task, number, organisation)
        came_ms = await _came_ms(client, audited, auditor.member.id)
        if _expired(audited, came_ms) is None and unavailable is None and not dry_run:
            # By the time of its own block: that of an idle chain's newest header stands still.
            came_ms = await _admit(hospital, auditor.member.id, audited)
        if until := _expired(audited, came_ms):
            found = _unavailable(EXPIRED, unavailable or f"the trace had to be kept until {until}")
        elif unavailable is not None:
            found = _unavailable("audit.unavailable", unavailable)
        else:
            found = await _replay(hospital, audited, segments)
        body = AttestAudit(
            task, number, organisation, found.outcome, found.code, found.reason, found.segments
        )
        attested = ""
        transaction: dict[str, str] = {}
        if not dry_run:
            submitter = Submitter(client, auditor.member.id, key)
            body, receipt = await _attest(client, submitter, audited, body)
            transaction["transaction"] = receipt.transaction.hex()
            attested = f"\nAttested at height {receipt.height}: {receipt.transaction.hex()}"
    data = {"attested": not dry_run, **dump(body), **transaction}
    show(output, data, f"{body.outcome.value}: {body.code}: {body.reason}{attested}")


async def _attest(
    client: Client, submitter: Submitter, audited: "Audited", body: "AttestAudit"
) -> "tuple[AttestAudit, Receipt]":
    """Attest what was found; that the time was over too, where only its own block could tell.

    An idle chain's newest header stands still, and the block that refuses it is the next one.
    """
    try:
        return body, await submitter.submit("learning.audit", body)
    except Refused as refused:
        came_ms = await _came_ms(client, audited, submitter.member)
        if refused.code != EXPIRED or body.code == EXPIRED or _expired(audited, came_ms) is None:
            raise
    late = replace(body, code=EXPIRED)
    return late, await submitter.submit("learning.audit", late)


async def _admit(hospital: config.PeerConfig, auditor: str, audited: "Audited") -> int:
    """Have the hospital sign that the auditor is here; when, in ms of the chain's time."""
    from fl.body import AdmitAuditor

    update = audited.update
    urls = [validator.http for validator in hospital.training.validators]
    reader = credentials_of(hospital.trainer, hospital.tls)
    async with Client(read_genesis(hospital.chain.genesis), urls, reader) as client:
        member = await client.record(Member, auditor)
        if member is None:
            raise Refused("audit.missing", f"expected member {auditor} on the chain, found none")
        visit = await client.record(Visit, *update.key, auditor)
        if visit is not None:
            return visit.time_ms
        submitter = Submitter(client, hospital.trainer.id, read_key(hospital.trainer.key))
        body = AdmitAuditor(update.task, update.round, auditor)
        receipt = await submitter.submit("learning.visit", body)
        return (await client.header_at(receipt.height)).time_ms


async def _organisation(client: Client, trainer: str) -> str:
    member = await client.record(Member, trainer)
    if member is None:
        raise Refused("audit.missing", f"expected member {trainer} on the chain, found none")
    return member.organisation


async def _came_ms(client: Client, audited: "Audited", auditor: str) -> int:
    """When the auditor was let in, by the chain's time; its newest if that has yet to be."""
    visit = await client.record(Visit, *audited.update.key, auditor)
    return (await client.header()).time_ms if visit is None else visit.time_ms


def _expired(audited: "Audited", came_ms: int) -> str | None:
    """When the time in which the trace had to be kept was over; None for who came before that."""
    stage = audited.stage
    until_ms = stage.round.deadline_ms + stage.task.terms.trace_retention_ms
    if came_ms <= until_ms:
        return None
    return tell_time(until_ms)


def _unavailable(code: str, reason: str) -> "Finding":
    from node.peer.auditing import Finding

    if len(reason.encode()) > NOTE_BYTES_MAX:
        raise Refused("usage.unavailable", f"expected at most {NOTE_BYTES_MAX} bytes, found more")
    return Finding(AuditOutcome.UNAVAILABLE, code, reason, 0)


async def _replay(
    hospital: config.PeerConfig, audited: "Audited", segments: int | None
) -> "Finding":
    """What the audit finds; the base model is fetched by the hospital's own trainer."""
    from node.peer.auditing import audit
    from node.peer.bases import Bases
    from node.peer.site import load_data
    from node.peer.traces import TraceStore
    from node.wire.exchange import Exchange

    training, store = hospital.training, hospital.store
    urls = [validator.http for validator in training.validators]
    all_segments = range(audited.update.segments)
    count = min(segments or len(all_segments), len(all_segments))
    drawn = sorted(SystemRandom().sample(all_segments, count))
    load = partial(load_data, training.data, secret=read_secret(training.secret))
    folder = store.folder / "blobs" / "audit"  # of its own: the peer may run beside it
    try:
        async with (
            Client(
                read_genesis(hospital.chain.genesis),
                urls,
                credentials_of(hospital.trainer, hospital.tls),
            ) as client,
            Exchange(
                client, hospital.trainer, hospital.tls, training.validators, folder
            ) as exchange,
        ):
            traces = TraceStore(store.folder, store.traces_mib * MIB)
            return await audit(audited, Bases(exchange), traces, load, drawn)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
