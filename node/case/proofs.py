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
    """The files by name, in order; the steps to the validators stand in the first alone."""
    checkpoint = proofs.checkpoint
    found = {LINEAGE: _write_lineage(checkpoint, proofs.lineage, proofs.version)}
    for number, proof in enumerate(proofs.beside, 1):
        found[records_name(number)] = _write_records(checkpoint, proof)
    return found


def _write_lineage(checkpoint: Checkpoint, proof: MultiProof, version: Version) -> bytes:
    held = replace(proof, certified=checkpoint.certified)
    text = write_file(held, checkpoint.steps, lineage=version, anchor=checkpoint.anchor)
    return text.encode()


def _write_records(checkpoint: Checkpoint, proof: MultiProof) -> bytes:
    return write_file(replace(proof, certified=checkpoint.certified)).encode()


def records_name(number: int) -> str:
    """The name of a file of records, counted from 1."""
    return f"{FOLDER}records-{number:04}.json"


def open_proofs(trust: Trust, files: Mapping[str, bytes]) -> tuple[Trust, Proofs]:
    """What files of proofs hold, not verified yet, and the trust that the lineage's steps lead to.

    One file is opened after the other, and of each no more is kept than its proof. Raises `Refused`
    as `open_file`, or with `case.checkpoint`, `case.kind` or `case.proofs`.
    """
    first = open_file(trust, files[LINEAGE])
    story = _expect_kind(LINEAGE, first, "lineage")
    checkpoint = Checkpoint(story.certified, first.steps, first.anchor)
    version = read_version(first.subject)
    _expect_written(LINEAGE, _write_lineage(checkpoint, story, version), files[LINEAGE])
    beside = []
    for name, data in files.items():
        if name == LINEAGE:
            continue
        proof = _expect_kind(name, open_file(first.trust, data), "records")
        if proof.certified != checkpoint.certified:
            raise Refused(
                "case.checkpoint", f"expected {name} under the lineage's checkpoint, found another"
            )
        _expect_written(name, _write_records(checkpoint, proof), data)
        beside.append(proof)
    return first.trust, Proofs(checkpoint, version, story, tuple(beside))


def _expect_written(name: str, expected: bytes, found: bytes) -> None:
    if expected != found:
        raise Refused("case.proofs", f"expected {name} as it is written, found it otherwise")


def _expect_kind(name: str, found: Opened, kind: str) -> MultiProof:
    if found.kind != kind or not isinstance(found.proof, MultiProof):
        raise Refused("case.kind", f"expected {name} of kind {kind}, found {found.kind}")
    return found.proof
