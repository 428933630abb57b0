"""Pages and the same content in Markdown."""

from html.parser import HTMLParser

from hf_llm.publishing.page import Highlights, Picture, Section, Table, Text, Texts, write_markdown, write_page
from hf_llm.publishing.plots import draw_curve

HOSTILE = "<img src=http://x.example/a onerror=alert(1)>"
VOID = {"meta", "link"}  # elements without an end


class Checker(HTMLParser):
    """Collects what a browser would load, and checks that elements are closed in their order and ids differ."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.loaded, self.ids, self.tags, self.text = [], [], [], set(), ""
        self.feed(page)
        assert not self.open
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        names = dict(attrs)
        assert len(names) == len(attrs), f"an attribute of {tag} is there twice"
        self.ids += [names["id"]] if "id" in names else []
        self.loaded += [value for name, value in attrs if name in ("src", "href") and value[0] != "#"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def sections():
    curve = draw_curve("loss", {HOSTILE: [{"step": 1, "loss": 2.0}], "b": [{"step": 1, "loss": 3.0}]})
    return [
        Section("", [Highlights({"loss": 2.0, HOSTILE: HOSTILE}, {"loss": "1 to 3"})]),
        Section(HOSTILE, [Text(f"`a` {HOSTILE}", "good"), Picture(curve, "loss", HOSTILE, HOSTILE)]),
        Section("Numbers", [Table(["name|", "rows"], [[HOSTILE, 12345], ["a|b", None]]), Table.of({"lr": 1e-4})]),
        Section("Texts", [Texts([{"prompt": HOSTILE, "model": "a\n\x1b[31mb"}])], folded=True),
    ]


def test_a_page_is_one_file_of_well_formed_html(tmp_path):
    """Elements are closed, ids differ, nothing is loaded, and whatever looks like HTML is shown as text."""
    write_page(tmp_path / "page.html", HOSTILE, HOSTILE, sections())
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    checker = Checker(page)
    assert checker.loaded == ["data:,"]  # the icon, which browsers ask for otherwise
    assert {"svg", "table", "details", "dl"} <= checker.tags and not {"img", "script"} & checker.tags
    assert checker.text.count(HOSTILE) >= 8
    assert "12,345" in page and "<code>a</code>" in page and "\x1b" not in page and "url(http" not in page


def test_the_same_content_is_written_as_markdown(tmp_path):
    """Tables, pictures and texts are there, and neither HTML nor a bar in a cell is obeyed."""
    write_markdown(tmp_path / "page.md", "My run", "Better.", sections(), pictures="shown")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert text.startswith("# My run\n\nBetter.\n") and "](shown/loss.png)" in text
    assert (tmp_path / "shown" / "loss.png").is_file()
    assert "| name\\| | rows |\n| --- | ---: |\n" in text and "| a\\|b |  |" in text
    assert "    a\n" in text and "<img" not in text.replace(f"    {HOSTILE}", "")
