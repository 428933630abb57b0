"""Look at files before they are read, so that all unreadable ones are named together."""

import logging
from collections.abc import Sequence

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import BadFile, FileStream, NoColumn
from hf_llm.data.columns import field_names, has_field
from hf_llm.data.formats import decode_document, find_reader, is_archive, is_document, read_txt
from hf_llm.data.found import SourceFile
from hf_llm.data.readers import check_columns, no_column, read_batches
from hf_llm.messages import printable

logger = logging.getLogger(__name__)

FIRST_BYTES = 1 << 20  # of a file that are looked at


def check_files(files: Sequence[SourceFile], column: str | None, reading: ReadingArguments) -> dict[str, str]:
    """Read the beginning of each file. Well-formed files without rows are counted in a log message.

    Args:
        column: the column that each file must have unless its argument names another one. Default: any.

    Returns:
        The problem of each file that cannot be read, that is empty or that has no such column, by its path.
    """
    problems, without_rows = {}, []
    for file in files:
        try:
            if not has_rows(FileStream(file.path, reading, FIRST_BYTES), column and (file.column or column)):
                without_rows.append(printable(file.path))
        except BadFile as error:
            problems[file.path] = str(error)
    if without_rows:
        names = ", ".join(without_rows[:3]) + ", ..." * (len(without_rows) > 3)
        logger.info(f"{len(without_rows)} of {len(files)} files are well-formed but have no rows: {names}")
    return problems


def refuse_bad_files(
    files: Sequence[SourceFile], column: str | None, reading: ReadingArguments, hint: str = ""
) -> None:
    """Look at files as `check_files` does, and report all problems.

    Args:
        hint: the end of the message, with another remedy.

    Raises:
        ValueError: there is one, with its message; or there are several, which are in the log.
    """
    problems = check_files(files, column, reading)
    if len(problems) > 1:
        for problem in problems.values():
            logger.error(problem)
        remedy = "correct them, or name only the others"
        raise ValueError(
            f"{len(problems)} of {len(files)} files cannot be read, each for the reason above: {remedy}{hint}"
        )
    for problem in problems.values():
        raise ValueError(problem + hint)


def refuse_missing_columns(
    argument: str, columns: Sequence[str], files: Sequence[SourceFile], reading: ReadingArguments
) -> None:
    """Check that each of some columns is in one of the files: among the rows of its first MiB, of an archive of all.

    Args:
        argument: the flag that names the columns.

    Raises:
        ValueError: one of them is in no file.
    """
    missing, names = [*columns], {}
    for file in files:
        if not missing:
            return
        stream = FileStream(file.path, reading, FIRST_BYTES)
        try:
            check_columns(stream)
            for rows, _, _ in read_batches(stream, None):
                found = [row for row in rows if row]
                missing = [name for name in missing if not any(has_field(row, name) for row in found)]
                names |= dict.fromkeys(name for row in found for name in field_names(row))
                if found and stream.position >= FIRST_BYTES and not is_archive(file.path):
                    break
        except BadFile:  # reported when it is read
            continue
    if missing:
        known = f", only {', '.join(names)}: choose among these" if names else ": leave it out"
        raise ValueError(f"`{argument}` {printable(missing[0])}: no file has this column in its first rows{known}")


def has_rows(stream: FileStream, column: str | None) -> bool:
    """Return whether a file has rows.

    Raises:
        BadFile: it cannot be read, it is empty, or its first rows have no such column.
    """
    extensions = stream.reading.text_extensions
    if column is None:
        check_columns(stream)
    elif is_document(stream.path, extensions):
        is_text = find_reader(stream.path, extensions) is read_txt
        content = next(stream.read_text() if is_text else stream.read_bytes(), b"")
        stream.check_complete()
        if not content:
            stream.check_not_empty()
        elif not is_text:
            stream.check_format()
        else:
            decode_document(stream, content, is_complete=False)
        return bool(content)
    for texts, problems, _ in read_batches(stream, column):
        first = problems.get(0)
        if first and first.left_out:
            continue
        if first and first.is_file:
            raise BadFile(first.message)
        if isinstance(first, NoColumn) and texts.null_count == len(texts):
            raise no_column(stream, first.message)
        if len(texts):
            return True
    return False
