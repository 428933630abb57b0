"""Read the main text of HTML pages."""

from collections.abc import Iterator

import pyarrow as pa

from hf_llm.data.byte_streams import BadFile, Batch, FileStream


def read_html(stream: FileStream, column: str | None) -> Iterator[Batch]:
    """Read the main text of a page, without menus and the like."""
    import trafilatura  # takes a second

    content = stream.join(stream.read_bytes())
    if not content:
        stream.check_not_empty()
        return
    text = trafilatura.extract(content, include_comments=False)
    if not text:
        raise BadFile(f"`{stream.name}` has no main text")
    yield pa.array([text]), {}
