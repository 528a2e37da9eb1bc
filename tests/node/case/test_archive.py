"""Case files: verified offline, and refused with the step that failed."""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256

import pytest
import rfc8785

from node.audit.file import verify_file, write_file
from node.audit.prove import newest, prove_together
from node.case import MAGIC
from node.case.archive import DATE, verify_case
from node.case.proofs import LINEAGE, open_proofs, records_name, write_proofs
from node.case.sign import write_signature
from tests.harness import genesis_of, key_of
from tests.node.case.made import AUDITOR, VERSION, parts_of, refusal, trust_of, zipped
from tests.node.network import HOSPITALS, MODEL, Network, certificate
from vm.conduct import Audit, Visit
from vm.encoding import decode
from vm.inclusion import MultiProof
from vm.record import ModelHead
from vm.state import state_key
from vm.trust import from_genesis
from vm.usage import UseBatchRecord

Parts = dict[str, bytes]
Forge = Callable[[Network, Parts], Parts]
RECORDS = records_name(1)


def test_a_case_file_verifies_offline_with_the_genesis_document_alone(
    network: Network, data: bytes
) -> None:
    """Whoever reads it is told what was checked."""
    audit = verify_case(trust_of(network), data)

    assert audit.subject == f"case file of model {MODEL} version {VERSION}"
    assert audit.height == network.chain.head.height
    steps = "\n".join(audit.steps)
    assert "certified by 3 of 4 validators" in steps
    assert "2 attestations of traces, as many as their updates count" in steps
    assert "3 batches of uses, which come to the model's totals" in steps
    assert f"signature by {AUDITOR}, auditor of {HOSPITALS[1]}" in steps
    assert audit.content["model"]["id"] == MODEL


def test_any_tool_opens_it_and_nothing_in_it_is_compressed(data: bytes) -> None:
    """Names, order and dates are fixed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        assert archive.testzip() is None

    names = [info.filename for info in infos]
    assert names[:5] == ["page.html", "summary.json", "signature.json", "prov.json", LINEAGE]
    assert names[5:] == [records_name(number) for number in range(1, len(names) - 4)]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {DATE}
    assert data == zipped(list(parts_of(data).items()))


def test_the_summary_is_canonical_and_names_the_other_parts(data: bytes) -> None:
    """RFC 8785 in, RFC 8785 out; whoever trusts the signature trusts page and PROV by it."""
    parts = parts_of(data)

    summary = json.loads(parts["summary.json"])

    assert rfc8785.dumps(summary) == parts["summary.json"]
    assert summary["parts"] == {
        name: sha256(parts[name]).hexdigest() for name in ("page.html", "prov.json")
    }


def test_each_file_of_proofs_verifies_by_itself(network: Network, data: bytes) -> None:
    """They are proof files as any other."""
    subjects = [
        verify_file(trust_of(network), part).subject
        for name, part in parts_of(data).items()
        if name.startswith("proofs/")
    ]

    assert subjects[0] == f"model {MODEL} version {VERSION}"
    assert all(subject.endswith(" records") for subject in subjects[1:])


# Refused archives


def rezipped(
    data: bytes,
    method: int = zipfile.ZIP_STORED,
    date: tuple[int, int, int, int, int, int] = DATE,
) -> bytes:
    """The same parts, written otherwise."""
    return zipped(list(parts_of(data).items()), method, date)


def with_bomb(data: bytes) -> bytes:
    """The page as 64 MiB of zeros in 64 KiB."""
    others = list(parts_of(data).items())[1:]
    packed = zipped([("page.html", bytes(64 * 1024 * 1024))], zipfile.ZIP_DEFLATED)
    assert len(packed) < 128 * 1024
    return packed[: packed.index(b"PK\x01\x02")] + zipped(others)


def with_flags(data: bytes) -> bytes:
    """A part whose size is said to come after it."""
    return data[:6] + struct.pack("<H", 8) + data[8:]


def with_names(data: bytes, name: str) -> bytes:
    """One part more, of this name."""
    target = io.BytesIO(data)
    with warnings.catch_warnings(), zipfile.ZipFile(target, "a") as archive:
        warnings.simplefilter("ignore")  # the library warns of a name that it has
        archive.writestr(name, b"x")
    return target.getvalue()


ARCHIVES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: b"", "case.format"),
    (lambda data: MAGIC, "case.format"),
    (lambda data: data[:1_000], "case.format"),
    (lambda data: data[:-30], "case.bytes"),
    (lambda data: data + b"x", "case.bytes"),
    (lambda data: b"x" + data, "case.format"),
    (lambda data: rezipped(data, method=zipfile.ZIP_DEFLATED), "case.compressed"),
    (lambda data: rezipped(data, date=(1980, 1, 1, 0, 0, 2)), "case.bytes"),
    (with_bomb, "case.compressed"),
    (with_flags, "case.format"),
    (lambda data: with_names(data, "../page.html"), "case.name"),
    (lambda data: with_names(data, "/etc/passwd"), "case.name"),
    (lambda data: with_names(data, "proofs/../../x.json"), "case.name"),
    (lambda data: with_names(data, "readme.txt"), "case.name"),
    (lambda data: with_names(data, "proofs/records-9999.json"), "case.name"),
    (lambda data: with_names(data, "page.html"), "case.duplicate"),
    (lambda data: with_names(data, "x" * 65), "case.format"),
    (lambda data: zipped(list(parts_of(data).items())[1:]), "case.missing"),
    (lambda data: zipped(list(parts_of(data).items())[::-1]), "case.order"),
    (lambda data: zipped([]), "case.format"),
]


@pytest.mark.parametrize(("forge", "code"), ARCHIVES)
def test_an_archive_that_is_not_as_it_is_written_is_refused(
    network: Network, data: bytes, forge: Callable[[bytes], bytes], code: str
) -> None:
    """No name is used as a path, nothing is unpacked, and no byte is left over."""
    forged = forge(data)

    assert refusal(partial(verify_case, trust_of(network), forged)) == code


def test_an_archive_above_the_bound_is_not_read(
    network: Network, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size is checked before anything is looked at."""
    monkeypatch.setattr("node.case.archive.CASE_BYTES_MAX", len(data) - 1)

    assert refusal(partial(verify_case, trust_of(network), data)) == "case.too_large"


