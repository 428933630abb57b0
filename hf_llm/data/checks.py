"""Look at files before they are read, so that all unreadable ones are named together."""

import logging
from collections.abc import Sequence

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import BadFile, FileStream, file_format, missing_column
from hf_llm.data.html_pages import read_html
from hf_llm.data.json_rows import first_names
from hf_llm.data.readers import DOCUMENTS, READERS, check_columns, decode_document, read_batches
from hf_llm.messages import printable

logger = logging.getLogger(__name__)

FIRST_BYTES = 1 << 20  # of a file that are looked at


def check_files(paths: Sequence[str], column: str | None, reading: ReadingArguments) -> dict[str, str]:
    """Read the beginning of each file. Well-formed files without rows are counted in a log message.

    Args:
        column: the column that each file must have. Default: any.

    Returns:
        The problem of each file that cannot be read, that is empty or that has no such column, by its path.
    """
    problems, without_rows = {}, []
    for path in paths:
        try:
            if not has_rows(FileStream(path, reading, FIRST_BYTES), column):
                without_rows.append(printable(path))
        except BadFile as error:
            problems[path] = str(error)
    if without_rows:
        names = ", ".join(without_rows[:3]) + ", ..." * (len(without_rows) > 3)
        logger.info(f"{len(without_rows)} of {len(paths)} files are well-formed but have no rows: {names}")
    return problems


def refuse_bad_files(paths: Sequence[str], column: str | None, reading: ReadingArguments, hint: str = "") -> None:
    """Look at files as `check_files` does, and report all problems.

    Args:
        hint: the end of the message, with another remedy.

    Raises:
        ValueError: there is one, with its message; or there are several, which are in the log.
    """
    problems = check_files(paths, column, reading)
    if len(problems) > 1:
        for problem in problems.values():
            logger.error(problem)
        remedy = "correct them, or name only the others"
        raise ValueError(
            f"{len(problems)} of {len(paths)} files cannot be read, each for the reason above: {remedy}{hint}"
        )
    for problem in problems.values():
        raise ValueError(problem + hint)


def has_rows(stream: FileStream, column: str | None) -> bool:
    """Return whether a file has rows.

    Raises:
        BadFile: it cannot be read, it is empty, or its first rows have no such column.
    """
    extension = file_format(stream.path)[0]
    if column is None:
        check_columns(stream)
    elif extension in DOCUMENTS:
        is_page = READERS[extension] is read_html
        content = next(stream.read_bytes() if is_page else stream.read_text(), b"")
        stream.check_complete()
        if not content:
            stream.check_not_empty()
        elif not is_page:
            decode_document(stream, content, is_complete=False)
        return bool(content)
    for texts, _ in read_batches(stream, column):
        if column and texts.null_count == len(texts):
            names = first_names(stream.path, stream.reading)
            if names and column not in names:
                raise BadFile(missing_column(f"`{stream.name}`", column, names))
        if len(texts):
            return True
    return False
