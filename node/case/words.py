"""What codes and numbers mean, for people."""

from datetime import UTC, datetime

from node.api.times import LAST_MS
from vm.learning import UpdateStatus
from vm.refusal import Refused

CONDITIONS = {  # GA4GH Data Use Ontology, in our words
    "DUO:0000004": "no restriction",
    "DUO:0000006": "health, medical or biomedical research",
    "DUO:0000007": "research into a named disease only",
    "DUO:0000011": "research into population origins or ancestry only",
    "DUO:0000012": "named kinds of research only",
    "DUO:0000015": "no development of general methods",
    "DUO:0000016": "genetic studies only",
    "DUO:0000017": "a restriction on use, stated elsewhere",
    "DUO:0000018": "not for profit, not commercial",
    "DUO:0000019": "results must be published",
    "DUO:0000020": "collaboration with the source required",
    "DUO:0000021": "approval of an ethics board required",
    "DUO:0000022": "within a named region only",
    "DUO:0000024": "no publication before a date",
    "DUO:0000025": "use for a limited time",
    "DUO:0000026": "use by named users only",
    "DUO:0000027": "use within a named project only",
    "DUO:0000028": "use within a named institution only",
    "DUO:0000029": "derived data return to the source",
    "DUO:0000042": "general research",
    "DUO:0000043": "clinical care",
    "DUO:0000044": "no research into population origins or ancestry",
    "DUO:0000045": "not for profit organisations only",
    "DUO:0000046": "not for commercial use",
}
NO_CONDITION = "a condition that this software has no words for"

STATUSES = {
    UpdateStatus.SUBMITTED: "sent, not judged",
    UpdateStatus.ACCEPTED: "accepted: more than half of the verifiers passed it",
    UpdateStatus.REJECTED: "rejected: more than half of the verifiers failed it",
    UpdateStatus.UNDECIDED: "undecided: no majority; not aggregated, and nobody is blamed",
    UpdateStatus.ABSENT: "absent: waited for, and never sent",
    UpdateStatus.DECLINED: "declined: the site said that it sends none",
    UpdateStatus.UNAPPROVED: "no part: the site had not approved the task's terms",
}


def utc(time_ms: int) -> str:
    """A time as RFC 3339 has it, to the second.

    Raises `Refused("case.time")` beyond the year 9999, where it ends.
    """
    if time_ms > LAST_MS:
        raise Refused("case.time", f"expected a time before the year 10000, found {time_ms} ms")
    return datetime.fromtimestamp(time_ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(code: str) -> str:
    """What a use condition allows or asks for."""
    return CONDITIONS.get(code, NO_CONDITION)
