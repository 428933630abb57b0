"""Errors end a recipe in one line, with their origin and without secrets; figures are formatted for a reader."""

import pytest

from hf_llm.messages import (
    MAX_ERROR_CHARACTERS,
    ORIGIN,
    add_origin,
    format_table,
    format_value,
    one_line,
    report_errors,
)


@pytest.mark.parametrize(
    "error, status",
    [
        (ValueError("bad\n  input"), 2),
        (FloatingPointError("bad\n  input"), 1),
        (ConnectionError("bad\n  input"), 1),
    ],
)
def test_bad_input_ends_in_one_line_without_a_traceback(error, status, capsys, monkeypatch):
    """With status 2 for bad input, 1 for other errors; `HF_LLM_TRACEBACK=1` shows the traceback."""
    with pytest.raises(SystemExit) as stopped, report_errors():
        raise error
    assert stopped.value.code == status
    assert capsys.readouterr().err == "error: bad input\n"
    monkeypatch.setenv("HF_LLM_TRACEBACK", "1")
    with pytest.raises(type(error)), report_errors():
        raise error


def test_an_interrupted_recipe_says_how_to_resume(capsys):
    """With the status that a shell gives to Ctrl-C."""
    with pytest.raises(SystemExit) as stopped, report_errors():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert "`--resume_from_checkpoint true` resumes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "ranks, shown", [({"RANK": "1", "LOCAL_RANK": "1"}, False), ({"RANK": "4", "LOCAL_RANK": "0"}, True)]
)
def test_one_rank_of_each_machine_reports_an_error(ranks, shown, capsys, monkeypatch):
    """And an error of a single rank is reported by that rank."""
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    error = ValueError("bad input")
    for expected in (shown, True):
        with pytest.raises(SystemExit), report_errors():
            raise error
        assert capsys.readouterr().err == "error: bad input\n" * expected
        error.of_one_rank = True


def test_messages_of_other_libraries_are_shortened_to_one_line_without_secrets():
    """A URL loses its user, password and query; a message is cut at a word; an error without one has its class."""
    error = OSError("cannot open\n  s3://me:pass@host/a.txt?signature=abc, see https://host/help#part")
    assert one_line(error) == "cannot open s3://host/a.txt see https://host/help"
    assert one_line(ValueError("/data/a.csv: bad"), "/data/a.csv") == "the file: bad"
    assert one_line(KeyError()) == "KeyError"
    long = one_line(ValueError("word " * 100))
    assert len(long) <= MAX_ERROR_CHARACTERS and long.endswith("word...")


def test_an_error_in_a_row_begins_with_its_origin():
    """Its file and line, or a default."""
    for row, origin in (({ORIGIN: "`a.csv` line 3"}, "`a.csv` line 3"), ({}, "row 7")):
        with pytest.raises(ValueError, match=f"^{origin}: no text"), add_origin(row, "row 7"):
            raise ValueError("no text")


@pytest.mark.parametrize(
    "value, shown",
    [(1234567, "1,234,567"), (12345.6, "12,346"), (3.14159, "3.142"), (0.000123456, "0.0001235"), ("text", "text")],
)
def test_figures_have_four_significant_digits(value, shown):
    """Integers and floats above 1,000 have all digits before the point, with commas between thousands."""
    assert format_value(value) == shown


def test_a_table_is_aligned():
    """Names on the left, values on the right."""
    assert format_table({"perplexity": 12.5, "tokens": 1000}) == "perplexity   12.5\ntokens      1,000"
