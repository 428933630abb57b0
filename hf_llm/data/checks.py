"""Look at files before they are read, so that all that are unreadable are named at once."""

from collections.abc import Iterable

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import BadFile
from hf_llm.data.readers import read_documents, read_rows


def check_files(paths: Iterable[str], column: str | None, reading: ReadingArguments) -> dict[str, str]:
    """Read the beginning of each file.

    Args:
        column: the column that each file must have. Default: any.

    Returns:
        The problem of each file that cannot be read, that is empty or that has no such column, by its path.
    """
    problems = {}
    for path in paths:
        try:
            if column is None:
                next(read_rows(path, reading))
                continue
            _, found = next(read_documents(path, column, reading))
            problems.update((path, problem.message) for problem in found.values() if problem.is_file)
        except BadFile as error:
            problems[path] = str(error)
    return problems
