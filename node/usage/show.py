"""Shows uses of a batch to an auditor: fetches the batch's record and puts the leaves beside it."""

from node.api.resource import BY_RECORD
from node.api.views import read_base64
from node.client.client import Client
from node.client.reply import ProofBody, Reply
from node.usage.journal import Journal
from vm import tree
from vm.inclusion import RecordProof
from vm.opened import AllUses, OneUse, UseProof, verify_uses
from vm.record import Member
from vm.refusal import Refused
from vm.shape import unpack
from vm.usage import UseBatchRecord


async def prove_uses(
    client: Client, journal: Journal, member: str, batch: int, use: int | None
) -> UseProof:
    """A proof of all uses of a batch, or of the one at place `use`, from 0, alone.

    Raises `Refused` with `use.batch_missing`, `use.unsent`, `use.place` or what a client's reading
    raises.
    """
    kept = journal.batch(batch)
    if kept.number is None:
        raise Refused(
            "use.unsent", f"expected a batch that is on the chain, found {batch} not sent yet"
        )
    owner = await client.record(Member, member)
    if owner is None:
        raise Refused("access.unknown_member", f"expected an enrolled member, found {member}")
    key = (kept.body.model, owner.organisation, kept.number)
    leaves = journal.leaves(batch)
    proof = UseProof(await _record(client, key), _open(leaves, use))
    verify_uses(proof, client.chain, client.proven.epochs)
    return proof


def _open(leaves: list[bytes], use: int | None) -> OneUse | AllUses:
    if use is None:
        return AllUses(tuple(leaves))
    if not 0 <= use < len(leaves):
        raise Refused("use.place", f"expected a use from 0 to {len(leaves) - 1}, found {use}")
    return OneUse(use, leaves[use], tree.inclusion_path(leaves, use))


async def _record(client: Client, key: tuple[str, str, int]) -> RecordProof:
    def read(reply: Reply) -> RecordProof:
        text = reply.read(ProofBody).proof
        client.verified(reply, lambda: client.proven.record(text, UseBatchRecord, key))
        return unpack(RecordProof, read_base64(text))

    return await client.ask(BY_RECORD[UseBatchRecord].item(key), read)
