"""How throughput and latency change with the number of validators, in simulated time."""
