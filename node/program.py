"""The state machine's program: every kind of transaction and every hook of a Concilium chain.

Here alone do the rooms meet: `vm` and `fl` bring kinds, `consensus` what kinds of governance need
of it.
"""

from types import MappingProxyType

from consensus.window import window_max
from fl import kinds as learning
from vm import accesslog, governance, registry, usage
from vm.execute import Program


def program() -> Program:
    """Everything that can change the state of a Concilium chain."""
    kinds = (
        *registry.KINDS,
        *governance.kinds(window_max),
        *accesslog.KINDS,
        *learning.KINDS,
        *usage.KINDS,
    )
    table = MappingProxyType({kind.name: kind for kind in kinds})
    return Program(table, (*governance.HOOKS, *learning.HOOKS))
