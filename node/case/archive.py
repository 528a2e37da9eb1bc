"""The archive of a case file: written one way, read strictly, and verified by being made again.

It is a ZIP file that any tool opens, with parts in a fixed order, stored as they are: compressed
bytes differ between versions of zlib, and what is not compressed cannot burst. Only the proofs and
the signature are read; every other part is derived from the proofs and must be equal byte for byte.
"""

import io
import struct
import zipfile
from hashlib import sha256
from typing import Any

import rfc8785

from node.audit.check import Audit, report
from node.audit.file import certified_of, open_file
from node.case import CASE_BYTES_MAX, MAGIC
from node.case.contents import Case, contents, has_key
from node.case.page import write_page
from node.case.proofs import (
    FILES_MAX,
    FOLDER,
    LINEAGE,
    Checkpoint,
    Proofs,
    open_proofs,
    records_name,
    write_proofs,
)
from node.case.prov import write_prov
from node.case.sign import check_signature, read_auditor, write_signature
from node.case.story import tell
from vm.inclusion import ConsistencyProof, verify_header
from vm.keys import SigningKey
from vm.refusal import Refused
from vm.trust import Trust

DIRECTORY = b"PK\x01\x02"  # how what comes after the parts begins
PAGE, SUMMARY, SIGNATURE, PROV = "page.html", "summary.json", "signature.json", "prov.json"
DERIVED = (PAGE, PROV, SUMMARY)
NAME_BYTES_MAX = 64  # of a part; ours are shorter
LOCAL = struct.Struct("<4s5H3I2H")  # a part's header (APPNOTE.TXT 4.3.7)
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that ZIP knows: when a file was made proves nothing
MODE = 0o100644 << 16
UNIX = 3


def make_case(trust: Trust, case: Case, proofs: Proofs, key: SigningKey) -> bytes:
    """A case file, signed with `key`: equal bytes for equal cases, proofs and keys.

    It is read back: no bound stands in the way of whoever verifies it. Raises `Refused` as
    `verify_case` does where it reads, or with `case.auditor`.
    """
    _check_auditor(case)
    _, derived = _derive(case)
    signature = write_signature(derived[SUMMARY], case.auditor.member, key)
    data = _write(_arrange(derived, signature, write_proofs(proofs)))
    open_proofs(trust, _proofs_of(_read(data)))
    return data


def verify_case(trust: Trust, data: bytes) -> Audit:
    """Verify a case file, offline, trusting nothing but `trust`.

    Raises `Refused` with the step that failed: `case.too_large`, `.format`, `.compressed`, `.name`,
    `.duplicate`, `.order` or `.missing` of the archive; what its proofs are refused with;
    `case.checkpoint`, `.kind`, `.incomplete`, `.excess`, `.audits`, `.usage` or `.proofs` of what
    they tell together;
    `case.page`, `.prov` or `.summary` of a part that is not what follows from them;
    `case.auditor`, `.signature`; `case.bytes` of anything else that differs.
    """
    # 1. the archive holds the parts that a case file has, and nothing else
    parts = _read(data)
    # 2. the proofs hold, and tell one story
    auditor = read_auditor(parts[SIGNATURE])
    files = _proofs_of(parts)
    trust, proofs = open_proofs(trust, files)
    case, steps = tell(trust, proofs, auditor)
    # 3. what is derived follows from them
    found, derived = _derive(case)
    for name in DERIVED:
        _expect_equal(name, derived[name], parts[name])
    # 4. the auditor's key signed the summary, and is not somebody else's
    said = _check_auditor(case)
    check_signature(parts[SIGNATURE], parts[SUMMARY])
    # 5. and the archive is written as we write it
    if _write(_arrange(derived, parts[SIGNATURE], files)) != data:
        raise Refused("case.bytes", "expected an archive as it is written, found other bytes")
    model = case.lineage.model
    return report(
        f"case file of model {model.id} version {model.version}",
        case.header,
        (*steps, "summary, PROV and page derived again from the proofs, equal in every byte", said),
        found,
    )


def lineage_file(data: bytes) -> bytes:
    """The proof file of the lineage in a case file, which says where all its steps start.

    Raises `Refused("case.*")` for an archive that is not as it is written.
    """
    return _read(data)[LINEAGE]


def read_checkpoint(trust: Trust, data: bytes) -> Checkpoint:
    """The checkpoint under which a case file or another proof file stands, verified.

    Its steps and its anchor are verified too, as they go into what the auditor signs.
    Raises `Refused` as `open_file` and `verify_header`, or with `case.checkpoint`.
    """
    opened = open_file(trust, lineage_file(data) if data.startswith(MAGIC) else data)
    if isinstance(opened.proof, ConsistencyProof):
        raise Refused("case.checkpoint", "expected a file with one checkpoint, found two in it")
    if not opened.vouched:
        raise Refused(
            "case.checkpoint",
            f"expected a file from epoch {trust.epochs[0].number} or later, as what you trust, and "
            "from no pin that validators certified who were retired since, found another beginning",
        )
    certified = certified_of(opened.proof)
    for found in (certified, *(() if opened.anchor is None else (opened.anchor.certified,))):
        verify_header(found, opened.trust.chain, opened.trust.epochs)
    return Checkpoint(certified, opened.steps, opened.anchor)