# Refused stories


def altered(name: str, old: bytes, new: bytes) -> Forge:
    """A part with other bytes in it, as long as before."""

    def forge(network: Network, parts: Parts) -> Parts:
        assert old in parts[name]
        return parts | {name: parts[name].replace(old, new, 1)}

    return forge


def resigned(name: str, old: bytes, new: bytes) -> Forge:
    """The same, under a fresh signature of the auditor over what the summary says then."""

    def forge(network: Network, parts: Parts) -> Parts:
        changed = altered(name, old, new)(network, parts)
        signature = write_signature(changed["summary.json"], AUDITOR, key_of(AUDITOR))
        return changed | {"signature.json": signature}

    return forge


def signed_by(member: str, key: str) -> Forge:
    """Signed in a member's name with somebody's key."""

    def forge(network: Network, parts: Parts) -> Parts:
        summary = json.loads(parts["summary.json"])
        assert summary["auditor"]["member"] == AUDITOR
        signature = write_signature(parts["summary.json"], member, key_of(key))
        return parts | {"signature.json": signature}

    return forge


def proving(change: Callable[[Network, list[bytes]], list[bytes]]) -> Forge:
    """Records beside the lineage that are proven as well as any, but are not the ones due."""

    def forge(network: Network, parts: Parts) -> Parts:
        files = {name: part for name, part in parts.items() if name.startswith("proofs/")}
        _, proofs = open_proofs(trust_of(network), files)
        keys = [entry.key for proof in proofs.beside for entry in proof.records]
        view = newest(network.chain)
        beside = (prove_together(network.chain, view, change(network, keys)),)
        held = write_proofs(replace(proofs, beside=beside))
        return {name: part for name, part in parts.items() if name not in files} | held

    return forge


def split(place: int) -> Forge:
    """The records in other files: the first of them cut in two."""

    def forge(network: Network, parts: Parts) -> Parts:
        files = {name: part for name, part in parts.items() if name.startswith("proofs/")}
        _, proofs = open_proofs(trust_of(network), files)
        first = [entry.key for entry in proofs.beside[0].records]
        view = newest(network.chain)
        cut = [prove_together(network.chain, view, keys) for keys in (first[:place], first[place:])]
        return parts | write_proofs(replace(proofs, beside=(*cut, *proofs.beside[1:])))

    return forge


def swapped(network: Network, parts: Parts) -> Parts:
    """Two files of records in each other's place."""
    return parts | {RECORDS: parts[records_name(2)], records_name(2): parts[RECORDS]}


def unheard_of(_: Network, keys: list[bytes]) -> list[bytes]:
    """That somebody has attested nothing."""
    return [*keys, state_key(Audit.KIND, ("task", 1, "nobody", "nobody"))]


