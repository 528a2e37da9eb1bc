"""When blobs must go, and what a restart remembers of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from fl.body import AttestAudit, OpenTask
from node.validator.custody import Custody
from tests.harness import key_of
from tests.node.network import (
    BLOB_BYTES,
    HOSPITALS,
    HOUR_MS,
    TASK,
    address,
    aggregate,
    open_network,
    opening,
    run_round,
    terms,
)
from tests.node.validator.claims import (
    BASE,
    BLOB,
    EVERYBODY,
    JUDGES,
    MOMENTUM,
    RETENTION_MS,
    A,
    B,
    Registry,
    registering,
    run_out,
)
from vm.conduct import AuditOutcome
from vm.learning import RoundPhase, Stored, Update
from vm.record import Role
from vm.registry import EnrolMember


def test_updates_go_when_retention_is_over_and_not_before(registry: Registry) -> None:
    """They stay through the round and the task's retention; models stay for ever."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    registry.pass_time()

    registry.expect(RoundPhase.FAILED)
    assert registry.due() == []
    assert registry.readers(BLOB) == JUDGES
    registry.pass_time(RETENTION_MS)

    assert sorted(registry.due()) == sorted([BLOB, *map(address, "yzw")])
    assert registry.readers(BLOB) == set()
    assert registry.due() == []
    assert registry.readers(BASE) == EVERYBODY


def test_an_audit_of_an_update_that_is_gone_opens_nothing_again(registry: Registry) -> None:
    """Its record is written once more; who brings the file back brings it for nobody."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    run_out(registry)
    assert BLOB in registry.due()
    auditor = EnrolMember(f"{B}.auditor", Role.AUDITOR, key_of(f"{B}.auditor").public, None)
    registry.block(registry.network.sign(f"{B}.admin", "member.enrol", auditor))
    gone = AttestAudit(TASK, 1, A, AuditOutcome.UNAVAILABLE, "audit.expired", "", 0)

    registry.block(registry.network.sign(f"{B}.auditor", "learning.audit", gone))
    registry.bring(A, BLOB)

    assert registry.network.chain.state().require(Update, TASK, 1, A).audits_unavailable == 1
    assert registry.readers(BLOB) == set()


def test_an_update_whose_round_goes_on_stays_however_late_it_is(registry: Registry) -> None:
    """Retention counts from the round's end."""
    registry.submit(A=BLOB)

    assert registry.custody.due(registry.network.chain.head.time_ms + 100 * HOUR_MS) == []


def test_an_aggregate_is_open_to_all_whoever_named_it_before(registry: Registry) -> None:
    """A quorum of validators computed it: no trainer who guessed its address can close it."""
    result = address("b")  # what `run_round` has the validators attest
    registry.block(registering(registry, address("c"), "other"))
    body = OpenTask("guess", replace(terms(1), model="other", sites=terms(1).sites[1:3]))
    registry.block(*opening(registry.network, B, body))
    registry.block(registry.proof(B, result, "guess"))
    height = registry.network.chain.head.height

    run_round(registry.network, 1)

    for later in range(height + 1, registry.network.chain.head.height + 1):
        registry.follow(later)
    assert registry.readers(result) == EVERYBODY


def close(registry: Registry, number: int, states: str) -> None:
    """A round closes: validators in order attest these states of the server's optimizer."""
    height = registry.network.chain.head.height
    run_round(registry.network, number, aggregators=())
    registry.network.block(
        *(
            aggregate(registry.network, hospital, number, Stored(address(letter), BLOB_BYTES))
            for hospital, letter in zip(HOSPITALS, states, strict=False)
        )
    )
    for later in range(height + 1, registry.network.chain.head.height + 1):
        registry.follow(later)
    registry.expect(RoundPhase.CLOSED, number)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_servers_state_goes_when_another_has_taken_its_place(
    tmp_path: Path, restarted: bool
) -> None:
    """The next round begins with it, however long the retention of its own is over."""
    with open_network(tmp_path) as network:
        registry = Registry(network, MOMENTUM)
        close(registry, 1, "mmm")
        later_ms = network.chain.head.time_ms + 3 * HOUR_MS
        if restarted:
            registry.custody = Custody(network.chain, registry.origins.get)

        assert address("m") not in registry.custody.due(later_ms)
        assert registry.readers(address("m")) == EVERYBODY
        close(registry, 2, "nnn")
        gone = registry.custody.due(later_ms + HOUR_MS)

        assert {address("m"), address("n")} <= set(gone)  # the task is over
        assert registry.readers(address("m")) == registry.readers(address("n")) == set()


def test_a_state_that_no_quorum_names_is_for_nobody(tmp_path: Path) -> None:
    """A validator that names a rival's file as the state neither opens nor deletes it."""
    with open_network(tmp_path) as network:
        registry = Registry(network, MOMENTUM)

        close(registry, 1, "mxmm")

        assert registry.readers(address("x")) == set()
        assert registry.readers(address("m")) == EVERYBODY


def test_looking_for_what_is_due_costs_nothing_until_something_is(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on the event loop every few seconds, whatever number of updates is held."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    registry.pass_time()
    registry.expect(RoundPhase.FAILED)

    def never() -> None:
        raise AssertionError("the state was read")

    monkeypatch.setattr(registry.network.chain, "state", never)

    assert registry.due() == []


def test_a_restart_forgets_what_went_and_remembers_what_must_still_go(registry: Registry) -> None:
    """Of updates whose retention is over, only those still on the disk are under custody."""
    registry.submit(A=BLOB, B=address("y"), C=address("z"), D=address("w"))
    run_out(registry)
    for blob in "yzw":
        del registry.origins[address(blob)]

    registry.custody = Custody(registry.network.chain, registry.origins.get)

    assert len(registry.custody._updates) == 1
    assert registry.due() == [BLOB]
    assert not registry.custody._updates
    assert not registry.custody._of_round
    assert not registry.custody._ended


@pytest.mark.parametrize("restarted", [False, True])
def test_past_the_bound_the_oldest_update_goes(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """Not the alphabetically first, as a restart reads them from the store."""
    monkeypatch.setattr("node.validator.custody.UPDATES_MAX", 3)
    registry.submit(D=BLOB)
    registry.submit(C=address("y"))
    registry.submit(B=address("z"))

    if restarted:
        monkeypatch.setattr("node.validator.custody.UPDATES_MAX", 2)
        registry.custody = Custody(registry.network.chain, registry.origins.get)
    else:
        registry.submit(A=address("w"))

    assert registry.due() == [BLOB]
    assert len(registry.custody._updates) == (2 if restarted else 3)
