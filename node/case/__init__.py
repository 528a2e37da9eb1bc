"""The case file: all that the chain says of a model, in one archive that proves itself."""

MAGIC = b"PK\x03\x04"  # how a case file begins, a ZIP file as it is
CASE_BYTES_MAX = 256 * 1024 * 1024  # the largest lineage, and all that is derived from it
