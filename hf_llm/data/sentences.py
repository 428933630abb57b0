"""Columns of texts that are lists of sentences, or dictionaries of titles and texts, as texts."""

from typing import Any

from datasets import Dataset

from hf_llm.data.arrow import column as column_of
from hf_llm.messages import ORIGIN

# Names that dictionaries of texts have for them: HotpotQA, MS MARCO, PubMedQA, NarrativeQA.
BODIES = ("sentences", "passage_text", "paragraph_text", "contexts", "text", "content")


def join_sentences(rows: Dataset, column: str, split: str, optional: bool) -> Dataset:
    """Join lists of sentences to texts, in a column of texts.

    Raises:
        ValueError: a value is not text; the message has the row's origin.
    """
    has_strings = getattr(rows.features[column], "dtype", None) in ("string", "large_string")
    if has_strings and (optional or not column_of(rows, column).null_count):
        return rows  # the usual case: millions of texts stay on the disk
    texts = [join_texts(value) for value in rows[column][:]]
    for number, text in enumerate(texts):
        if text is None and not (optional and rows[number][column] is None):
            origin = rows[number].get(ORIGIN, f"`{split}` row {number}")
            raise ValueError(f"{origin}: `{column}` is `{rows[number][column]}`, not text: correct or remove the row")
    return rows.remove_columns(column).add_column(column, texts)  # pyright: ignore[reportCallIssue]


def join_texts(value: Any) -> str | None:
    """Join a text, a list of texts, or a dictionary with them; None if it is something else.

    Example:
        >>> join_texts({"title": ["Rain", "Sun"], "sentences": [["It rained.", "All day."], ["It shone."]]})
        'Rain: It rained. All day.\\nSun: It shone.'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [join_texts(item) for item in value]
        separator = "\n" if any(isinstance(item, dict) for item in value) else " "
        return separator.join(text for text in texts if text is not None) if None not in texts else None
    if not isinstance(value, dict):
        return None
    titles, body = value.get("title"), next((value[name] for name in BODIES if name in value), None)
    if not (isinstance(titles, list) and isinstance(body, list) and len(titles) == len(body)):
        text = join_texts(body)
        return f"{titles}: {text}" if text and isinstance(titles, str) else text
    texts = [join_texts(item) for item in body]
    lines = [f"{title}: {text}" for title, text in zip(titles, texts, strict=True)]
    return "\n".join(lines) if None not in texts else None


def text_size(value: Any) -> int:
    """Count the characters of all texts in a value, which may be a list or a dictionary."""
    if isinstance(value, str):
        return len(value)
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return sum(map(text_size, values))
