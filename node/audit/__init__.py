"""What a model came from: proving it, and checking the proof with the genesis alone."""
