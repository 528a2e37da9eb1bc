"""Fetches the proofs of a case file over HTTP, all at one height, from nodes that nobody trusts."""

from dataclasses import replace
from functools import partial
from typing import TypeAlias

from node.api.keys import write_keys
from node.api.resource import LINEAGE_PATH, TOGETHER_PATH
from node.api.views import read_base64
from node.audit.check import ModelAudit, audit_lineage
from node.audit.file import Anchor, Version
from node.audit.model import ANSWER_BYTES_MAX
from node.case.beside import AuditKey, due, updates_of
from node.case.proofs import Checkpoint, Proofs, normal
from node.client.client import Client
from node.client.listing import records
from node.client.reply import ProofBody, Reply
from node.light import ask
from vm.block import Header
from vm.conduct import Audit
from vm.inclusion import (
    CertifiedHeader,
    MultiProof,
    expect_height,
    read_multiproof,
    verify_records,
)
from vm.record import ModelHead
from vm.refusal import Refused

Values: TypeAlias = dict[bytes, bytes | None]


async def collect(
    client: Client,
    id: str,
    *,
    auditor: str,
    version: int | None = None,
    at: int | None = None,
    checkpoint: Checkpoint | None = None,
    anchor: Anchor | None = None,
) -> Proofs:
    """The proofs of a model version's case, the newest version's if None.

    They are of height `at`, else of the checkpoint's, else of the newest certified one. With a
    checkpoint the file holds its certificate; without, that of the node that answered, cut down to
    a quorum. `anchor` is where the client's trust begins, None if at genesis. Raises `Refused` as
    the client does, or with `case.checkpoint`.
    """
    if checkpoint is not None:
        height = checkpoint.certified.header.height
        if at not in (None, height):
            raise Refused(
                "case.checkpoint", f"expected a checkpoint of height {at}, found one of {height}"
            )
        at = height
    if version is None:
        version = await _newest(client, id)
    story = await _fetch_lineage(client, id, version, at)
    certified = story.proof.certified
    if checkpoint is None:
        held = Checkpoint(certified, client.proven.steps, anchor)
        checkpoint = normal(held, client.proven.epochs)
    elif checkpoint.certified.header != certified.header:
        raise Refused(
            "case.checkpoint",
            f"expected the header {checkpoint.certified.header.digest.hex()} at height {at}, "
            f"found {certified.header.digest.hex()}",
        )
    beside = await _fetch_beside(client, story, auditor)
    return Proofs(checkpoint, Version(id, version), story.proof, beside)


async def _newest(client: Client, id: str) -> int:
    head = await client.record(ModelHead, id)
    if head is None:
        raise Refused("lineage.missing", f"expected model {id}, found none")
    return head.version


async def _fetch_lineage(client: Client, id: str, version: int, at: int | None) -> ModelAudit:
    def read(reply: Reply) -> MultiProof:
        return read_multiproof(read_base64(reply.read(ProofBody).proof))

    def check(proof: MultiProof) -> ModelAudit:
        found = audit_lineage(client.chain, client.proven.epochs, proof, id, version)
        client.proven.see(proof.certified)
        return found

    path = LINEAGE_PATH.format(id=id, version=version)
    if at is None:

        def read_newest(reply: Reply) -> tuple[ModelAudit, Header]:
            proof = read(reply)
            return client.verified(reply, partial(check, proof)), proof.certified.header

        found, _ = await client.newest(path, read_newest, bytes_max=ANSWER_BYTES_MAX)
        return found

    def check_at(proof: MultiProof) -> ModelAudit:
        expect_height(proof.certified.header, at)
        return check(proof)

    return await ask.past(client, f"{path}?at={at}", read, check_at, bytes_max=ANSWER_BYTES_MAX)


async def _fetch_beside(client: Client, story: ModelAudit, auditor: str) -> tuple[MultiProof, ...]:
    """Records beside the lineage: those that are due, until no more follow from them.

    All are checked under the lineage's own header, whatever a node says of another.
    """
    certified = story.proof.certified
    audits = await _fetch_audits(client, story, certified)
    values: Values = {}
    proofs: list[MultiProof] = []
    while parts := due(values, story.lineage, audits, auditor):
        for keys in parts:
            proof = await _fetch_records(client, keys, certified)
            values |= {entry.key: entry.value for entry in proof.records}
            proofs.append(proof)
    return tuple(proofs)


async def _fetch_audits(
    client: Client, story: ModelAudit, certified: CertifiedHeader
) -> list[AuditKey]:
    """Who had attested what by then, from nodes that list as many as the update counts."""
    found: list[AuditKey] = []
    for update in updates_of(story.lineage):
        count = update.audits_passed + update.audits_failed + update.audits_unavailable
        if count:
            audits = await records(client, Audit, *update.key, at=certified, count=count)
            found += [audit.key for audit in audits]
    return found


async def _fetch_records(
    client: Client, keys: tuple[bytes, ...], certified: CertifiedHeader
) -> MultiProof:
    def check(body: ProofBody) -> MultiProof:
        proof = replace(read_multiproof(read_base64(body.proof)), certified=certified)
        verify_records(proof, keys, client.chain, client.proven.epochs)
        return proof

    def read(reply: Reply) -> MultiProof:
        body = reply.read(ProofBody)
        return client.verified(reply, partial(check, body))

    at = certified.header.height
    return await client.ask(f"{TOGETHER_PATH}?keys={write_keys(keys)}&at={at}", read)
