"""What every test shares."""

from hypothesis import HealthCheck, settings

# One profile everywhere: derived from the test's code alone, so that a red run repeats, and
# without a deadline per example, which on a busy machine fails for no fault of the code.
settings.register_profile(
    "concilium", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("concilium")
