"""What a user reads on the terminal: log messages, progress bars, errors in one line."""

import contextlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping
from functools import partialmethod
from typing import Any, NoReturn

from hf_llm.files import describe_full_disk

MAX_ERROR_CHARACTERS = 300  # of another library's message
MAX_LINE_CHARACTERS = 10_000  # of our own, which may list several problems
MAX_WORD_CHARACTERS = 1_000
MAX_LOG_CHARACTERS = 100_000
PEER_ENDED = "Connection closed by peer"  # in gloo's errors
ORIGIN = "_origin"  # column with the file and line of a row, for error messages
# What a terminal obeys or cannot show: control characters other than tab and line end, marks that reverse the order of
# the text after them, and surrogates, which Python keeps from file names that are not UTF-8.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ADDRESS = re.compile(r"(?<=://)(?:[^\s'\"<>`]|['\"`](?=[^\s'\"<>`/]*@))+")  # a quotation mark may be in a password
USER_AND_PASSWORD = re.compile(r"[^/?#@:]*:(?!\d{1,5}(?:[/?#]|$))[^@]*@|[^/?#@]*@")
# Values with the name of a secret (`name=value`, `name%3Dvalue`, `"name": "value"`) or with the form of one.
SECRET = re.compile(
    r"""(?ix)
    (?P<name> (?: token | secret(?:[-_]?key)? | passw(?:or)?d | passphrase | \bpwd | signature | \bsig | credential
    | (?:api|access|private)[-_]?key(?:[-_]?id)? | \bkey ) (?: = | %3D | ["']\s?:\s?(?=["']) ) ["']?
    | authorization["']?\s?[:=]\s?["']?(?:bearer\s|basic\s)? | \bbearer\s )
    (?! \d+\b | <) [^\s"'`&,;<>]{6,}
    | \b(?: hf_ | gh[opsu]_ | sk- | AKIA )[A-Za-z0-9_-]{8,}"""
)


LAST_LINE_IS_JSON = False  # `--json`


class SafeFormatter(logging.Formatter):
    """Formats log messages, which may quote rows, files and addresses, without secrets or control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return cut(escape_controls(without_secrets(super().format(record))), MAX_LOG_CHARACTERS)


class HandlerAboveBars(logging.StreamHandler):
    """Writes log messages to stderr without breaking the line of a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def set_up_logging() -> None:
    """Write the package's log messages to stderr, and on other ranks than 0 only errors, without progress bars."""
    from tqdm import tqdm

    # A bar that is full within a second tells nothing, and a file needs one state a minute. tqdm reads TQDM_DELAY when
    # it is imported, which was earlier.
    rate = {"delay": 1} if sys.stderr.isatty() else {"delay": 60, "mininterval": 60, "maxinterval": 60}
    tqdm.__init__ = partialmethod(vars(tqdm)["__init__"], **rate)
    if int(os.environ.get("RANK", 0)) > 0:
        disable_progress_bars()
    handler = HandlerAboveBars()
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    # Warnings of PEFT that a user need not act on.
    for message in ("`is_gradient_checkpointing`", "Could not find a config file"):
        warnings.filterwarnings("ignore", message=message)
    package = logging.getLogger("hf_llm")
    package.handlers = [handler]
    package.setLevel(logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.ERROR)


def set_last_line(is_json: bool) -> None:
    """Choose whether the last line of stdout is a JSON object, also after an error."""
    global LAST_LINE_IS_JSON
    LAST_LINE_IS_JSON = is_json


def print_json(**result: Any) -> None:
    """Print the result of a recipe as the last line of stdout on rank 0, if `--json` asks for it; NaN becomes null."""
    if LAST_LINE_IS_JSON and os.environ.get("RANK", "0") == "0":
        finite = json.loads(json.dumps(result, default=float), parse_constant=lambda _: None)
        print(json.dumps(finite, ensure_ascii=False), flush=True)


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
    # `of_one_rank`: set on an error that other ranks may not have: of a stream, or of a full disk.
    if first or getattr(message, "of_one_rank", False):
        line = format_line(str(message))
        print(f"error: {line}", file=sys.stderr, flush=True)
        print_json(error=line)
    sys.exit(status)


@contextlib.contextmanager
def report_errors(resumes: bool = False):
    """Report errors of a recipe in one line on stderr; `HF_LLM_TRACEBACK=1` shows the traceback instead.

    Bad input (`ValueError`, or a package that an option needs) ends the recipe with status 2; a loss that is not
    finite, a full disk or a failed push with status 1; Ctrl-C with 130.

    Args:
        resumes: whether the recipe has `--resume_from_checkpoint`.
    """
    from huggingface_hub.errors import HTTPError

    if os.environ.get("HF_LLM_TRACEBACK"):
        yield
        return
    try:
        yield
    except Exception as error:
        if full_disk := describe_full_disk(error):
            message = OSError(full_disk)
            message.of_one_rank = True
            exit_with_error(message, status=1)
        if isinstance(error, ValueError | ImportError):
            exit_with_error(error, status=2)
        if isinstance(error, HTTPError):
            remedy = "run without `--push_to_hub`, or with another `--hub_model_id` or HF_TOKEN"
            exit_with_error(f"the Hub: {error}: {remedy}", status=1)
        if isinstance(error, FloatingPointError | OSError):
            exit_with_error(error, status=1)
        if isinstance(error, RuntimeError) and PEER_ENDED in str(error):
            exit_with_error("another rank has ended: see its error", status=1)
        raise
    except KeyboardInterrupt:
        remedy = "`--resume_from_checkpoint true` resumes from the newest checkpoint in `--output_dir`, if there is one"
        exit_with_error(f"interrupted; {remedy}" if resumes else "interrupted", status=130)


