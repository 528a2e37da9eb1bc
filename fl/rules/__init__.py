"""Aggregation in integers: equal updates give equal bytes on every machine."""
