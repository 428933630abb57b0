"""What a user reads on the terminal: log messages, progress bars, errors in one line."""

import contextlib
import logging
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

MAX_ERROR_CHARACTERS = 300
ORIGIN = "_origin"  # column with the file and line of a row, for error messages


def set_up_logging() -> None:
    """Write the package's log messages to stderr, and on other ranks than 0 only errors, without progress bars."""
    if int(os.environ.get("RANK", 0)) > 0:
        disable_progress_bars()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    # Warnings of PEFT that a user need not act on.
    for message in ("`is_gradient_checkpointing`", "Could not find a config file"):
        warnings.filterwarnings("ignore", message=message)
    package = logging.getLogger("hf_llm")
    package.handlers = [handler]
    package.setLevel(logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.ERROR)


def disable_progress_bars() -> None:
    """Turn off the progress bars of `datasets` and transformers."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def exit_with_error(message: object, status: int) -> NoReturn:
    """Write one line to stderr and exit. The first rank of each machine writes it, or the only rank with the error."""
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", [])):
        bar.close()  # or the message would continue its line
    first = "0" in (os.environ.get("RANK", "0"), os.environ.get("LOCAL_RANK"))
    # `of_one_rank`: set by a stream on an error that other ranks may not have.
    if first or getattr(message, "of_one_rank", False):
        print(f"error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    sys.exit(status)


@contextlib.contextmanager
def report_errors():
    """Report errors of a recipe in one line on stderr; `HF_LLM_TRACEBACK=1` shows the traceback instead.

    Bad input (`ValueError`, or a package that an option needs) ends the recipe with status 2; a loss that is not
    finite, a full disk or a failed push with status 1; Ctrl-C with 130.
    """
    from huggingface_hub.errors import HTTPError

    if os.environ.get("HF_LLM_TRACEBACK"):
        yield
        return
    try:
        yield
    except (ValueError, ImportError) as error:
        exit_with_error(error, status=2)
    except HTTPError as error:
        remedy = "run without `--push_to_hub`, or with another `--hub_model_id` or HF_TOKEN"
        exit_with_error(f"the Hub: {error}: {remedy}", status=1)
    except (FloatingPointError, OSError) as error:
        exit_with_error(error, status=1)
    except KeyboardInterrupt:
        remedy = "`--resume_from_checkpoint true` resumes from a checkpoint in `--output_dir`"
        exit_with_error(f"interrupted; {remedy}", status=130)


def one_line(error: BaseException, path: str | None = None) -> str:
    """Shorten the message of another library's error to one line, without the secrets that a URL may contain.

    Args:
        path: a file that is named next to the message already; in the message it becomes "the file".
    """
    line = " ".join(str(error).split()) or type(error).__name__
    line = line.replace(path, "the file") if path else line
    line = re.sub(r"\w+://[^\s'\"<>]+", lambda address: without_secrets(address[0]), line)
    return textwrap.shorten(line, MAX_ERROR_CHARACTERS, placeholder="...")


def without_secrets(url: str) -> str:
    """Remove user, password, query and fragment from a URL, which may contain secrets."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@contextlib.contextmanager
def add_origin(row: dict[str, Any], default: str = "a row"):
    """Put the origin of a row, its file and line, before the message of a `ValueError`.

    Args:
        default: origin of a row that has none.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{row.get(ORIGIN, default)}: {error}") from None


def format_value(value: float | int | str) -> str:
    """Format a figure for a person: thousands separated by commas, floats with four significant digits."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def format_table(rows: Mapping[str, float | int | str]) -> str:
    """Format names and values as two aligned columns.

    Example:
        >>> print(format_table({"perplexity": 12.5, "tokens": 1000}))
        perplexity   12.5
        tokens      1,000
    """
    values = {name: format_value(value) for name, value in rows.items()}
    names, width = max(map(len, values)), max(map(len, values.values()))
    return "\n".join(f"{name:<{names}}  {value:>{width}}" for name, value in values.items())
