"""What a case file says, from its records."""

from dataclasses import replace

import pytest
import rfc8785

from node.case.contents import INTEGER_MAX, Case, contents
from tests.node.case.made import AUDITOR, VERSION
from tests.node.network import HOSPITALS, MODEL, POISONER, TASK
from vm.refusal import Refused


def test_every_round_and_every_sites_part_is_told_with_its_reason(case: Case) -> None:
    """Failed rounds and refused updates are in it as much as accepted ones."""
    found = contents(case)

    assert [(item["number"], item["model_version"]) for item in found["rounds"]] == [
        (1, 1),
        (2, None),
        (3, 2),
    ]
    assert found["rounds"][1]["code"] == "round.too_few_updates"
    first = {site["organisation"]: site for site in found["rounds"][0]["sites"]}
    assert [site["status"] for site in first.values()] == ["accepted"] * 3 + ["rejected"]
    assert first[POISONER]["reason"]
    assert first[POISONER]["decisions"] == {"pass": 0, "fail": 3, "abstain": 0}
    assert {item["code"] for item in first[POISONER]["verdicts"]} == {"update.norm"}
    assert first[HOSPITALS[0]]["update"]["evidence"] == "committed"


def test_attestations_stand_with_the_visits_that_hospitals_signed(case: Case) -> None:
    """An audit without a visit says so."""
    expired, failed = contents(case)["attestations"]

    assert (expired["outcome"], expired["visit"]) == ("unavailable", None)
    assert failed["outcome"] == "failed"
    assert failed["visit"]["trainer"] == f"{HOSPITALS[2]}.trainer"


def test_a_mark_is_told_of_the_version_that_it_reaches(case: Case) -> None:
    """The failed audit of round 3 marks version 2, not version 1."""
    found = contents(case)["model"]

    assert (found["id"], found["version"], found["marked"]) == (MODEL, VERSION, True)
    assert found["mark"]["version"] == VERSION


def test_all_who_signed_are_listed_once_with_their_keys(case: Case) -> None:
    """Sites' members, validators that aggregated, the auditor and the steward."""
    members = contents(case)["members"]

    names = [member["id"] for member in members]
    assert names == sorted(set(names))
    assert {f"{name}.{role}" for name in HOSPITALS for role in ("trainer", "verifier")} < set(names)
    assert {f"{name}.validator" for name in HOSPITALS} < set(names)
    assert AUDITOR in names
    for member in members:
        assert [item["public_key"] for item in member["keys"]] == [member["public_key"]]
        assert (member["keys"][0]["first"], member["keys"][0]["end"]) == (
            member["enrolled_height"],
            None,
        )


def test_use_conditions_are_told_in_words_beside_their_codes(case: Case) -> None:
    """A reader need not know the ontology."""
    for dataset in contents(case)["datasets"]:
        assert dataset["conditions"] == [
            {"code": "DUO:0000006", "means": "health, medical or biomedical research"}
        ]


def test_contributions_add_up_to_all_parts_of_all_rounds(case: Case) -> None:
    """Each site is counted once a round."""
    found = contents(case)

    totals = [sum(item["statuses"].values()) for item in found["contributions"]]
    assert totals == [3] * len(HOSPITALS)
    assert found["totals"]["statuses"]["accepted"] == 6
    assert found["totals"]["audited_updates"] == 2


def test_a_signer_whom_the_chain_does_not_know_is_told_as_such(case: Case) -> None:
    """Contents say whether the key was enrolled at that height."""
    stranger = replace(case, auditor=replace(case.auditor, key=bytes(32)))

    assert contents(case)["auditor"]["enrolled"]
    assert not contents(stranger)["auditor"]["enrolled"]


def test_a_number_that_json_readers_may_round_is_written_as_text(case: Case) -> None:
    """RFC 8785 refuses 2^53, which a record may hold."""
    task = case.lineage.tasks[0]
    before = task.task.terms.preprocessing
    outcome = replace(before.outcome, center=INTEGER_MAX + 1)
    terms = replace(task.task.terms, preprocessing=replace(before, outcome=outcome))
    changed = replace(task, task=replace(task.task, terms=terms))
    found = contents(replace(case, lineage=replace(case.lineage, tasks=(changed,))))

    assert found["tasks"][0]["id"] == TASK
    assert found["tasks"][0]["terms"]["preprocessing"]["outcome"]["center"] == str(2**53)
    rfc8785.dumps(found)


def test_recorded_uses_are_told_by_organisation_version_and_purpose(case: Case) -> None:
    """With every batch, and totals that they come to."""
    found = contents(case)["usage"]

    kinds = [(item["organisation"], item["version"], item["count"]) for item in found["kinds"]]
    assert kinds == [(HOSPITALS[0], 1, 12), (HOSPITALS[0], 2, 12), (HOSPITALS[1], 1, 12)]
    assert [item["batches"] for item in found["organisations"]] == [2, 1]
    assert len(found["batches"]) == 3


def test_a_time_beyond_calendars_is_refused(case: Case) -> None:
    """Validators whose keys were retired might sign one: 2^53 ms is in the year 287396."""
    header = replace(case.header, time_ms=2**53)

    with pytest.raises(Refused) as refused:
        contents(replace(case, header=header))

    assert refused.value.code == "case.time"
