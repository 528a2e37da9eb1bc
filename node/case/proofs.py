"""The proofs of a case file: files of their own, all under one certificate.

One is the lineage, the others are of the records beside it, `KEYS_MAX` at a time as nodes serve
them. Certificates of one header differ from node to node in who signed; `normal` makes those equal
that share a quorum, and a checkpoint that the auditor holds makes all of them equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from node.audit.file import Anchor, Opened, Version, open_file, read_version, write_file
from vm.certificate import CheckpointCertificate
from vm.epoch import ruling
from vm.inclusion import CertifiedHeader, MultiProof
from vm.quorum import Epoch, ValidatorSet
from vm.refusal import Refused
from vm.succession import Step
from vm.trust import Trust

LINEAGE = "proofs/lineage.json"
FOLDER = "proofs/"
FILES_MAX = 1_000  # of records beside the lineage: 20 each


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A certified header, and the steps to its validators from genesis or from an anchor."""

    certified: CertifiedHeader
    steps: tuple[Step, ...]
    anchor: Anchor | None


@dataclass(frozen=True, slots=True)
class Proofs:
    """The lineage of a model version and records beside it, all proven under one checkpoint."""

    checkpoint: Checkpoint
    version: Version
    lineage: MultiProof
    beside: tuple[MultiProof, ...]


def normal(checkpoint: Checkpoint, epochs: Sequence[Epoch]) -> Checkpoint:
    """The checkpoint with no more votes than a quorum, the first in order of validator's id."""
    certified = checkpoint.certified
    validators = ruling(epochs, certified.certificate.height).validators
    before = {epoch.number: epoch.validators for epoch in epochs}
    return Checkpoint(
        replace(certified, certificate=_cut(certified.certificate, validators)),
        tuple(
            replace(step, certificate=_cut(step.certificate, before[step.epoch.number - 1]))
            for step in checkpoint.steps
        ),
        checkpoint.anchor,
    )


def _cut(certificate: CheckpointCertificate, validators: ValidatorSet) -> CheckpointCertificate:
    return replace(certificate, votes=certificate.votes[: validators.quorum])


def write_proofs(proofs: Proofs) -> dict[str, bytes]:
    """The files by name, in order."""
    checkpoint = proofs.checkpoint

    def write(proof: MultiProof, lineage: Version | None) -> bytes:
        held = replace(proof, certified=checkpoint.certified)
        text = write_file(held, checkpoint.steps, lineage=lineage, anchor=checkpoint.anchor)
        return text.encode()

    found = {LINEAGE: write(proofs.lineage, proofs.version)}
    for number, proof in enumerate(proofs.beside, 1):
        found[records_name(number)] = write(proof, None)
    return found


def records_name(number: int) -> str:
    """The name of a file of records, counted from 1."""
    return f"{FOLDER}records-{number:04}.json"


def open_proofs(trust: Trust, files: Mapping[str, bytes]) -> tuple[Trust, Proofs]:
    """What files of proofs hold, not verified yet, and the trust that their steps lead to.

    Raises `Refused` as `open_file`, or with `case.checkpoint` or `case.kind`.
    """
    opened = {name: open_file(trust, data) for name, data in files.items()}
    first = opened[LINEAGE]
    story = _expect_kind(LINEAGE, first, "lineage")
    checkpoint = Checkpoint(story.certified, first.steps, first.anchor)
    beside = []
    for name, found in opened.items():
        if name == LINEAGE:
            continue
        proof = _expect_kind(name, found, "records")
        if Checkpoint(proof.certified, found.steps, found.anchor) != checkpoint:
            raise Refused(
                "case.checkpoint", f"expected {name} under the lineage's checkpoint, found another"
            )
        beside.append(proof)
    version = read_version(first.subject)
    return first.trust, Proofs(checkpoint, version, story, tuple(beside))


def _expect_kind(name: str, found: Opened, kind: str) -> MultiProof:
    if found.kind != kind or not isinstance(found.proof, MultiProof):
        raise Refused("case.kind", f"expected {name} of kind {kind}, found {found.kind}")
    return found.proof
