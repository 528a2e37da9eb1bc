"""The page of a case file, as a parser of HTML finds it."""

from dataclasses import replace
from html.parser import HTMLParser

from node.case.contents import Case, contents
from node.case.page import write_page
from tests.node.case.made import titled
from tests.node.network import HOSPITALS

VOID = {"meta", "br", "line", "circle", "rect", "polyline"}


class Reader(HTMLParser):
    """Elements as they open, each with its attributes; those left open at the end."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Elements close in the order in which they were opened."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note what is read."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """All that is read."""
        return " ".join(" ".join(self.words).split())


def read(case: Case) -> Reader:
    """The case's page."""
    return Reader(write_page(contents(case)))


def test_the_page_is_well_formed_and_loads_nothing(case: Case) -> None:
    """No scripts, no links to elsewhere: it reads the same from any file."""
    page = read(case)

    assert page.open == []
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on") or name == "src"}
        assert (attributes.get("href") or "#").startswith("#")


def test_a_strangers_words_are_text_and_nothing_else(case: Case) -> None:
    """A title with markup in it is shown as it is."""
    title = "<script>alert(1)</script> & \"quoted\" 'too'"

    page = read(titled(case, title))

    assert "script" not in {tag for tag, _ in page.elements}
    assert title in page.text


def test_a_strangers_words_do_not_turn_the_words_beside_them(case: Case) -> None:
    """Whatever direction they are written in, or say that they are, ends with them."""
    title = "\u202egoog \u2066x"

    page = write_page(contents(titled(case, title))).decode()

    assert title in page
    assert page.count(f"<bdi>{title}</bdi>") == page.count(title)


def test_every_table_has_a_caption_and_its_headers_say_what_they_head(case: Case) -> None:
    """A screen reader can find its way."""
    page = read(case)

    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table") > 8
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert all(attributes.get("scope") in {"col", "row"} for attributes in heads)
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert figures
    assert all(item.get("role") == "img" and item.get("aria-label") for item in figures)
    html = next(attributes for tag, attributes in page.elements if tag == "html")
    assert html["lang"] == "en"


def test_each_entry_of_the_contents_leads_to_a_section(case: Case) -> None:
    """And each section is in the contents."""
    page = read(case)

    targets = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    sections = [f"#{attributes['id']}" for tag, attributes in page.elements if tag == "section"]
    assert targets == sections


def test_the_page_says_where_it_does_not_tell_all_batches(case: Case) -> None:
    """The totals are of all."""
    fewer = replace(case, beside=replace(case.beside, batches=case.beside.batches[1:]))
    said = "There are more batches than one file shows."

    assert said not in read(case).text
    assert said in read(fewer).text


def test_a_marked_version_says_so_first(case: Case) -> None:
    """Above everything else."""
    text = read(case).text

    assert "This version is marked." in text
    assert text.index("This version is marked.") < text.index("Datasets and use conditions")


def test_reasons_of_what_was_not_accepted_are_read_on_the_page(case: Case) -> None:
    """Rejected updates and absent sites with their codes."""
    text = read(case).text

    assert "norm above three times the median" in text
    assert "update.norm" in text
    assert "round.too_few_updates" in text
    assert all(name in text for name in HOSPITALS)


def test_a_version_that_no_task_made_has_a_page_too(case: Case) -> None:
    """Without rounds there is nothing to draw."""
    base = replace(case.lineage, versions=case.lineage.versions[-1:], tasks=(), mark=None)

    page = read(replace(case, lineage=base, beside=replace(case.beside, attested=())))

    assert "it was registered as it is" in page.text
    assert "svg" not in {tag for tag, _ in page.elements}
