"""Federated learning and proof of learning: the integer part, and the part that trains.

A site's own training loop needs two names: `fl.join`, and `fl.fit` for a Flower client. They are
looked up when they are first used, so that no other import of this package opens a socket module.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl.loop import fit, join

__all__ = ["fit", "join"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fl' has no attribute {name!r}")
    from fl import loop

    return getattr(loop, name)
