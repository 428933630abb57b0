"""The main text of a page: in any encoding that it declares, with its headings and the lines of its code."""

import time

import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data.readers import read_documents

WORDS = {
    "iso-8859-2": "Zażółć gęślą jaźń, Łódź leży w środkowej Polsce",
    "windows-1250": "Příliš žluťoučký kůň úpěl ďábelské ódy – a ještě",
    "windows-1251": "Съешь ещё этих мягких французских булок",
    "koi8-r": "Съешь ещё этих мягких французских булок",
    "windows-1253": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "windows-1254": "Pijamalı hasta yağız şoföre çabucak güvendi",
    "iso-8859-8": "דג סקרן שט לו בים זך אך לפתע פגש חבורה",
    "windows-1256": "نص حكيم له سر قاطع وذو شأن عظيم مكتوب",
    "shift_jis": "いろはにほへと散りぬるを、今日も良い天気①",
    "euc-jp": "いろはにほへと散りぬるを、今日も良い天気",
    "iso-2022-jp": "いろはにほへと散りぬるを、今日も良い天気",
    "euc-kr": "다람쥐 헌 쳇바퀴에 타고파, 똠방각하 펲시콜라",
    "gb2312": "视野无限广,窗外有蓝天,朱镕基",
    "gb18030": "视野无限广,窗外有蓝天,𠀀",
    "big5": "視野無限廣,窗外有藍天",
    "iso-8859-1": "Voix ambiguë d’un cœur qui – au zéphyr – préfère",
    "windows-874": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "utf-8": "Zażółć gęślą jaźń и русский",
}
CODECS = {"iso-8859-1": "cp1252", "gb2312": "gbk", "shift_jis": "cp932", "euc-kr": "cp949", "windows-874": "cp874"}
DECLARATIONS = [
    '<!DOCTYPE html><html><head><meta charset="{}"><title>t</title></head>',
    "<html><head><!-- <meta charset='koi8-u'> --><title>t</title>"
    "<META content='text/html; charset={}' http-equiv=Content-Type></head>",
    '<?xml version="1.0" encoding="{}"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>t</title></head>',
]
FOX = "The quick brown fox jumps over the lazy dog number {} and runs along the river until it gets dark in the forest."


def read(path, content, **settings):
    """Text of a page and the messages of its problems."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    ((texts, problems, _),) = read_documents(str(path), "text", ReadingArguments(**settings))
    return texts[0].as_py(), [problem.message.replace(f"`{path}` ", "") for problem in problems.values()]


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=["meta", "http-equiv", "xml"])
@pytest.mark.parametrize("charset", WORDS)
def test_a_page_is_decoded_as_it_declares(charset, declaration, tmp_path):
    """By the names of encodings that browsers know; the option does not count."""
    words = WORDS[charset]
    page = declaration.format(charset) + f"<body><p>{words}</p><p>{words} 2</p></body></html>"
    content = page.encode(CODECS.get(charset, charset))
    assert read(tmp_path / "a.html", content, encoding="cp437") == (f"{words}\n{words} 2", [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_byte_order_mark_counts_more_than_a_declaration(encoding, tmp_path):
    """And so do zero bytes."""
    words = WORDS["iso-8859-2"]
    page = DECLARATIONS[0].format("iso-8859-1") + f"<body><p>{words}</p></body></html>"
    assert read(tmp_path / "a.html", page.encode(encoding)) == (words, [])


def test_a_page_that_declares_nothing_is_in_the_given_encoding(tmp_path):
    """Or in UTF-8, which is also tried where a declaration is wrong."""
    words = WORDS["koi8-r"]
    page = f"<html><head><title>t</title></head><body><p>{words}</p></body></html>"
    assert read(tmp_path / "a.html", page.encode("koi8-r"), encoding="koi8-r") == (words, [])
    assert read(tmp_path / "a.html", page) == (words, [])
    for declared in ("us-ascii", "shift_jis", "utf-16"):
        page = DECLARATIONS[0].format(declared) + f"<body><p>{WORDS['shift_jis']} 木</p></body></html>"
        assert read(tmp_path / "a.html", page) == (f"{WORDS['shift_jis']} 木", [])


def test_a_page_of_no_encoding_is_a_problem(tmp_path):
    """Not a text with replacement characters."""
    page = (DECLARATIONS[0].format("utf-8") + f"<body><p>{FOX} ").encode() + b"\xff\xfe\x81</p></body></html>"
    assert read(tmp_path / "a.html", page)[1][0].startswith("is not UTF-8: give its `--encoding`")


def test_titles_of_docbook_and_lines_of_code_are_kept(tmp_path):
    """Of sections in `div.titlepage`; indentation, blank lines, tabs and columns of `pre`, with elements in it."""
    page = f"""<html><head><title>Manual</title></head><body><div class="navheader"><a href="x">Next</a></div>