def without(kind: str) -> Forge:
    """One record of a kind is left out."""

    def change(_: Network, keys: list[bytes]) -> list[bytes]:
        found = next(key for key in keys if parts_of_key(key)[0] == kind)
        return [key for key in keys if key != found]

    return proving(change)


def unattested(number: int) -> Forge:
    """Nobody looked into a trace of this round, as it seems."""

    def change(_: Network, keys: list[bytes]) -> list[bytes]:
        found = [
            key
            for key in keys
            if parts_of_key(key)[0] in {Audit.KIND, Visit.KIND} and parts_of_key(key)[2] == number
        ]
        assert len(found) == 2
        return [key for key in keys if key not in found]

    return proving(change)


def parts_of_key(key: bytes) -> tuple[object, ...]:
    """A record's kind and key."""
    parts = decode(key)
    assert isinstance(parts, tuple)
    return parts


def one_more(_: Network, keys: list[bytes]) -> list[bytes]:
    """A record that no case needs."""
    return [*keys, state_key(ModelHead.KIND, ("nothing",))]


def other_certificate(network: Network, parts: Parts) -> Parts:
    """Records under another certificate of the same header than the lineage."""
    header = newest(network.chain).row.header
    made = certificate(network.genesis, header, HOSPITALS[1:])
    files = {name: part for name, part in parts.items() if name.startswith("proofs/")}
    _, proofs = open_proofs(trust_of(network), files)
    first: MultiProof = proofs.beside[0]
    changed = replace(first, certified=replace(first.certified, certificate=made))
    return parts | {RECORDS: write_file(changed).encode()}


def lineage_twice(network: Network, parts: Parts) -> Parts:
    """A lineage in place of records."""
    return parts | {RECORDS: parts[LINEAGE]}


def indented(network: Network, parts: Parts) -> Parts:
    """Proofs that say the same in other bytes."""
    return parts | {LINEAGE: json.dumps(json.loads(parts[LINEAGE])).encode()}


def sub_quorum(network: Network, parts: Parts) -> Parts:
    """Two of four validators."""
    header = newest(network.chain).row.header
    made = certificate(network.genesis, header, HOSPITALS[:2])
    files = {name: part for name, part in parts.items() if name.startswith("proofs/")}
    _, proofs = open_proofs(trust_of(network), files)
    held = replace(proofs.checkpoint.certified, certificate=made)
    return parts | write_proofs(
        replace(proofs, checkpoint=replace(proofs.checkpoint, certified=held))
    )


STORIES = [
    (altered("page.html", b"rejected", b"accepted"), "case.page"),
    (resigned("page.html", b"rejected", b"accepted"), "case.page"),
    (altered("prov.json", b"rejected", b"accepted"), "case.prov"),
    (altered("summary.json", b"rejected", b"accepted"), "case.summary"),
    (resigned("summary.json", b"rejected", b"accepted"), "case.summary"),
    (altered("signature.json", b'"signature":"', b'"signature":"0'), "case.signature"),
    (altered("signature.json", b'"member":"h', b'"member":"x'), "case.incomplete"),
    (signed_by(AUDITOR, "thief"), "case.page"),
    (signed_by("stranger", "stranger"), "case.incomplete"),
    (altered(LINEAGE, b'"kind": "lineage"', b'"kind": "records"'), "case.kind"),
    (indented, "case.proofs"),
    (lineage_twice, "case.kind"),
    (other_certificate, "case.checkpoint"),
    (sub_quorum, "audit.certificate.no_quorum"),
    (proving(one_more), "case.excess"),
    (proving(unheard_of), "case.excess"),
    (proving(lambda _, keys: keys), "case.proofs"),
    (split(1), "case.proofs"),
    (swapped, "case.proofs"),
    (unattested(1), "case.audits"),
    (unattested(3), "case.audits"),
    (without(Audit.KIND), "case.excess"),
    (without(UseBatchRecord.KIND), "case.incomplete"),
    (without(ModelHead.KIND), "case.incomplete"),
    (without("member"), "case.incomplete"),
]


@pytest.mark.parametrize(("forge", "code"), STORIES)
def test_what_does_not_follow_from_the_proofs_is_refused(
    network: Network, data: bytes, forge: Forge, code: str
) -> None:
    """The refusal names the part, or the step of the story, that does not hold."""
    forged = zipped(list(forge(network, parts_of(data)).items()))

    assert refusal(partial(verify_case, trust_of(network), forged)) == code


def test_another_genesis_accepts_nothing(data: bytes) -> None:
    """A case file of another chain says so."""
    assert refusal(partial(verify_case, from_genesis(genesis_of(5)), data)) == "audit.chain"
