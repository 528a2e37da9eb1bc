"""The trainer: trains on registered rows alone, submits once a round, leaks nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fl.approval import terms_digest
from fl.body import ApproveTask, CommitSecret, ProofOfLearning, WithdrawApproval
from fl.spec import logistic_regression
from fl.trace import origin
from fl.train import Result, train
from fl.weights import unpack_update
from node.peer import watch
from node.peer.training import Assignment, Trained
from tests.fl.dialogue import TASK, TERMS, aggregate, approval, opening, site, speak, withdrawal
from tests.node import hospital
from tests.node.hospital import BASE, BASE_ADDRESS, Town
from tests.node.peer.looks import code_of, committed, opened, run, submitted
from vm.learning import Round, SiteApproval, Task, Update, UpdateStatus
from vm.record import Dataset
from vm.refusal import Refused
from vm.terms import Evidence


def test_a_trainer_submits_its_update(tmp_path: Path) -> None:
    """The blob is brought first, then named by a transaction that the chain takes."""
    town = opened(tmp_path)

    run(town.trainer(2).work(TASK))

    update = town.chain.get(Update, TASK, 1, "hospital-2")
    blob = town.blobs[update.blob]
    found = unpack_update(logistic_regression(2), 24, origin(update), update.segments, blob)
    delta, segments = found
    assert (update.status, update.blob_bytes) == (UpdateStatus.SUBMITTED, len(blob))
    assert (len(segments), update.dataset) == (4, "opt-2")
    assert any(delta.tolist())


def test_a_trainer_says_on_the_chain_what_its_site_has_approved(tmp_path: Path) -> None:
    """Before its first update, by the digest of the very terms that it has read, and once."""
    town = Town(tmp_path)
    town.chain.applied([opening()])

    for again in (town.trainer(2), town.trainer(2)):
        run(again.work(TASK))

    assert [type(body) for body in town.submitted] == [ApproveTask, ProofOfLearning]
    found = town.chain.get(SiteApproval, TASK, "hospital-2")
    assert (found.terms, found.stands) == (terms_digest(TERMS), True)


def test_who_approves_within_a_later_round_sends_once_its_verifier_is_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for either; an update alone would have the verifier's silence counted."""
    town = Town(tmp_path)
    town.chain.applied([opening()])
    town.chain.block(time_ms=town.chain.get(Round, TASK, 1).deadline_ms)
    trainer = town.trainer(2)

    async def bound(board: object, seen: int) -> None:
        assert town.brought == []
        await town.verifier(2).work(TASK)

    monkeypatch.setattr(type(trainer._board), "wait", bound)
    run(trainer.work(TASK))

    assert town.chain.get(Round, TASK, 2).parts == ()
    assert [type(body) for body in town.submitted] == [ApproveTask, CommitSecret, ProofOfLearning]


def test_a_site_that_asks_first_says_nothing_before_somebody_has_answered(tmp_path: Path) -> None:
    """A steward elsewhere has named it; that alone approves nothing."""
    town = Town(tmp_path)
    town.chain.applied([opening()])

    assert code_of(town.trainer(2, mode="ask").work(TASK)) == "peer.not_approved"
    assert town.submitted == []


def test_a_trainer_gives_no_approval_again_that_was_withdrawn(tmp_path: Path) -> None:
    """Its steward or admin may have withdrawn it; only a person here says otherwise."""
    town = opened(tmp_path)
    _, kind, body = withdrawal(2)
    town.chain.applied([("hospital-2.admin", kind, body)])

    assert code_of(town.trainer(2).work(TASK)) == "peer.withdrawn"
    assert town.submitted == []


def test_a_withdrawal_while_rows_are_read_approves_nothing(tmp_path: Path) -> None:
    """They may be many; the chain hears of no approval that was taken back before it was said."""
    town = Town(tmp_path)
    town.chain.applied([opening()])
    town.approvals(2, "ask").approve(town.chain.get(Task, TASK))
    trainer = town.trainer(2, mode="ask")
    rows = trainer._rowkeeper.rows

    async def slowly(*arguments: Any) -> Any:
        town.approvals(2, "ask").withdraw(TASK)
        return await rows(*arguments)

    trainer._rowkeeper.rows = slowly  # type: ignore[method-assign, assignment]

    assert code_of(trainer.work(TASK)) == "peer.not_approved"
    assert town.submitted == []


def test_nothing_leaves_after_a_withdrawal_within_the_training(tmp_path: Path) -> None:
    """Training goes on for hours; the update is asked for its site's word before it is brought."""
    town = Town(tmp_path)
    town.chain.applied([opening(), approval(2)])

    def interrupted(*arguments: Any, **named: Any) -> Result:
        town.approvals(2, "ask").withdraw(TASK)
        return train(*arguments, **named)

    town.approvals(2, "ask").approve(town.chain.get(Task, TASK))
    trainer = town.trainer(2, mode="ask", train=interrupted)

    assert code_of(trainer.work(TASK)) == "peer.not_approved"
    assert (town.brought, town.submitted) == ([], [])


