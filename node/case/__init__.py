"""The case file: all that the chain says of a model, in one archive that proves itself."""
