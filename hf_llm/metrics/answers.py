"""The answer within a text: what a regular expression matches, or the final number of a solution."""

import re
from collections import deque

from hf_llm.limits import limited_time
from hf_llm.messages import one_line

MAX_SECONDS = 5  # of CPU time for one text: some expressions take endless time
NUMBER = "number"  # instead of an expression
FINAL = "####"  # before the final answer of a solution, in GSM8K
DIGITS = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?:(?<![\w)])-)?\.\d+")


def check_pattern(pattern: str) -> None:
    """Check the expression of `--answer_pattern`.

    Raises:
        ValueError: it is not valid.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`--answer_pattern` {pattern}: {one_line(error)}: correct the expression, or give {NUMBER}"
        ) from None


def find_answer(text: str, pattern: str) -> str | None:
    """Find the answer in a text: the last match of a pattern, of which the first group if it has one.

    Args:
        pattern: a regular expression, or `number`: the number after `####`, or else the last number.

    Returns:
        The answer without outer white space, a number without separators of thousands; None: there is none.

    Raises:
        ValueError: the expression takes too much time.

    Example:
        >>> find_answer("3 + 4 = 7 eggs, so (B).", r"\\(([A-D])\\)"), find_answer("It costs $1,200.50.", "number")
        ('B', '1200.5')
    """
    if pattern == NUMBER:
        _, found, final = text.rpartition(FINAL)
        number = (DIGITS.search(final) if found else None) or last_match(DIGITS, text)
        return plain_number(number[0]) if number else None
    try:
        with limited_time(MAX_SECONDS):
            match = last_match(re.compile(pattern), text)
    except TimeoutError as error:
        raise ValueError(f"`--answer_pattern` {pattern}: {error}: give a simpler expression") from None
    if match is None:
        return None
    return (next((group for group in match.groups() if group is not None), match[0])).strip()


def gold_answers(texts: list[str], pattern: str) -> list[str]:
    """Find the answer in each gold text; without a pattern, it is the text.

    Raises:
        ValueError: there is none in one of them, or as `find_answer`.
    """
    answers = [(find_answer(text, pattern) or "") if pattern else text for text in texts]
    if pattern and "" in answers:
        raise ValueError(
            f"`--answer_pattern` {pattern} finds no answer in the gold answer {texts[answers.index('')][-60:]!r}: "
            "correct the pattern, or remove the row"
        )
    return answers


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last of the matches of a pattern in a text that do not overlap."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def plain_number(text: str) -> str:
    """A number in one form.

    Example:
        >>> plain_number("1,200.50"), plain_number("-3.0"), plain_number("007")
        ('1200.5', '-3', '7')
    """
    whole, _, fraction = text.replace(",", "").partition(".")
    sign, digits, fraction = "-" * whole.startswith("-"), whole.lstrip("-").lstrip("0") or "0", fraction.rstrip("0")
    number = digits + "." * bool(fraction) + fraction
    return number if number == "0" else sign + number
