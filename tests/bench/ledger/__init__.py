"""What the ledger carries, beside what the machine could at most (`scripts/bench ledger`)."""
