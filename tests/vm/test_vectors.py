"""The golden vectors are what the code says, byte for byte."""

import pytest

from tests.vectors import BUILDERS, FOLDER, text_of


@pytest.mark.parametrize("name", BUILDERS)
def test_the_code_gives_the_vectors(name: str) -> None:
    """A difference is a change of protocol: other nodes would disagree, so it needs a version."""
    golden = (FOLDER / f"{name}.json").read_text()

    assert text_of(name) == golden


def test_no_vector_is_without_its_builder() -> None:
    """A file that nothing regenerates would pin nothing."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(BUILDERS)
