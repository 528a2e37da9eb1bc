"""A hospital's own books of how it uses models: kept here, recorded in batches, shown on demand."""
