"""Sizes of a text that bits per byte need: documents, bytes, and what zlib makes of them."""

import zlib
from collections.abc import Iterable

import pyarrow.compute as pc
from datasets import Dataset

from hf_llm.data.arrow import column


def text_figures(documents: Dataset, rows: Dataset) -> dict[str, float]:
    """What bits per byte need to know of a text and its packed rows.

    Args:
        documents: rows `{"text": str}`.
        rows: the rows that `pack` returns for it.

    Returns:
        `documents`, `bytes` (UTF-8), `pieces` (into which the rows cut the documents), `zlib_bits_per_byte`.
    """
    texts = column(documents, "text")
    return {
        "documents": len(documents),
        "bytes": pc.sum(pc.binary_length(texts)).as_py(),
        "pieces": pc.sum(pc.list_value_length(column(rows, "lengths"))).as_py(),
        "zlib_bits_per_byte": zlib_bits_per_byte(text.as_py() for text in texts),
    }


def zlib_bits_per_byte(texts: Iterable[str]) -> float:
    """Compute the bits per UTF-8 byte of the texts, compressed one after another by zlib level 9."""
    compressor = zlib.compressobj(9)
    num_bytes = compressed = 0
    for text in texts:
        data = text.encode()
        num_bytes += len(data)
        compressed += len(compressor.compress(data))
    return 8 * (compressed + len(compressor.flush())) / num_bytes
