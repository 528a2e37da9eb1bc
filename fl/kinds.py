"""The kinds of transaction and the hook that federated learning adds to the state machine.

With all others they make the program in `node.program`.
"""

from fl.body import Aggregate, OpenTask, ProofOfLearning, RegisterModel, SubmitVerdict
from fl.rounds import due
from fl.submit import submit_aggregate, submit_proof, submit_verdict
from fl.task import open_task, register_model
from vm.execute import Hook, Kind

KINDS: tuple[Kind, ...] = (
    Kind("model.register", RegisterModel, register_model),
    Kind("task.open", OpenTask, open_task),
    Kind("learning.proof", ProofOfLearning, submit_proof),
    Kind("learning.verdict", SubmitVerdict, submit_verdict),
    Kind("learning.aggregate", Aggregate, submit_aggregate),
)

HOOKS: tuple[Hook, ...] = (due,)