def test_no_proof_is_sent_after_a_withdrawal_while_the_update_was_brought(tmp_path: Path) -> None:
    """A large one takes its time to reach the validators; without its proof it is nobody's."""
    town = opened(tmp_path)
    approvals = town.approvals(2, "ask", {})
    approvals.approve(town.chain.get(Task, TASK))
    trainer = town.trainer(2)
    trainer._approvals = approvals
    bring = trainer._exchange.bring

    async def slowly(content: bytes) -> str:
        found = await bring(content)
        approvals.withdraw(TASK)
        return found

    trainer._exchange.bring = slowly  # type: ignore[method-assign]

    assert code_of(trainer.work(TASK)) == "peer.not_approved"
    assert (len(town.brought), town.submitted) == (1, [])


@pytest.mark.parametrize("halted", ["bring", "submit"])
def test_a_withdrawal_ends_the_sending_of_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, halted: str
) -> None:
    """A large one takes hours to bring, a halted chain may take as long for its proof."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    town = opened(tmp_path)
    trainer = town.trainer(2)
    sender = {"bring": trainer._exchange, "submit": trainer._submitter}[halted]
    cut = False

    async def endless(*_: object) -> Any:
        nonlocal cut
        town.chain.applied([withdrawal(2)])
        try:
            await asyncio.Event().wait()
        finally:
            cut = True

    monkeypatch.setattr(sender, halted, endless)

    assert code_of(asyncio.wait_for(trainer.work(TASK), 30)) == "peer.withdrawn"
    assert cut


@pytest.mark.parametrize("killed", [False, True])
def test_a_withdrawal_while_the_approval_is_on_its_way_is_said_too(
    tmp_path: Path, killed: bool
) -> None:
    """The person who withdrew found nothing on the chain yet; the peer says it behind itself.

    Also after a crash: what was withdrawn here is kept, until somebody here approves again.
    """
    town = Town(tmp_path)
    town.chain.applied([opening()])
    town.approvals(2, "ask").approve(town.chain.get(Task, TASK))
    trainer = town.trainer(2, mode="ask")
    submit = trainer._submitter.submit

    async def slowly(kind: str, body: object) -> Any:
        town.approvals(2, "ask").withdraw(TASK)
        receipt = await submit(kind, body)
        if killed:
            raise KeyboardInterrupt
        return receipt

    trainer._submitter.submit = slowly  # type: ignore[method-assign]
    with pytest.raises((Refused, KeyboardInterrupt)):
        run(trainer.work(TASK))
    for _ in range(2):
        assert code_of(town.trainer(2, mode="ask").work(TASK)) == "peer.not_approved"

    assert [type(body) for body in town.submitted] == [ApproveTask, WithdrawApproval]
    assert not town.chain.get(SiteApproval, TASK, "hospital-2").stands


@pytest.mark.parametrize("when", ["before it is said", "while it is said"])
def test_an_approval_by_a_person_is_not_taken_back_for_an_older_withdrawal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The newest word counts: somebody approves again while the peer says the word before."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    town = opened(tmp_path)
    town.approvals(2, "ask").withdraw(TASK)
    trainer, early = town.trainer(2, mode="ask"), when.startswith("before")
    record, submit = trainer._board.record, trainer._submitter.submit

    async def look(cls: Any, *key: Any) -> Any:
        if cls is SiteApproval and early:
            town.approvals(2, "ask").approve(town.chain.get(Task, TASK))
        return await record(cls, *key)

    async def slow(kind: str, body: Any) -> Any:
        if kind == "task.withdraw" and not early:
            town.approvals(2, "ask").approve(town.chain.get(Task, TASK))
            await asyncio.Event().wait()
        return await submit(kind, body)

    monkeypatch.setattr(trainer._board, "record", look, raising=False)
    trainer._submitter.submit = slow  # type: ignore[method-assign]
    run(asyncio.wait_for(trainer.work(TASK), 30))

    assert town.chain.get(SiteApproval, TASK, "hospital-2").stands
    assert [type(body) for body in town.submitted] == [ProofOfLearning]


def test_a_peer_that_has_lost_its_store_withdraws_nothing(tmp_path: Path) -> None:
    """Nobody here has said that it should; it asks again before it trains."""
    town = opened(tmp_path)

    assert code_of(town.trainer(2, mode="ask").work(TASK)) == "peer.not_approved"

    assert town.submitted == []
    assert town.chain.get(SiteApproval, TASK, "hospital-2").stands


def test_a_training_goes_on_while_no_node_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short outage costs no hours of training: who cannot say is not heard."""
    town = opened(tmp_path)
    monkeypatch.setattr(watch, "LOOK_S", 0)
    trainer = town.trainer(2)
    board, refused, asked = trainer._board, 0, asyncio.Event()
    away = False

    async def record(cls: Any, *key: str | int) -> Any:
        nonlocal refused
        if not away:
            return town.chain.state.get(cls, *key)
        refused += 1
        if refused == 3:
            asked.set()
        raise Refused("client.unreachable", "expected a node, found none")

    class Slow:
        async def train(self, assignment: Assignment) -> Trained:
            nonlocal away
            away = True
            await asyncio.wait_for(asked.wait(), 30)
            away = False
            return await town.trainer(2)._training(TASK).train(assignment)

    trainer._training = lambda task: Slow()
    monkeypatch.setattr(board, "record", record)
    run(trainer.work(TASK))

    assert town.chain.get(Update, TASK, 1, "hospital-2").organisation == "hospital-2"
    assert refused >= 3


