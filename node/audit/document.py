"""The JSON of a proof file, read strictly and within bounds, before anything in it is believed."""

import re
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.home.document import parse
from vm.inclusion import MULTIPROOF_BYTES_MAX
from vm.refusal import Refused
from vm.succession import STEPS_MAX

FILE_FORMAT = "concilium.proof.v2"
AROUND_BYTES_MAX = 4 * 1024 * 1024  # of all but the proof: 200 steps of 64 seats, 1,000 of ten
FILE_BYTES_MAX = MULTIPROOF_BYTES_MAX // 3 * 4 + AROUND_BYTES_MAX  # the proof is base64
PROOF = re.compile(r'"proof"\s*:\s*"([A-Za-z0-9+/=]*)"', re.ASCII)

Subject: TypeAlias = dict[str, Any]  # what a file is said to prove, as JSON


class Start(BaseModel):
    """What a file brings of the pin from which its steps lead."""

    model_config = ConfigDict(extra="forbid", strict=True)

    height: int
    header: str
    certified: str
    epoch: str


class Document(BaseModel):
    """A proof file's members."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    kind: str
    chain: str
    start: Start | None = Field(alias="from")
    steps: list[str] = Field(max_length=STEPS_MAX)
    subject: Subject
    proof: str


def read_document(data: str | bytes) -> Document:
    """The members of a proof file; raises `Refused("file.too_large" | "file.format")`.

    Values in JSON take twenty times the memory of their text, so that only the proof, which is one
    string, may be long: it is cut out before the rest is parsed.
    """
    if len(data) > FILE_BYTES_MAX:
        raise Refused("file.too_large", f"expected at most {FILE_BYTES_MAX} bytes, found more")
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise Refused("file.format", "expected UTF-8, found other bytes") from None
    found = PROOF.search(text)
    begin, end = (0, 0) if found is None else found.span(1)
    around = text[:begin] + text[end:]
    if len(around) > AROUND_BYTES_MAX:
        raise Refused(
            "file.too_large", f"expected at most {AROUND_BYTES_MAX} bytes but the proof, found more"
        )
    document = _read(around)
    if begin < end:
        if document.proof:
            raise Refused("file.format", "expected one member proof, found others within")
        document.proof = text[begin:end]
    if document.format != FILE_FORMAT:
        raise Refused("file.format", f"expected {FILE_FORMAT}, found {document.format[:80]!r}")
    return document


def _read(text: str) -> Document:
    try:
        return Document.model_validate(parse(text))
    except Refused as refused:
        raise Refused("file.format", refused.message) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise Refused(
            "file.format", f"expected a proof file, found {where[:80]!r}: {first['msg'][:200]}"
        ) from None
