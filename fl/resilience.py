"""How many updates a rule needs to stand f Byzantine ones: what each rule's paper asks.

A round with fewer fails; no other rule ever steps in.
"""

from vm.refusal import Refused
from vm.terms import MICRO, Aggregation, Mixing, Rule, Server, ServerOptimizer

CLIPPING_SHARE = 10  # updates per Byzantine one: Karimireddy et al. 2021 prove up to a tenth


def updates_needed(aggregation: Aggregation) -> int:
    """The smallest n at which the rule, after its pre-step, stands f Byzantine updates.

    Buckets of s updates need s (m - 1) + 1 to be m rows: the last one may hold a single update.
    """
    rows = _rows_needed(aggregation.rule, aggregation.f)
    match aggregation.mixing:
        case Mixing.NONE | Mixing.NEIGHBOURS:
            return rows
        case Mixing.BUCKETS:
            return aggregation.bucket * (rows - 1) + 1


def _rows_needed(rule: Rule, f: int) -> int:
    match rule:
        case Rule.WEIGHTED_MEAN:
            return 1
        case Rule.MEDIAN | Rule.TRIMMED_MEAN | Rule.GEOMETRIC_MEDIAN:
            return 2 * f + 1  # more honest than Byzantine (Yin 2018; Pillutla 2022)
        case Rule.KRUM | Rule.MULTI_KRUM:
            return 2 * f + 3  # 2f + 2 < n (Blanchard et al. 2017, proposition 1)
        case Rule.CENTERED_CLIPPING:
            return max(1, CLIPPING_SHARE * f)


def check_server(server: Server) -> None:
    """Check that the optimizer has what it uses and 0 else; raises `Refused("task.server")`.

    A tau up to 1 fits the grid, and a step is never divided by nothing.
    """
    adam = server.optimizer is ServerOptimizer.ADAM
    if (
        server.rate < 1
        or (server.optimizer is ServerOptimizer.AVERAGE and server.momentum > 0)
        or (not adam and (server.beta2 > 0 or server.tau > 0))
        or (adam and not (server.beta2 > 0 and 1 <= server.tau <= MICRO))
    ):
        raise Refused(
            "task.server",
            "expected a rate above 0, momentum only of momentum and adam, and of adam alone beta2 "
            f"above 0 and tau from 0.000001 to 1, found {server.optimizer.value} with rate "
            f"{server.rate}, momentum {server.momentum}, beta2 {server.beta2}, tau {server.tau}",
        )


def check_aggregation(aggregation: Aggregation, sites: int) -> None:
    """Check that the rule stands what it claims, and what follows it.

    Raises `Refused("task.aggregation" | "task.server")`.
    """
    rule, mixing, f = aggregation.rule, aggregation.mixing, aggregation.f
    if rule is Rule.WEIGHTED_MEAN and (f > 0 or mixing is not Mixing.NONE):
        raise Refused(
            "task.aggregation",
            "expected f = 0 and no mixing with weighted_mean, which stands no Byzantine update, "
            f"found f = {f} and {mixing.value}",
        )
    if (aggregation.bucket > 1) != (mixing is Mixing.BUCKETS):
        raise Refused(
            "task.aggregation",
            "expected 2 updates or more in a bucket where mixing is by buckets, and 1 elsewhere, "
            f"found {aggregation.bucket} with {mixing.value}",
        )
    if (aggregation.radius_factor > 0) != (rule is Rule.CENTERED_CLIPPING):
        raise Refused(
            "task.aggregation",
            "expected a radius_factor above 0 for centered_clipping, and 0 for other rules, "
            f"found {aggregation.radius_factor} with {rule.value}",
        )
    needed = updates_needed(aggregation)
    if not needed <= aggregation.updates_min <= sites:
        raise Refused(
            "task.aggregation",
            f"expected updates_min from {needed}, with which {rule.value} stands f = {f}, to "
            f"{sites}, the number of sites, found {aggregation.updates_min}",
        )
    check_server(aggregation.server)
