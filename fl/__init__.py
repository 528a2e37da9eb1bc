"""Federated learning and proof of learning: the integer part, and the part that trains."""
