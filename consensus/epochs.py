"""The epoch that a replica is in, and those that execution has scheduled after it."""

from vm.quorum import Epoch
from vm.shape import HEIGHT_MAX


class Epochs:
    """Epochs in order of number, the current one first.

    A block at height h schedules one that begins at h + window + 1. Nobody orders that height
    before h is executed and certified, so whoever is in an epoch knows where it ends in time. There
    are at most window + 1 to come: one for each height that can be executed before the first of
    them begins.
    """

    def __init__(self, epochs: tuple[Epoch, ...]) -> None:
        self._epochs = list(epochs)

    @property
    def current(self) -> Epoch:
        """The epoch at hand."""
        return self._epochs[0]

    @property
    def last(self) -> int:
        """The last height of this epoch, or HEIGHT_MAX while no other is scheduled."""
        return self._epochs[1].first - 1 if len(self._epochs) > 1 else HEIGHT_MAX

    def schedule(self, epoch: Epoch) -> None:
        """Note the epoch that a block has scheduled."""
        newest = self._epochs[-1]
        assert epoch.number == newest.number + 1, f"epoch {epoch.number} after {newest.number}"
        assert epoch.first > newest.first, "epochs are scheduled in order of height"
        self._epochs.append(epoch)

    def turn(self) -> Epoch:
        """Leave the current epoch for the next one."""
        del self._epochs[0]
        return self.current


def base_of(epoch: Epoch) -> int:
    """The height before the epoch's first: stable at everybody who is in the epoch."""
    return epoch.first - 1
