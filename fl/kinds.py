"""The kinds of transaction and the hook that federated learning adds to the state machine.

With all others they make the program in `node.program`.
"""

from fl.approval import approve_task, withdraw_approval
from fl.audit import admit_auditor, attest_audit, decide_model
from fl.body import (
    AdmitAuditor,
    Aggregate,
    ApproveTask,
    AttestAudit,
    CloseTask,
    CommitSecret,
    DecideModel,
    DeclineRound,
    OpenTask,
    ProofOfLearning,
    RegisterModel,
    RerunVerdict,
    RevealVerdicts,
    SealVerdicts,
    WithdrawApproval,
)
from fl.judging import commit_secret, rerun_verdict, reveal_verdicts, seal_verdicts
from fl.rounds import due
from fl.submit import decline_round, submit_aggregate, submit_proof
from fl.task import close_task, open_task, register_model
from vm.execute import Hook, Kind

KINDS: tuple[Kind, ...] = (
    Kind("model.register", RegisterModel, register_model),
    Kind("task.open", OpenTask, open_task),
    Kind("task.close", CloseTask, close_task),
    Kind("task.approve", ApproveTask, approve_task),
    Kind("task.withdraw", WithdrawApproval, withdraw_approval),
    Kind("learning.proof", ProofOfLearning, submit_proof),
    Kind("learning.decline", DeclineRound, decline_round),
    Kind("learning.commit", CommitSecret, commit_secret),
    Kind("learning.seal", SealVerdicts, seal_verdicts),
    Kind("learning.verdict", RevealVerdicts, reveal_verdicts),
    Kind("learning.rerun", RerunVerdict, rerun_verdict),
    Kind("learning.aggregate", Aggregate, submit_aggregate),
    Kind("learning.visit", AdmitAuditor, admit_auditor),
    Kind("learning.audit", AttestAudit, attest_audit),
    Kind("model.decide", DecideModel, decide_model),
)

HOOKS: tuple[Hook, ...] = (due,)
