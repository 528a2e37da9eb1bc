"""Validators without a machine: real replicas, pools, chains and stores in a seeded world."""
