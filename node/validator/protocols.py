"""The versions of the protocol that this software can follow."""

from vm.genesis import PROTOCOL

SUPPORTED = frozenset({PROTOCOL})  # a node stops before the first block of any other
