"""Where a hospital's trainer and others' verifiers meet: at the validator of the trainer's own."""

from collections.abc import Sequence

from node.client.board import Board
from node.home.config import ValidatorAddress
from node.wire.openings import Rendezvous
from node.wire.tls import TlsFiles
from vm.record import Member, Role
from vm.refusal import Refused


class Meetings:
    """Finds an organisation's validator among those that this peer is configured to talk to."""

    def __init__(
        self, board: Board, validators: Sequence[ValidatorAddress], files: TlsFiles
    ) -> None:
        """`files` are those of the member that connects."""
        self._board = board
        self._validators = validators
        self._files = files

    async def at(self, organisation: str) -> Rendezvous:
        """Its validator, known by the key that the chain has for it now.

        Raises `Refused("peer.no_validator")`.
        """
        for validator in self._validators:
            member = await self._board.record(Member, validator.id)
            if member is None or member.role is not Role.VALIDATOR:
                continue
            if member.organisation == organisation:
                return Rendezvous(member, f"https://{validator.peer}", self._files)
        raise Refused(
            "peer.no_validator",
            f"expected a validator of {organisation} in [[training.validators]], found none: "
            "add it, for what its trainer opens is met there only",
        )
