"""The audit of a model, fetched over HTTP from nodes that are not trusted."""

from dataclasses import replace

from node.api.resource import LINEAGE_PATH
from node.api.times import tell_time
from node.api.views import read_base64
from node.audit.check import ModelAudit, audit_lineage
from node.client.client import Client
from node.client.reply import ProofBody, Reply
from vm.block import Header
from vm.inclusion import MULTIPROOF_BYTES_MAX, read_multiproof
from vm.record import ModelHead
from vm.refusal import Refused

ANSWER_BYTES_MAX = MULTIPROOF_BYTES_MAX // 3 * 4 + 64 * 1024  # base64, and JSON around it


async def audit_model(client: Client, id: str, version: int | None = None) -> ModelAudit:
    """Fetch and verify the lineage of a model version, the newest if None.

    A node whose answer does not hold is passed over for the next; see `client.distrusted`. None is
    taken from below a height that was proven: marks, audits and uses may have come since. Raises
    `Refused` with `audit.*`, `lineage.*`, `client.*`, or what a node answered.
    """
    newest: tuple[str, ...] = ()
    if version is None:
        head, header = await client.record_at(ModelHead, id)
        if head is None:
            raise Refused("lineage.missing", f"expected model {id}, found none")
        version = head.version
        when = f"at height {header.height}, {tell_time(header.time_ms)}"
        newest = (f"version {version} the newest {when}",)
    wanted = version

    def read(reply: Reply) -> tuple[ModelAudit, Header]:
        body = reply.read(ProofBody)
        found = client.verified(reply, lambda: _audit(body))
        return found, found.proof.certified.header

    def _audit(body: ProofBody) -> ModelAudit:
        proof = read_multiproof(read_base64(body.proof))
        found = audit_lineage(client.chain, client.proven.epochs, proof, id, wanted)
        client.proven.see(proof.certified)
        return found

    path = LINEAGE_PATH.format(id=id, version=version)
    found, _ = await client.newest(path, read, bytes_max=ANSWER_BYTES_MAX)
    return replace(found, audit=replace(found.audit, steps=(*found.audit.steps, *newest)))
