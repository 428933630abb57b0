"""Read the main text of HTML pages: decode them as they declare, and find the text by trafilatura."""

import codecs
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import webencodings
from lxml.etree import strip_tags

from hf_llm.data.byte_streams import BadFile, Batch, Columns, FileStream, detect_encoding

DECLARATION_BYTES = 4096  # at the start of a page, where it may declare its encoding
COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
DECLARATION = re.compile(
    rb"""\A\s*<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([^\s"'>]{1,40})"""
    rb"""|<meta\s[^>]{0,500}?charset\s*=\s*["']?\s*([^\s"'/>;]{1,40})""",
    re.IGNORECASE,
)
QUOTED = re.compile(r"""=\s*(?:"[^"]*"|'[^']*')""")  # the value of an attribute
LONG_TAG = re.compile(r"<[a-zA-Z][^<>]{5000,}")
INLINE_TAG = re.compile(r"</?(?:a|b|big|center|em|font|i|small|span|strong|tt|u)\b[^<>]*>", re.IGNORECASE)
MAX_ATTRIBUTES = 2_000
MAX_PARAGRAPHS = 3_000
WHITE_SPACE = re.compile("[\n\t]|  +|\\A | \\Z")  # of code, other than between words
LINEAR_B = range(0x10080, 0x100FB)  # ideograms; some that a page does not have replace its white space


def read_html(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read the main text of a page, without menus and the like; it is empty where there is nothing else."""
    content = stream.join(stream.read_bytes())
    if not content:
        stream.check_not_empty()
        return
    page = decode_page(stream, content)
    try:
        text = main_text(page)
    except ValueError as error:
        raise BadFile(f"`{stream.name}` {error}") from None
    yield pa.array([text or ""]), {}


def decode_page(stream: FileStream, content: bytes) -> str:
    """Decode a page by its byte order mark or the encoding that it declares, else by `--encoding` or by a guess.

    UTF-8 is tried as well, because many pages declare an encoding that they do not have.

    Raises:
        BadFile: it has bytes of another encoding.
    """
    from trafilatura.utils import detect_encoding as guess_encodings  # takes a second

    declared = detect_encoding(content[:DECLARATION_BYTES]) or declared_encoding(content[:DECLARATION_BYTES])
    stream.encoding = declared or stream.encoding
    for encoding in (stream.encoding, "utf-8", *([] if declared else guess_encodings(content))):
        try:
            return content.decode(encoding).removeprefix("\ufeff")
        except (LookupError, UnicodeDecodeError):  # LookupError: a guess that Python does not know
            continue
    raise BadFile(stream.undecodable(f"`{stream.name}`"))


def declared_encoding(head: bytes) -> str | None:
    """Return the codec for the encoding that a page declares, as browsers understand its name."""
    declaration = DECLARATION.search(COMMENT.sub(b"", head))
    if not declaration:
        return None
    name = (declaration[1] or declaration[2]).decode("latin-1")
    encoding = webencodings.lookup(name)
    if encoding is None or encoding.name == "replacement":  # browsers do not read it any more
        try:
            "a".encode(name)
        except (LookupError, UnicodeError):
            return None
        return codecs.lookup(name).name
    if encoding.name.startswith("utf-16"):
        return "utf-8"  # the declaration itself is not in UTF-16
    return {"gbk": "gb18030", "x-user-defined": "cp1252"}.get(encoding.name, encoding.codec_info.name)


def main_text(page: str) -> str | None:
    """Return the main text of a page, with the titles of DocBook's sections and the lines of `pre` elements.

    Raises:
        ValueError: it has too many attributes in an element, or elements in elements.
    """
    import trafilatura
    from justext.core import PARAGRAPH_TAGS

    tree = parse_page(page)
    if tree is None:
        return None
    keep_titles(tree)
    line, space, tab = [chr(code) for code in LINEAR_B if chr(code) not in page][:3]
    marks = {"\n": line, "\t": tab, " ": space}
    for element in list(tree.iter("pre")):
        for line_break in element.iter("br"):
            line_break.tail = "\n" + (line_break.tail or "")
        text, tail = element.text_content().strip("\n"), element.tail
        element.clear()
        element.tag, element.tail = "p", tail
        element.text = WHITE_SPACE.sub(lambda found: "".join(marks[character] for character in found[0]), text)
    # The time of justext, which trafilatura asks for a second opinion, grows with the square of their number.
    is_large = sum(1 for _ in tree.iter(*PARAGRAPH_TAGS)) > MAX_PARAGRAPHS
    text = trafilatura.extract(tree, include_comments=False, fast=is_large)
    return text and text.translate({ord(mark): character for character, mark in marks.items()})


def parse_page(page: str) -> Any:
    """Parse a page; None if it is not HTML.

    Raises:
        ValueError: as `main_text`: libxml2 leaves out what is too deep, and takes time for each pair of attributes.
    """
    from trafilatura.utils import HTML_PARSER, load_html

    if any(len(tag.split()) > MAX_ATTRIBUTES for tag in LONG_TAG.findall(QUOTED.sub("=", page))):
        raise ValueError(f"has an element with more than {MAX_ATTRIBUTES:,} attributes: remove it")
    tree = load_html(page)
    if is_cut(HTML_PARSER):
        tree = load_html(INLINE_TAG.sub("", page))  # those that old pages do not close
    if is_cut(HTML_PARSER):
        raise ValueError("has elements that are nested too deeply: close or remove them")
    return tree


def is_cut(parser: Any) -> bool:
    """Return whether the parser has left out the end of the last page."""
    return any(entry.level_name == "FATAL" for entry in parser.error_log)


def keep_titles(tree: Any) -> None:
    """Make an article of a page of DocBook or gtk-doc, where trafilatura finds no headings.

    Example:
        `<div class="chapter"><div class="titlepage"><div><h2>` becomes `<article class="chapter"><section><h2>`.
    """
    pages = tree.xpath("//div[@class='titlepage']")
    parent = pages[0].getparent() if pages else None
    if parent is not None and parent.tag == "div":
        parent.tag = "article"
    for page in pages:
        page.attrib.clear()
        page.tag = "section"
        strip_tags(page, "div")
