"""The HTTP interface under /v1: certified heights only, a proof beside each record."""