def _derive(case: Case) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What follows from the proofs, as values and as parts; the summary names others' digests."""
    found = contents(case)
    parts = {PAGE: write_page(found), PROV: write_prov(case)}
    digests = {name: sha256(data).hexdigest() for name, data in parts.items()}
    return found, parts | {SUMMARY: rfc8785.dumps(found | {"parts": digests})}


def _arrange(
    derived: dict[str, bytes], signature: bytes, proofs: dict[str, bytes]
) -> dict[str, bytes]:
    """All parts in the archive's order: what people read comes first."""
    return {
        PAGE: derived[PAGE],
        SUMMARY: derived[SUMMARY],
        SIGNATURE: signature,
        PROV: derived[PROV],
        **proofs,
    }


def _proofs_of(parts: dict[str, bytes]) -> dict[str, bytes]:
    return {name: part for name, part in parts.items() if name.startswith(FOLDER)}


def _expect_equal(name: str, expected: bytes, found: bytes) -> None:
    if expected != found:
        kind = name.partition(".")[0]
        raise Refused(
            f"case.{kind}",
            f"expected {name} with digest {sha256(expected).hexdigest()} as it follows from the "
            f"proofs, found {sha256(found).hexdigest()}",
        )


def _check_auditor(case: Case) -> str:
    """Say whose signature it is; raises `Refused("case.auditor")` for a key that was not theirs."""
    auditor, signer, height = case.auditor, case.beside.auditor, case.header.height
    if signer is None:
        return f"signature by the key {auditor.key.hex()}, whose member the chain did not know then"
    member = signer.member
    if not has_key(signer, auditor.key, height):
        raise Refused(
            "case.auditor",
            f"expected a key that was {member.id}'s at height {height}, found {auditor.key.hex()}",
        )
    return f"signature by {member.id}, {member.role.value} of {member.organisation}"


def _write(parts: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            info = zipfile.ZipInfo(name, DATE)
            info.create_system, info.external_attr = UNIX, MODE
            archive.writestr(info, data)
    return target.getvalue()


def _read(data: bytes) -> dict[str, bytes]:
    """The parts of an archive, of which nothing is unpacked and no name is ever used as a path."""
    if len(data) > CASE_BYTES_MAX:
        raise Refused("case.too_large", f"expected at most {CASE_BYTES_MAX} bytes, found more")
    parts: dict[str, bytes] = {}
    place = 0
    while data[place : place + len(MAGIC)] == MAGIC:
        name, part, place = _read_part(data, place)
        if name in parts:
            raise Refused("case.duplicate", f"expected each part once, found {name} twice")
        parts[name] = part
    if data[place : place + len(DIRECTORY)] != DIRECTORY:
        raise Refused("case.format", f"expected a part or the directory at byte {place}")
    _check_names(list(parts))
    return parts


def _read_part(data: bytes, place: int) -> tuple[str, bytes, int]:
    """The part that begins at `place`: its name, its content, and where the next begins."""
    start = place + LOCAL.size
    if start > len(data):
        raise Refused("case.format", f"expected a whole part at byte {place}, found it cut off")
    header = LOCAL.unpack_from(data, place)
    flags, method, packed, size, name_size, extra = (*header[2:4], *header[7:])
    if method != zipfile.ZIP_STORED:
        raise Refused("case.compressed", "expected parts that are stored, found a compressed one")
    if flags or extra or packed != size or not 0 < name_size <= NAME_BYTES_MAX:
        raise Refused("case.format", f"expected a plain part at byte {place}, found another kind")
    begin = start + name_size
    if begin + size > len(data):
        raise Refused("case.format", f"expected a whole part at byte {place}, found it cut off")
    name = data[start:begin].decode("ascii", "replace")
    return name, data[begin : begin + size], begin + size


def _check_names(names: list[str]) -> None:
    fixed = [PAGE, SUMMARY, SIGNATURE, PROV, LINEAGE]
    numbered = [records_name(number) for number in range(1, min(len(names), FILES_MAX) + 1)]
    allowed = {*fixed, *numbered}
    for name in names:
        if name not in allowed:
            raise Refused("case.name", f"expected the parts of a case file, found {name!r}")
    for name in fixed:
        if name not in names:
            raise Refused("case.missing", f"expected {name}, found none")
    if names != [*fixed, *numbered[: len(names) - len(fixed)]]:
        raise Refused("case.order", "expected the parts in their order, found another")
