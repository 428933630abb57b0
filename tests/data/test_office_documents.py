"""The text of PDF and Word documents."""

from concurrent.futures import ThreadPoolExecutor

import docx
import pypdf
import pytest
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from hf_llm.arguments import ReadingArguments
from hf_llm.data import office_documents
from hf_llm.data.byte_streams import BadFile
from hf_llm.data.locations import find_files
from hf_llm.data.readers import read_texts


def texts(path):
    return [text for batch in read_texts(str(path), "text", ReadingArguments()) for text in batch.to_pylist()]


def write_pdf(path, pages, password=None):
    """Write a PDF document with a line of text on each page."""
    writer = pypdf.PdfWriter()
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(key): NameObject(value) for key, value in font.items()})
    for text in pages:
        page, content = writer.add_blank_page(300, 300), DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(content)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(path)


def write_docx(path):
    document = docx.Document()
    document.add_heading("A title")
    document.add_paragraph("One paragraph.")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    document.add_paragraph("The end.")
    document.save(path)


def test_documents_are_one_text(tmp_path):
    """The pages of a PDF, and paragraphs and tables of a Word document in their order."""
    write_pdf(tmp_path / "a.pdf", ["The first page", "The second page"])
    write_docx(tmp_path / "a.docx")
    assert texts(tmp_path / "a.pdf") == ["The first page\n\nThe second page"]
    assert texts(tmp_path / "a.docx") == ["A title\nOne paragraph.\na\tb\nThe end."]


def test_what_is_wrong_with_a_document_is_one_line(tmp_path):
    """Damage, a password, and an empty file."""
    write_pdf(tmp_path / "a.pdf", ["secret"], password="x")
    write_docx(tmp_path / "a.docx")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7 damaged")
    (tmp_path / "b.docx").write_bytes((tmp_path / "a.docx").read_bytes()[:500])
    (tmp_path / "c.pdf").write_bytes(b"")
    cases = {"a.pdf": "is encrypted", "b.pdf": "cannot be read", "b.docx": "cannot be read", "c.pdf": "is empty"}
    for name, message in cases.items():
        with pytest.raises(BadFile, match=message) as error:
            texts(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_scan_is_named(tmp_path, caplog):
    """It is no document without text: what to do is said, and the other files are read."""
    write_pdf(tmp_path / "a.pdf", ["", ""])
    assert texts(tmp_path / "a.pdf") == []
    assert "left out" in caplog.text and "(pages without text, as of a scan: recognize it" in caplog.text


def test_a_document_without_end_is_one_line(tmp_path, monkeypatch):
    """A few kilobytes that become a page of a hundred thousand operators; also in a thread, as of Daft."""
    write_pdf(tmp_path / "a.pdf", [") Tj (a" * 100_000])
    document = pypdf.PdfWriter(tmp_path / "a.pdf")
    document.pages[0].compress_content_streams()
    document.write(tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").stat().st_size < 5000
    monkeypatch.setattr(office_documents, "DOCUMENT_SECONDS", 0.2)
    message = r"a\.pdf` cannot be read: it takes more than 0\.2\d* CPU seconds$"
    with pytest.raises(BadFile, match=message):
        texts(tmp_path / "a.pdf")
    with ThreadPoolExecutor(1) as threads, pytest.raises(BadFile, match=message):
        threads.submit(texts, tmp_path / "a.pdf").result()


def test_merged_cells_are_read_once(tmp_path):
    """However many columns and rows they span."""
    document = docx.Document()
    table = document.add_table(2, 3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(0, 2).merge(table.cell(1, 2)).text = "high"
    table.cell(1, 0).text = "a"
    document.save(tmp_path / "a.docx")
    assert texts(tmp_path / "a.docx") == ["wide\thigh\na"]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    """A document in a folder is left out, one that is named is an error, both with what to install."""
    write_docx(tmp_path / "a.docx")
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(office_documents.importlib.util, "find_spec", lambda name: None)
    ((skipped,), names) = (find_files("--files", [str(tmp_path)]).skipped, None)
    assert names is None and "pip install 'hf_llm[documents]'" in skipped.reason
    with pytest.raises(BadFile, match=r"a\.docx` needs the package docx: `pip install 'hf_llm\[documents\]'` reads it"):
        texts(tmp_path / "a.docx")
