"""A hospital's training peer, beside data that never leave."""
