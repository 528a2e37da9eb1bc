"""Where each kind of record stands under /v1: the one table for the server and its clients."""

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from vm.accesslog import AccessLog
from vm.conduct import Audit, ModelMark, Reputation, Visit
from vm.learning import (
    Commitment,
    Decline,
    Holdout,
    Round,
    SiteApproval,
    Task,
    Update,
    Verdict,
)
from vm.proposal import Endpoint, Fault, Proposal
from vm.record import Dataset, Member, MemberKeys, Model, ModelHead, Organisation
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, NAME_BYTES_MAX
from vm.state import Record
from vm.usage import ModelUsage, UseBatchRecord

Key: TypeAlias = tuple[str | int, ...]

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)
NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
NUMBERS = frozenset({"version", "number", "height"})  # parts of a path that are integers


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of record: `path` names one by its key's parts; without the last part, a list."""

    record: type[Record]
    path: str

    @property
    def collection(self) -> str:
        """The path of the list that the record stands in."""
        return self.path.rpartition("/")[0]

    @property
    def label(self) -> str:
        """What such a record is called in a sentence."""
        return self.record.KIND.replace("_", " ")

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the key's parts."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    def item(self, key: Key) -> str:
        """The path of one record; raises `Refused("id.invalid")`."""
        return _fill(self.path, self.parts, key)

    def list(self, prefix: Key) -> str:
        """The path of the records whose key starts with `prefix`, which is all but its last.

        Raises `Refused("id.invalid")`.
        """
        return _fill(self.collection, self.parts[:-1], prefix)


def _fill(path: str, parts: tuple[str, ...], key: Key) -> str:
    """`path` with each part of a key in its place, and none that would lead to another path."""
    named = zip(parts, key, strict=True)
    return path.format(**{name: parse_part(name, str(part)) for name, part in named})


RESOURCES = (
    Resource(Organisation, "/v1/organisations/{id}"),
    Resource(Member, "/v1/members/{id}"),
    Resource(MemberKeys, "/v1/keys/{member}"),
    Resource(Dataset, "/v1/datasets/{id}"),
    Resource(ModelHead, "/v1/models/{id}"),
    Resource(Model, "/v1/models/{id}/versions/{version}"),
    Resource(Task, "/v1/tasks/{id}"),
    Resource(SiteApproval, "/v1/tasks/{id}/approvals/{organisation}"),
    Resource(Round, "/v1/tasks/{id}/rounds/{number}"),
    Resource(Update, "/v1/tasks/{id}/rounds/{number}/updates/{organisation}"),
    Resource(Decline, "/v1/tasks/{id}/rounds/{number}/declines/{organisation}"),
    Resource(Commitment, "/v1/tasks/{id}/rounds/{number}/commitments/{organisation}"),
    Resource(Proposal, "/v1/proposals/{id}"),
    Resource(Fault, "/v1/faults/{key}"),
    Resource(Endpoint, "/v1/endpoints/{member}"),
    Resource(Verdict, "/v1/tasks/{id}/rounds/{number}/updates/{organisation}/verdicts/{verifier}"),
    Resource(Audit, "/v1/tasks/{id}/rounds/{number}/updates/{organisation}/audits/{auditor}"),
    Resource(Visit, "/v1/tasks/{id}/rounds/{number}/updates/{organisation}/visits/{auditor}"),
    Resource(Holdout, "/v1/holdouts/{dataset}"),
    Resource(ModelMark, "/v1/marks/{model}"),
    Resource(Reputation, "/v1/reputations/{organisation}"),
    Resource(AccessLog, "/v1/access-logs/{validator}"),
    Resource(ModelUsage, "/v1/usages/{model}"),
    Resource(UseBatchRecord, "/v1/models/{id}/uses/{organisation}/{number}"),
)
BY_RECORD: dict[Any, Resource] = {resource.record: resource for resource in RESOURCES}
BY_KIND: dict[str, Resource] = {resource.record.KIND: resource for resource in RESOURCES}
EPOCHS_PATH = "/v1/epochs"
STEPS_MAX = 32  # of one answer: 64 seats each with a key and a vote take 20 KiB as base64
TOGETHER_PATH = "/v1/records"  # several records of any kinds, under one header
TOKENS_PATH = "/v1/tokens"
ACCESS_LOG_PATH = "/v1/access-log"
LINES_MAX = 200  # of a page of it; each with a path of some 20 digests: 250 KiB
LINEAGE_PATH = "/v1/models/{id}/versions/{version}/lineage"


def parse_part(name: str, text: str) -> str | int:
    """A part of a record's key from a path; raises `Refused("id.invalid")`."""
    if name in NUMBERS:
        return parse_number(name, text)
    if len(text) > NAME_BYTES_MAX or not NAME.fullmatch(text):
        raise Refused(
            "id.invalid",
            f"expected {name} of at most {NAME_BYTES_MAX} letters a-z, digits and . _ - inside, "
            f"found {text[:80]!r}",
        )
    return text


def parse_number(name: str, text: str) -> int:
    """A height, version or round's number; raises `Refused("id.invalid")`."""
    if not NUMBER.fullmatch(text) or int(text) > HEIGHT_MAX:
        raise Refused("id.invalid", f"expected {name} from 0 to {HEIGHT_MAX}, found {text[:80]!r}")
    return int(text)


def parse_digest(text: str) -> bytes:
    """A transaction's id; raises `Refused("id.invalid")`."""
    if not DIGEST.fullmatch(text):
        raise Refused(
            "id.invalid", f"expected 64 lower-case hexadecimal digits, found {text[:80]!r}"
        )
    return bytes.fromhex(text)
