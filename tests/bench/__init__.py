"""What a round of training costs beside bare torch (`scripts/bench`)."""