def test_a_trainer_approves_nothing_that_it_cannot_train(tmp_path: Path) -> None:
    """With rows that are not the registered ones it would be waited for, and absent each time."""
    town = Town(tmp_path)
    town.chain.applied([opening()])
    town.path(2).write_text(town.path(3).read_text())

    assert code_of(town.trainer(2).work(TASK)) == "peer.dataset_root"
    assert town.submitted == []


def test_one_update_a_round(tmp_path: Path) -> None:
    """Neither another look nor a restart trains again."""
    town = opened(tmp_path)
    trainer = town.trainer(1)

    for again in (trainer, trainer, town.trainer(1)):
        run(again.work(TASK))

    assert len(town.submitted) == 1
    assert town.loads == 1


def test_rows_are_prepared_once_for_all_rounds(tmp_path: Path) -> None:
    """They are the same in every round of a task."""
    town = opened(tmp_path)
    committed(town)
    trainers = [town.trainer(number) for number in (1, 2, 3, 4)]
    for trainer in trainers:
        run(trainer.work(TASK))
    speak(town.chain)
    weights: dict[str, Any] = {"result": BASE_ADDRESS, "result_bytes": len(BASE)}
    town.chain.applied([aggregate(town.chain, number, **weights) for number in (1, 2, 3)])
    town.loads = 0

    run(trainers[0].work(TASK))

    assert town.chain.get(Update, TASK, 2, "hospital-1").base_version == 1
    assert town.loads == 0


def test_a_trainer_has_nothing_to_do_in_other_phases(tmp_path: Path) -> None:
    """Before the task is open, in the verdict phase, and for a task that is not there."""
    early = Town(tmp_path)
    run(early.trainer(1).work(TASK))
    early.open()
    run(early.trainer(1).work("another"))
    assert early.submitted == []
    later = submitted(tmp_path)

    run(later.trainer(1).work(TASK))

    assert later.submitted == []


def test_a_trainer_that_is_no_site_says_so(tmp_path: Path) -> None:
    """A task in the configuration that others agreed on without us is a mistake to be shown."""
    town = opened(tmp_path, sites=tuple(site(number) for number in (1, 2, 3)))

    assert code_of(town.trainer(4).work(TASK)) == "peer.not_a_site"
    assert town.loads == 0


def test_a_trainer_opens_nothing_that_its_site_does_not_permit(tmp_path: Path) -> None:
    """The dataset's record alone does not decide: the site's own configuration must agree."""
    town = opened(tmp_path, evidence=Evidence.REPLAYED)
    assert town.chain.get(Dataset, "opt-1").opening

    assert code_of(town.trainer(1).work(TASK)) == "peer.opening"
    assert (town.submitted, town.loads) == ([], 0)
    run(town.trainer(1, opening=True).work(TASK))

    assert town.chain.get(Update, TASK, 1, "hospital-1").evidence is Evidence.REPLAYED


def test_a_trainer_refuses_rows_that_are_not_the_registered_ones(tmp_path: Path) -> None:
    """Nothing is trained, brought or submitted: the hospital must register the new rows first."""
    town = opened(tmp_path)
    path = town.path(1)
    path.write_text(path.read_text().replace(",yes\n", ",no\n", 1))
    blobs = dict(town.blobs)

    assert code_of(town.trainer(1).work(TASK)) == "peer.dataset_root"

    assert (town.submitted, town.blobs) == ([], blobs)
    assert code_of(town.trainer(1).work(TASK)) == "peer.dataset_root"


def test_a_trainer_with_a_handful_of_rows_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its update would tell of single patients, whatever the steward's terms."""
    monkeypatch.setattr(hospital, "ROWS", 24)
    town = opened(tmp_path)

    assert code_of(town.trainer(1).work(TASK)) == "peer.too_few_rows"
    assert town.submitted == []


def test_a_trainer_without_its_file_says_so(tmp_path: Path) -> None:
    """And goes on as soon as the file is there: what failed is not remembered."""
    town = opened(tmp_path)
    trainer, path = town.trainer(1), town.path(1)
    content = path.read_text()
    path.unlink()
    assert code_of(trainer.work(TASK)) == "peer.data"

    path.write_text(content)
    run(trainer.work(TASK))

    assert len(town.submitted) == 1


def test_a_trainer_waits_for_the_base_model(tmp_path: Path) -> None:
    """A validator that cannot give the weights yet is asked again later."""
    town = opened(tmp_path)
    base = town.blobs.pop(BASE_ADDRESS)

    assert code_of(town.trainer(1).work(TASK)) == "blob.unavailable"
    town.blobs[BASE_ADDRESS] = base
    run(town.trainer(1).work(TASK))

    assert len(town.submitted) == 1
