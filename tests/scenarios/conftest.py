"""The flag that rewrites transcripts."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/scenarios --rewrite`; then read the diff as you would read a test."""
    parser.addoption("--rewrite", action="store_true", help="rewrite the scenarios' transcripts")