def one_line(error: BaseException, path: str | None = None) -> str:
    """Shorten the message of another library's error to one line, without the secrets that it may contain.

    Args:
        path: a file that is named next to the message already; in the message it becomes "the file".
    """
    text = str(error) or type(error).__name__
    return format_line(text.replace(path, "the file") if path else text, MAX_ERROR_CHARACTERS)


def format_line(text: str, limit: int = MAX_LINE_CHARACTERS) -> str:
    """Put a text on one line that is safe to show: without secrets and control characters, long words and texts cut."""
    words = without_secrets(" ".join(text.split())).split(" ")
    longest = min(MAX_WORD_CHARACTERS, limit // 2)
    return cut(escape_controls(" ".join(cut(word, longest) for word in words)), limit)


def cut(text: str, limit: int) -> str:
    """Shorten a text to at most `limit` characters: its start, and a fifth for its end, where the remedy is."""
    end = limit // 5
    return text if len(text) <= limit else f"{text[: limit - end - 3]}...{text[-end:]}"


def escape_controls(text: str) -> str:
    """Write the characters that a terminal would obey as escapes, e.g. `\\x1b`; tabs and line ends are kept."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def printable(path: str) -> str:
    """Return a path as it can be printed and stored: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return escape_controls(text.replace("\n", "\\n").replace("\t", "\\t"))


def without_secrets(text: str) -> str:
    """Remove user, password, query and fragment from the URLs in a text, and hide what is named or formed as a secret.

    Example:
        >>> without_secrets("s3://me:pass@host/a?signature=abc with token=abcdefgh")
        's3://host/a with token=[hidden]'
    """
    text = ADDRESS.sub(lambda address: without_user_and_query(address[0]), text)
    return SECRET.sub(lambda secret: f"{secret['name'] or ''}[hidden]", text)


def without_user_and_query(address: str) -> str:
    """Remove user, password, query and fragment from a URL without its scheme: `me:pass@host/a?key=b` -> `host/a`."""
    start = 0
    while user := USER_AND_PASSWORD.match(address, start):
        start = user.end()
    return re.split("[?#]", address[start:], maxsplit=1)[0]


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


def format_interval(value: float, low: float | None, high: float | None) -> str:
    """Format a figure with its interval, if it has one.

    Example:
        >>> format_interval(0.73125, 0.7, 0.76), format_interval(12345.6, None, None)
        ('0.7312 [0.7, 0.76]', '12,346')
    """
    if low is None or high is None:
        return format_value(value)
    return f"{format_value(value)} [{format_value(low)}, {format_value(high)}]"


def format_p_value(value: float) -> str:
    """Format a p-value.

    Example:
        >>> format_p_value(0.01234), format_p_value(0.0002)
        ('p = 0.012', 'p < 0.001')
    """
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def format_duration(seconds: float) -> str:
    """Format a duration as `--time_budget` takes it.

    Example:
        >>> [format_duration(seconds) for seconds in (9.6, 83, 7200)]
        ['10s', '1m23s', '2h']
    """
    whole = max(0, round(seconds))
    if whole >= 3600:
        hours, minutes = divmod(round(whole / 60), 60)
        return f"{hours}h{minutes:02}m" if minutes else f"{hours}h"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02}s" if minutes and rest else f"{minutes}m" if minutes else f"{rest}s"


def format_size(size: float) -> str:
    """Format a number of bytes in the unit in which a person reads it.

    Example:
        >>> format_size(5_900_800)
        '5.9 MB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


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


def format_scores(scores: Mapping[str, float | str]) -> str:
    """Format scores in columns: names, values, 95 % confidence intervals where there are some.

    Example:
        >>> print(format_scores({"loss": 1.5, "bleu": 46.05, "bleu_ci95_low": 41.69, "bleu_ci95_high": 51.28}))
        loss    1.5
        bleu  46.05  [41.69, 51.28]
    """
    shown = [name for name in scores if "_ci95_" not in name]
    values = {name: format_value(scores[name]) for name in shown}
    width = max((len(values[name]) for name in shown if not isinstance(scores[name], str)), default=0)
    lines = []
    for name in shown:
        bounds = [
            format_value(scores[f"{name}_ci95_{end}"]) for end in ("low", "high") if f"{name}_ci95_{end}" in scores
        ]
        line = f"{name:<{max(map(len, shown))}}  {values[name]:>{width}}"
        lines.append(line + (f"  [{', '.join(bounds)}]" if bounds else ""))
    return "\n".join(lines)
