"""Read the text of PDF and Word documents, by packages of the extra `documents`."""

import importlib.util
import io
import zipfile
from collections.abc import Iterator

import pyarrow as pa

from hf_llm.data.byte_streams import BadFile, Batch, Columns, FileStream, Problem
from hf_llm.limits import limited_time

PACKAGES = {".pdf": "pypdf", ".docx": "docx"}
DOCUMENT_SECONDS = 60
SECONDS_PER_MEGABYTE = 10
SCANNED = "pages without text, as of a scan: recognize it, e.g. by `ocrmypdf FILE FILE`"
REMEDY = "`pip install 'hf_llm[documents]'` reads it"


def needs_package(extension: str) -> bool:
    """Return whether the package that reads this format is not installed."""
    return extension in PACKAGES and not importlib.util.find_spec(PACKAGES[extension])


def read_pdf(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read the text of a PDF document, its pages joined by empty lines; a scanned one, without text, is left out."""
    content = read_document(stream, ".pdf")
    if not content:
        return
    import pypdf

    with limited_time(seconds_for(content)):
        document = pypdf.PdfReader(io.BytesIO(content))
        if document.is_encrypted and not document.decrypt(""):
            raise BadFile(f"`{stream.name}` is encrypted: save it without a password")
        pages = [page.extract_text() for page in document.pages]
    text = "\n\n".join(filter(None, map(str.strip, pages)))
    if text:
        yield pa.array([text]), {}
    else:
        yield pa.array([None], pa.string()), {0: Problem(SCANNED, stream.size, True, stream.name)}


def read_docx(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read the paragraphs and tables of a Word document in their order: a line each, and a table's cells with tabs."""
    content = read_document(stream, ".docx")
    if not content:
        return
    import docx
    from docx.table import Table, _Cell

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > stream.limit:
            raise BadFile(f"`{stream.name}` {stream.too_long()}")
    lines = []
    with limited_time(seconds_for(content)):
        for block in docx.Document(io.BytesIO(content)).iter_inner_content():
            if isinstance(block, Table):  # not `row.cells`: it repeats merged cells, as often as a file says
                rows = [[_Cell(cell, block).text for cell in row._tr.tc_lst] for row in block.rows]
                lines += map("\t".join, rows)
            else:
                lines.append(block.text)
    yield pa.array(["\n".join(lines).strip()]), {}


def seconds_for(content: bytes) -> float:
    """Return how many CPU seconds a document may take; a malicious one may have no end."""
    return DOCUMENT_SECONDS + SECONDS_PER_MEGABYTE * len(content) / 1e6


def read_document(stream: FileStream, extension: str) -> bytes:
    """Read the bytes of a document.

    Raises:
        BadFile: it cannot be read, or the package for its format is not installed.
    """
    if needs_package(extension):
        raise BadFile(f"`{stream.name}` needs the package {PACKAGES[extension]}: {REMEDY}")
    content = stream.join(stream.read_bytes())
    if not content:
        stream.check_not_empty()
    return content
