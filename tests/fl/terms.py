"""Parts of a task's terms as most tests want them: one optimizer, one rule, and nothing besides."""

from vm.terms import AVERAGE, Aggregation, Mixing, Optimizer, Replay, Rule, Training

ONE_SEGMENT = Replay(segments=1, off_by_one_max=0, tolerance=0)  # each verifier replays one


def sgd(
    rate: int,
    momentum: int,
    decay: int,
    *,
    steps: int,
    batch_rows: int,
    snapshot_steps: int,
) -> Training:
    """Stochastic gradient descent; constants in millionths."""
    return Training(
        Optimizer.SGD,
        rate=rate,
        momentum=momentum,
        beta2=0,
        epsilon_nano=0,
        decay=decay,
        proximal=0,
        steps=steps,
        batch_rows=batch_rows,
        snapshot_steps=snapshot_steps,
    )


def by(rule: Rule, f: int, updates_min: int) -> Aggregation:
    """The rule alone, without a pre-step, whose aggregate is added to the model."""
    return Aggregation(rule, Mixing.NONE, f, updates_min, bucket=1, radius_factor=0, server=AVERAGE)