<div class="chapter"><div class="titlepage"><div><div><h1 class="title"><a name="a"></a>Chapter of foxes</h1></div>
</div></div><p>{FOX.format(1)}</p>
<div class="section"><div class="titlepage"><div><div><h2 class="title" style="clear: both">Section of dogs</h2></div>
</div></div><p>{FOX.format(2)}</p><pre class="programlisting">
def <b>f</b>(x):
    if x:
\treturn 1

    return  2</pre><p>{FOX.format(3)}</p><pre>one<br>  two</pre><p>{FOX.format(4)}</p></div></div></body></html>"""
    code = "def f(x):\n    if x:\n\treturn 1\n\n    return  2"
    text, problems = read(tmp_path / "a.html", page)
    lines = ["Chapter of foxes", FOX.format(1), "Section of dogs", FOX.format(2), code, FOX.format(3), "one\n  two"]
    expected = "\n".join([*lines, FOX.format(4)])
    assert [line.rstrip(" ") for line in text.split("\n")] == expected.split("\n") and not problems


def test_a_function_of_gtk_doc_keeps_its_headings(tmp_path):
    """Whose titles are in a table."""
    page = f"""<html><body><div class="refentry"><a name="top"></a><div class="titlepage"></div>
<div class="refnamediv"><table width="100%"><tr><td valign="top"><h2><span class="refentrytitle">Fox parser</span></h2>
<p>Fox parser — {FOX.format(1)}</p></td></tr></table></div>
<div class="refsect1"><h2>Description</h2><p>{FOX.format(2)}</p></div>
<div class="refsect1"><h2>Functions</h2><div class="refsect2"><h3>fox_new ()</h3>
<pre class="programlisting">Fox *\nfox_new (int  legs);</pre><p>{FOX.format(3)}</p></div></div></div></body></html>"""
    text, _ = read(tmp_path / "a.html", page)
    positions = [text.find(part) for part in ("Fox parser", "Description", "fox_new ()", "Fox *\nfox_new (")]
    assert -1 not in positions and positions == sorted(positions)


def test_a_page_without_a_main_text_is_an_empty_text(tmp_path):
    """It is dropped with its reason, and does not end a run over thousands of pages."""
    assert read(tmp_path / "a.html", "<html><body><img src='x'></body></html>") == ("", [])


def test_tags_that_old_pages_do_not_close_lose_no_text(tmp_path):
    """libxml2 leaves out what is deeper than 256 elements, without an exception; other elements are refused."""
    body = "".join(f"<font size=2><b>{FOX.format(number)}<br>" for number in range(300))
    text, _ = read(tmp_path / "a.html", f"<html><body>{body}</body></html>")
    assert FOX.format(0) in text and FOX.format(299) in text
    page = f"<html><body>{'<div>' * 300}<p>{FOX}</p></body></html>"
    _, problems = read(tmp_path / "a.html", page)
    assert problems == ["has elements that are nested too deeply: close or remove them"]


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 20_000,
        "<div " + " ".join(f"a{number}=1" for number in range(15_000)) + ">",
        "<form>x" * 14_000,
        '<div class="titlepage"><h2>x</h2></div>' * 2_500,
        "<" * 100_000,
        "<!--" * 25_000,
        "<meta " * 17_000,
    ],
    ids=["nested", "attributes", "forms", "titles", "brackets", "comments", "declarations"],
)
def test_no_page_takes_long(page, tmp_path):
    """100 kB of each of these take a second or two at most, where some took half a minute."""
    begin = time.process_time()
    read(tmp_path / "a.html", f"<html><body><p>{FOX}</p>{page}")
    assert time.process_time() - begin < 15
