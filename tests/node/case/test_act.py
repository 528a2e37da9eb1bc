"""What a case file serves, and that the documentation says the same."""

from pathlib import Path

from node.case.act import ARTICLES, UNCOVERED

DOCUMENT = Path(__file__).parents[3] / "docs" / "casefile.md"


def test_each_part_serves_something_and_says_what_it_lacks() -> None:
    """The provisions are those of the duties that the file is for."""
    served = {name for item in ARTICLES for name in item.provisions}

    assert all(item.provisions and item.shows and item.lacks for item in ARTICLES)
    for article in (10, 11, 12, 18, 19):
        assert any(name.startswith(f"Article {article}(") for name in served)
    for section in (1, 2, 3, 4, 6):
        assert any(name.startswith(f"Annex IV {section}") for name in served)


def test_the_documentation_has_the_same_table() -> None:
    """Row by row."""
    text = DOCUMENT.read_text()

    for item in ARTICLES:
        row = f"| {item.part} | {', '.join(item.provisions)} | {item.shows} | {item.lacks} |"
        assert row in text
    assert all(f"- {item}\n" in text for item in UNCOVERED)
