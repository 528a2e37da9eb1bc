"""The replicated state machine and its vocabulary: bytes, keys, transactions, trees, state."""
