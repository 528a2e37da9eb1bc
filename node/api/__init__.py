"""The HTTP interface under /v1: certified heights only, a proof beside each record.

`node.api.app.build_api` makes it of an `ApiContext`; there is a module for each noun.
"""
