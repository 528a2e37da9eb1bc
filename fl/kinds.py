"""The kinds of transaction and the hook that federated learning adds to the state machine."""

from types import MappingProxyType

from fl.body import Aggregate, OpenTask, ProofOfLearning, RegisterModel, SubmitVerdict
from fl.rounds import due
from fl.submit import submit_aggregate, submit_proof, submit_verdict
from fl.task import open_task, register_model
from vm import registry
from vm.execute import Hook, Kind, Program

KINDS: tuple[Kind, ...] = (
    Kind("model.register", RegisterModel, register_model),
    Kind("task.open", OpenTask, open_task),
    Kind("learning.proof", ProofOfLearning, submit_proof),
    Kind("learning.verdict", SubmitVerdict, submit_verdict),
    Kind("learning.aggregate", Aggregate, submit_aggregate),
)

HOOKS: tuple[Hook, ...] = (due,)


def program() -> Program:
    """Everything that can change the state of a Concilium chain."""
    kinds = {kind.name: kind for kind in (*registry.KINDS, *KINDS)}
    return Program(MappingProxyType(kinds), HOOKS)
