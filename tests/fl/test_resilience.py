"""The smallest n of each rule, and terms that claim what a rule does not stand."""

from dataclasses import replace

import pytest

from fl.resilience import check_aggregation, updates_needed
from tests.fl.terms import by
from vm.refusal import Refused
from vm.terms import AVERAGE, MICRO, Aggregation, Mixing, Rule, Server, ServerOptimizer

KRUM = by(Rule.KRUM, 1, 5)
MEDIAN = by(Rule.MEDIAN, 1, 3)
MOMENTUM = Server(ServerOptimizer.MOMENTUM, MICRO, momentum=900_000, beta2=0, tau=0)
ADAM = Server(ServerOptimizer.ADAM, 1, momentum=900_000, beta2=990_000, tau=1_000)
CLIPPING = replace(by(Rule.CENTERED_CLIPPING, 1, 10), radius_factor=MICRO)


@pytest.mark.parametrize(
    ("aggregation", "needed"),
    [
        (by(Rule.WEIGHTED_MEAN, 0, 1), 1),
        (by(Rule.MEDIAN, 2, 5), 5),
        (by(Rule.TRIMMED_MEAN, 2, 5), 5),
        (by(Rule.GEOMETRIC_MEDIAN, 2, 5), 5),
        (by(Rule.KRUM, 2, 7), 7),
        (by(Rule.MULTI_KRUM, 2, 7), 7),
        (by(Rule.MULTI_KRUM, 0, 3), 3),
        (replace(CLIPPING, f=2, updates_min=20), 20),
        (replace(CLIPPING, f=0, updates_min=1), 1),
        (replace(MEDIAN, mixing=Mixing.NEIGHBOURS), 3),
        # three buckets of two: the last may hold a single update
        (replace(MEDIAN, mixing=Mixing.BUCKETS, bucket=2, updates_min=5), 5),
        (replace(KRUM, mixing=Mixing.BUCKETS, bucket=3, updates_min=13), 13),
    ],
)
def test_smallest_n(aggregation: Aggregation, needed: int) -> None:
    """As the papers ask; with one update fewer no task may open."""
    assert updates_needed(aggregation) == needed
    check_aggregation(aggregation, needed)
    with pytest.raises(Refused, match=r"task\.aggregation"):
        check_aggregation(replace(aggregation, updates_min=needed - 1), needed)


@pytest.mark.parametrize(
    "aggregation",
    [
        by(Rule.WEIGHTED_MEAN, 1, 20),
        replace(by(Rule.WEIGHTED_MEAN, 0, 20), mixing=Mixing.NEIGHBOURS),
        replace(MEDIAN, bucket=2),
        replace(MEDIAN, mixing=Mixing.BUCKETS),
        replace(MEDIAN, radius_factor=1),
        replace(CLIPPING, radius_factor=0),
        by(Rule.MEDIAN, 1, 21),
    ],
)
def test_terms_that_no_rule_can_keep_are_refused(aggregation: Aggregation) -> None:
    """A mean that stands no Byzantine update, parameters of another rule, more than all sites."""
    with pytest.raises(Refused, match=r"task\.aggregation"):
        check_aggregation(aggregation, 20)


@pytest.mark.parametrize(
    "server", [AVERAGE, replace(AVERAGE, rate=1), MOMENTUM, ADAM, replace(ADAM, tau=MICRO)]
)
def test_server_optimizer_with_what_it_uses_may_be_asked(server: Server) -> None:
    """Any rate above 0, and the constants of the optimizer itself."""
    check_aggregation(replace(MEDIAN, server=server), 20)


@pytest.mark.parametrize(
    "server",
    [
        replace(AVERAGE, rate=0),
        replace(AVERAGE, momentum=1),
        replace(AVERAGE, beta2=1),
        replace(AVERAGE, tau=1),
        replace(MOMENTUM, beta2=1),
        replace(MOMENTUM, tau=1),
        replace(ADAM, beta2=0),
        replace(ADAM, tau=0),
        replace(ADAM, tau=MICRO + 1),
    ],
)
def test_server_optimizer_with_what_it_does_not_use_is_refused(server: Server) -> None:
    """Constants of another optimizer, a step of nothing, and a divisor that may be nothing."""
    with pytest.raises(Refused, match=r"task\.server"):
        check_aggregation(replace(MEDIAN, server=server), 20)
