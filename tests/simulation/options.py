"""What a run is asked to be, and what it reports."""

from dataclasses import dataclass

STEPS = 2_500  # events until everything heals


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is; what is None or "" is drawn, of traitors f at most.

    `lost` is the kind of message of which each link loses the first copy. It is drawn only in runs
    that chance has made calm.
    """

    seed: int
    replicas: int | None = None
    steps: int = STEPS
    traitors: int | None = None
    mood: str = ""
    calm: bool = False
    far_ms: int | None = None
    lost: str = ""

    @property
    def replay(self) -> str:
        """The command that repeats the run."""
        line = f"scripts/simulate --seed {self.seed} --steps {self.steps}"
        if self.replicas is not None:
            line += f" --replicas {self.replicas}"
        if self.traitors is not None:
            line += f" --traitors {self.traitors}"
        if self.mood:
            line += f" --mood {self.mood}"
        if self.calm:
            line += " --calm"
        if self.far_ms is not None:
            line += f" --far {self.far_ms}"
        if self.lost:
            line += f" --lose {self.lost}"
        return line


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did, for the person who asked for it."""

    seed: int
    replicas: int
    events: int
    simulated_ms: int
    height: int
    view: int
    epochs: int
    crashes: int
    transactions: int
    traitors: str  # how many, and their mood
    healed_ms: int  # from healing until all that waited was done
